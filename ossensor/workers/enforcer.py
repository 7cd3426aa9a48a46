"""Antigena's enforcer: a shell around antigena/enforcer.py, with the sockets that it was lent.

Invariant: a packet is sent only as the answer to one that was seen on a captured interface while an order concerned its
connection, and never before this life has been told what is to be spared. Orders live here and in the supervisor: they
end by their own expiry, whatever becomes of the vSensor; nothing of them is on a disk, so a sensor that was restarted
ends nothing until it has heard from the vSensor.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ossensor.antigena import filters
from ossensor.antigena.actions import (
    MAX_ACTIONS,
    MAX_ID_CHARACTERS,
    MAX_TIME_S,
    Action,
    ActionError,
    Address,
    Network,
    parse_action,
)
from ossensor.antigena.backlog import newest
from ossensor.antigena.enforcer import Enforcer as Core
from ossensor.antigena.enforcer import Mode, Outgoing, Tally
from ossensor.antigena.guards import Guards, name_servers
from ossensor.antigena.refusals import Refusal
from ossensor.antigena.table import Table
from ossensor.capture.cooked import Sockets, Watch
from ossensor.complaints import Complaints
from ossensor.control import Channel, Parts
from ossensor.errors import Exit
from ossensor.filters import Flow
from ossensor.logs import ANTIGENA, STATS, fields
from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import MalformedError

from .child import HEARTBEAT_S, Heartbeat, Signals

log = logging.getLogger(__name__)

# How old what is said to the vSensor may be, and how late the end of an order.
_LOOK_S: Final = 0.5
_STATS_EVERY_S: Final = 10.0
# Packets of one socket before the others get their turn: all that one has room for, so that the newest are among them.
_AT_A_TIME: Final = 4096
# Of a filter's program, most first: what a socket may hold is net.core.optmem_max, 20 KiB on many hosts.
_LENGTHS: Final = (4096, 1024)
_TROUBLE_CHARACTERS: Final = 512  # what a report takes
# The second is whom systemd-resolved asks, where the first names nobody but itself (systemd-resolved.service(8)).
_RESOLVER_CONFIGURATIONS: Final = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))


@dataclass(frozen=True)
class Plan:
    """What the sensor's owner allows."""

    mode: Mode
    protected: tuple[Network, ...]


class Enforcer:
    """The loop over sockets, channel and signals."""

    def __init__(self, plan: Plan, channel: Channel, sockets: Sockets, heartbeat: Heartbeat) -> None:
        self._channel = channel
        self._sockets = sockets
        self._heartbeat = heartbeat
        self._complaints = Complaints(log)
        self._resolvers = _Resolvers()
        guards = Guards(protected=plan.protected, name_servers=self._resolvers.name_servers())
        self._core = Core(self._empty_table(), guards, plan.mode)
        self._texts = {"orders": Parts(), "surroundings": Parts()}
        self._interfaces: frozenset[str] | None = None  # None: not told yet, so nothing may be ended
        self._ahead_s = 0.0
        self._orders = Orders()
        self._refused: dict[str, str] = {}
        self._troubles: dict[str, str] = {}  # by what they concern
        self._wanted: tuple[tuple[Action, ...], Guards] | None = None
        self._watched: list[tuple[Watch, frozenset[str]]] = []  # each with the ids of the orders that it is for
        self._unseen = 0  # packets, since these orders came
        self._done: dict[str, Counter[str]] = {}  # by order, since it came
        self._reported: Report | None = None
        self._look_at_s = 0.0
        self._stats_at_s = time.monotonic() + _STATS_EVERY_S

    def run(self, signals: Signals) -> Exit:
        """Ends what is ordered until SIGTERM."""
        log.info("enforcer ready", extra=fields(mode=self._core.mode))
        self._heartbeat.reading()
        poll = select.poll()
        for fd in (signals.fileno(), self._channel.fileno(), *(watch.fileno() for watch in self._sockets.watches)):
            poll.register(fd, select.POLLIN)
        while True:
            self._heartbeat.beat()
            poll.poll(self._timeout_ms())
            if signals.take():
                return Exit.DRAINED
            for message, _ in self._channel.receive():
                self._obey(message)
            if self._channel.ended:
                return Exit.GAVE_UP
            self._answer()
            if time.monotonic() >= self._look_at_s:
                self._look()

    def _timeout_ms(self) -> float:
        if not self._done:
            return HEARTBEAT_S * 1000
        return max(0.0, self._look_at_s - time.monotonic()) * 1000

    def _vsensor_now_s(self) -> float:
        """By the clock that counts while the machine is suspended, and that nobody sets."""
        return self._ahead_s + time.clock_gettime(time.CLOCK_BOOTTIME)

    # -- what it is told ------------------------------------------------------------------------------------------

    def _obey(self, message: Mapping[str, Any]) -> None:
        text = self._texts[message["op"]].maybe_whole(message)
        if text is None:
            return
        if message["op"] == "surroundings":
            values = json.loads(text)
            self._interfaces = frozenset(values["interfaces"])
            own = frozenset(Flow(*flow) for flow in values["flows"])
            self._core.guards = replace(self._core.guards, own=own)
        else:
            self._hear(text)
        self._look()

    def _hear(self, text: str) -> None:
        """Orders, with how far the vSensor's clock is ahead of the time since boot."""
        try:
            self._ahead_s, orders = _read(text)
        except MalformedError as e:
            self._trouble("orders", f"orders that cannot be read: {e}")
            return
        self._take(orders)

    def _empty_table(self) -> Table:
        return Table(self._objection)

    def _objection(self, action: Action) -> Refusal | None:
        return self._core.guards.objection(action)  # of the guards of that moment

    def _take(self, orders: Orders) -> None:
        """Puts these in force in place of those before, or refuses them as a whole and keeps those."""
        if len(orders.actions) > MAX_ACTIONS:
            self._trouble("orders", f"{len(orders.actions)} orders, where {MAX_ACTIONS} are the most")
            return
        if orders.book != self._orders.book:
            self._core.table = self._empty_table()
        elif orders.version < self._orders.version:
            self._trouble("orders", f"version {orders.version} came after version {self._orders.version}")
            return
        self._troubles.pop("orders", None)
        if (orders.book, orders.version) == (self._orders.book, self._orders.version):
            return  # told again, by the successor of an uploader that was killed
        self._troubles.pop("sending", None)
        self._troubles.pop("watching", None)
        self._unseen = 0
        self._orders = orders
        actions, self._refused = self._read(orders)
        applied = self._core.table.apply(orders.version, actions, self._vsensor_now_s())
        self._refused |= {name: reason.value for name, reason in applied.refused.items()}
        taken = self._core.table.orders  # the first of two with one id, too
        for action in taken:
            if reasons := self._core.guards.overlaps(action):
                self._refused[action.id] = f"in part: {', '.join(sorted(reasons))}"
        self._done = {action.id: self._done.get(action.id, Counter()) for action in taken}
        for name, why in self._refused.items():
            self._complaints.say("an order is refused", id=name, why=why)
        added, removed = (" ".join(sorted(ids)) for ids in (applied.added, applied.removed))
        log.log(ANTIGENA, "orders", extra=fields(version=orders.version, added=added, removed=removed))

    def _read(self, orders: Orders) -> tuple[list[Action], dict[str, str]]:
        actions, refused = [], {}
        for place, given in enumerate(orders.actions):
            try:
                actions.append(parse_action(given))
            except ActionError as e:
                name = given.get("id")
                known = isinstance(name, str) and name.isprintable() and len(name) <= MAX_ID_CHARACTERS
                refused[str(name) if known else f"#{place}"] = Refusal.MALFORMED.value
                self._complaints.say("an order is malformed", why=str(e)[:300])
        return actions, refused

    # -- what it does ---------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        for watch, ids in self._watched:
            waiting = [
                seen
                for seen in watch.read(_AT_A_TIME)
                if self._interfaces is not None and seen.interface in self._interfaces
            ]
            for place in newest([seen.packet for seen in waiting]):
                for packet in self._core.process(waiting[place].packet, self._vsensor_now_s(), ids):
                    self._send(packet, waiting[place].interface)

    def _send(self, outgoing: Outgoing, interface: str = "") -> None:
        """By the host's routes, to the peer as to the application in this very network namespace.

        Not framed and put on the link that the cause came by: one socket sees all interfaces, whatever their links, and
        a sensor beside an application has a route to whomever the application talks to. A mirror port has none.
        """
        address = outgoing.to.address
        try:
            scope = socket.if_nametoindex(interface) if interface and address.is_link_local else 0
            self._sockets.send(outgoing.packet, str(address), scope)
        except OSError as e:
            self._core.unsent(outgoing)
            self._trouble("sending", f"a packet could not be sent to {address}: {e.strerror}")

    def _look(self) -> None:
        """What time alone changes: orders begin and end, silence proves something, a report is due."""
        now_s = self._vsensor_now_s()
        # Each time: DHCP and VPNs replace what names them.
        self._core.guards = replace(self._core.guards, name_servers=self._resolvers.name_servers())
        self._count_unseen(now_s)
        for packet in self._core.judge(now_s):
            self._send(packet)
        self._watch(self._core.table.in_force(now_s).actions)
        self._tell()
        next_change_s = self._core.table.next_change_s(now_s) - now_s
        self._look_at_s = time.monotonic() + max(0.0, min(_LOOK_S, next_change_s))

    def _count_unseen(self, now_s: float) -> None:
        """Packets that found the watches full. A connection that goes on is ended at its next packet all the same."""
        if unseen := sum(watch.statistics().dropped for watch, _ in self._watched):
            self._unseen += unseen
            self._core.overlooked(now_s)
            self._trouble("watching", f"{self._unseen} packets came too fast and were not seen")

    def _watch(self, actions: tuple[Action, ...]) -> None:
        """Has the kernel show what these concern. Compiled for all before one is changed."""
        wanted = (actions if self._interfaces is not None else (), self._core.guards)
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self._troubles.pop("filters", None)
        self._watched = self._shown(*wanted)
        log.log(ANTIGENA, "orders in force", extra=fields(ids=" ".join(action.id for action in actions)))

    def _shown(self, actions: tuple[Action, ...], guards: Guards) -> list[tuple[Watch, frozenset[str]]]:
        """The watches that show packets of these now; the others sleep."""
        watches = self._sockets.watches
        shown: list[tuple[Watch, filters.Program]] = []
        for most_instructions in _LENGTHS:
            try:
                programs = filters.programs(actions, guards, most_instructions=most_instructions)
                shown = list(zip(watches, programs, strict=False))
                for watch, program in shown:
                    watch.show(program.instructions)
            except (OSError, ValueError) as e:
                trouble, shown = f"filters of {most_instructions} instructions: {e}", []
            else:
                left = len(programs) - len(shown)
                trouble = f"{left} of {len(programs)} filters find no socket" if left else ""
                break
        if trouble:
            self._trouble("filters", trouble)
        for watch in watches[len(shown) :]:
            watch.show(None)
        return [(watch, program.ids) for watch, program in shown]

    def _trouble(self, what: str, why: str) -> None:
        """Theirs or the kernel's: told here and at the vSensor, and work goes on."""
        self._troubles[what] = why
        self._complaints.say(f"Antigena, {what}", why=why)  # whatever the text, it is one complaint

    def _tell(self) -> None:
        for name, tally in self._core.report().items():
            if name in self._done:
                counts = _counts(tally)
                self._done[name].update(counts)
                log.log(ANTIGENA, "connections ended as ordered", extra=fields(id=name, **counts))
        report = Report(
            self._core.mode,
            self._orders.book,
            self._orders.version,
            {name: dict(counts) for name, counts in self._done.items()},
            self._refused,
            "; ".join(self._troubles.values())[:_TROUBLE_CHARACTERS],
        )
        if report != self._reported and self._channel.send_text("report", report.body.decode()):
            self._reported = report
        if self._done and time.monotonic() >= self._stats_at_s:
            self._stats_at_s = time.monotonic() + _STATS_EVERY_S
            total: Counter[str] = sum(self._done.values(), Counter())
            log.log(STATS, "Antigena stats", extra=fields(orders=len(self._done), **total))


class _Resolvers:
    """Whom this host asks for names, by what its files say."""

    def __init__(self) -> None:
        self._named: dict[Path, frozenset[Address]] = {}

    def name_servers(self) -> frozenset[Address]:
        """As of now; of a file that cannot be read, or is being written and empty, as of its last look."""
        for path in _RESOLVER_CONFIGURATIONS:
            try:
                found = name_servers(path.read_text(encoding="utf-8", errors="replace"))  # a comment may be in any
            except FileNotFoundError:
                self._named.pop(path, None)
                continue
            except OSError:
                continue
            if found:
                self._named[path] = found
        return frozenset().union(*self._named.values())


def _counts(tally: Tally) -> Counter[str]:
    """A tally as it is reported: by name, and without zeros."""
    counts = Counter(matched=tally.matched, closed=tally.closed, unconfirmed=tally.unconfirmed, withheld=tally.withheld)
    counts.update({f"sent_to_{side}": number for side, number in tally.sent.items()})
    counts.update({f"asked_{side}": number for side, number in tally.asked.items()})
    counts.update({f"refused_{reason.value}": number for reason, number in tally.refused.items()})
    return +counts


def _read(text: str) -> tuple[float, Orders]:
    """How far the vSensor's clock is ahead of the time since boot, and its orders. Raises MalformedError.

    The supervisor has not looked at the text, and the uploader that it is from may be somebody else's by now.
    """
    try:
        values = json.loads(text)
        orders, ahead_s = Orders.parse(json.dumps(values["orders"]).encode()), values["ahead_s"]
    except MalformedError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise MalformedError("no JSON of orders") from e
    if not isinstance(ahead_s, int | float) or not abs(ahead_s) < MAX_TIME_S:  # NaN is not
        raise MalformedError("the time is none")
    return float(ahead_s), orders
