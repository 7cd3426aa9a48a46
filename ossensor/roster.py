"""The captured interfaces: which there are by the rules, their ports, their memory, and since when one is not captured.

Invariant: each index of `ports` exists, with the port's socket on it, and is chosen by the rules, as of the last look;
a port of which that is not so any more is retired, and kept until the uploader has emptied its slots. Who looks, and
when, is the supervisor's affair.
"""

from __future__ import annotations

import logging
import resource
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import Any, Final, TypeVar

from . import plans
from .accounting import Reason
from .budget import Budget, Share
from .children import State, describe
from .complaints import Complaints
from .gate import Gate
from .interfaces import Interface, Rules, default_route_interfaces, enumerate_interfaces
from .legacy import Legacy
from .logs import fields
from .outages import Outages
from .port import CannotCaptureError, Port
from .region import Region
from .settings import Settings
from .spawn import Forge
from .systemd.fdstore import Store
from .transport.introduction import INTERFACES_MAX
from .transport.protocol import LEAST_SECTION_BYTES, interface_name_ok
from .uplink import Uplink

log = logging.getLogger(__name__)

# Doorbells come in bursts (a bridge coming up rings dozens of times): look once per burst.
_SETTLE_S: Final = 0.05
_RETRY_S: Final = 5.0
_MADE_AT_ONCE: Final = 16
_UNSENDABLE: Final = "an interface's name cannot be sent"

_T = TypeVar("_T")


class Roster:
    """`look_at_s` says when the interfaces are to be looked at again; None: when the doorbell rings."""

    def __init__(
        self,
        settings: Settings,
        gate: Gate,
        uplink: Uplink,
        forge: Forge,
        store: Store,
        legacies: Iterable[Legacy] = (),
    ) -> None:
        self._gate = gate
        self._uplink = uplink
        self._forge = forge
        self._store = store
        self._legacies = list(legacies)
        self._rules = Rules.from_settings(settings)
        self._recipe = plans.recipe(settings)
        self._ports: dict[int, Port] = {}  # by ifindex: a name can be given to another interface
        self._retired: dict[int, Port] = {}  # by queue: without a worker, waiting for the uploader to empty it
        self._next_queue = 1
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        descriptors = None if limit == resource.RLIM_INFINITY else limit
        self._budget = Budget(settings.memory_mb, settings.ring_mb, settings.buffer_mb, descriptors)
        self._outages = Outages()
        self._complaints = Complaints(log)
        self._waiting_said = False
        self._section_bytes = 0  # at most, by the vSensor's limit; 0: no limit
        self.refused: dict[int, tuple[Interface, str]] = {}  # by ifindex: chosen, without a port; and why
        self.look_at_s: float | None = 0.0

    def ports(self) -> list[Port]:
        """Those that capture, or would."""
        return list(self._ports.values())

    def all(self) -> list[Port]:
        return [*self._ports.values(), *self._retired.values()]

    @property
    def draining(self) -> bool:
        return any(port.child.state is State.DRAINING for port in self.all())

    def use(self, rules: Rules) -> None:
        """Other rules, from the next look on, which is now."""
        self._rules = rules
        self.look_at_s = time.monotonic()

    def limit_sections(self, most_bytes: Any) -> None:
        """The vSensor takes no longer sections than that; 0: it does not say. Anything else changes nothing."""
        if type(most_bytes) is int and (not most_bytes or LEAST_SECTION_BYTES <= most_bytes < 1 << 63):
            self._section_bytes = most_bytes
            for port in self.all():
                port.limit_sections(most_bytes)

    def epochs(self) -> dict[str, str]:
        """The present epoch of each interface that is captured, as many as an introduction may name."""
        capturing = sorted((port.label, port.epoch) for port in self.ports() if port.capturing)
        return dict(capturing[:INTERFACES_MAX])

    def look_soon(self) -> None:
        """The doorbell rang, and may ring again at once. What was to be tried later is tried with it."""
        soon_s = time.monotonic() + _SETTLE_S
        if self.look_at_s is None or self.look_at_s > soon_s:
            self.look_at_s = soon_s

    # -- interfaces -----------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Makes what is captured equal to what the rules say of what exists, compared by index."""
        try:
            routes = default_route_interfaces()
            existing = {i.index: i for i in enumerate_interfaces()}
        except OSError as e:
            self._complaints.say("cannot list the interfaces", why=e)
            self.look_at_s = time.monotonic() + _RETRY_S
            return
        wanted = {n: i for n, i in existing.items() if self._rules.decide(i, routes).captured}
        self.refused.clear()
        self._inherit(existing)
        self._retire_unwanted(existing, wanted)
        # libpcap cannot open an interface that is down; coming up rings.
        self._add([i for index, i in wanted.items() if index not in self._ports and i.up])
        if not self._ports and not self._waiting_said:
            self._waiting_said = True
            seen = ", ".join(sorted(i.name for i in existing.values()))
            log.warning("the rules choose no interface that is there; waiting for one", extra=fields(there=seen))
        elif self._ports:
            self._waiting_said = False

    def _retire_unwanted(self, existing: dict[int, Interface], wanted: dict[int, Interface]) -> None:
        for index, port in list(self._ports.items()):
            if index not in existing or port.unplugged:
                self._retire(port, Reason.INTERFACE_GONE, "deleted")
            elif index not in wanted:
                self._retire(port, Reason.SHUTDOWN, "excluded by the rules now")
            else:
                self._note_change(port, existing[index])

    def _note_change(self, port: Port, now: Interface) -> None:
        """The interface stays, with the socket on it; but it went down or up, or has another name."""
        before, port.interface = port.interface, now
        if before.up and not now.up:
            log.info("interface is down", extra=fields(interface=port.label))
            self._outages.begin(port.label, time.monotonic())
        elif now.up and not before.up:
            port.child.hurry()
            self._told_again(port)

    def _told_again(self, port: Port) -> None:
        outage_s = self._outages.maybe_end_s(port.label, time.monotonic())
        if outage_s is not None:
            log.info("captured again", extra=fields(interface=port.label, outage_s=round(outage_s, 3)))

    def _add(self, interfaces: list[Interface]) -> None:
        """Captures the interfaces, newcomers all; they share the memory that is left fairly.

        Shares are known by queue, not by interface: one that was excluded and is back has two while the old one drains.
        """
        queues = {i: self._next_queue + n for n, i in enumerate(interfaces)}
        self._next_queue += len(queues)
        shares = self._budget.grant(queues.values())
        granted = []
        for interface, queue_id in queues.items():
            if queue_id not in shares:
                self._not_captured(interface, self._budget.refusal())
            elif self._sendable(interface):
                granted.append((interface, queue_id))
            else:
                self._budget.give_back(queue_id)
        made = _side_by_side(lambda interface, queue_id: self._made(interface, queue_id, shares[queue_id]), granted)
        for (interface, queue_id), port in zip(granted, made, strict=True):
            if isinstance(port, OSError):
                self._not_captured(interface, f"no memory for its slots: {port.strerror}")
                self._budget.give_back(queue_id)
                continue
            self._ports[interface.index] = port
            port.describe_filter(self._gate.bank.described)
            port.limit_sections(self._section_bytes)
            self._uplink.hand_over(port)
            self.start_worker(port)

    def _inherit(self, existing: dict[int, Interface]) -> None:
        """Goes on with what an earlier life of the sensor captured. What is not wanted any more is retired next."""
        legacies, self._legacies = self._legacies, []
        for legacy in legacies:
            note, queue_id = legacy.note, self._next_queue
            self._next_queue += 1
            gone = Interface(note.label, note.ifindex, loopback=False, up=False)
            interface = existing.get(note.ifindex, gone) if legacy.alive else gone
            share = Share(note.ring_bytes, Region.size(legacy.region.count, legacy.region.slot_bytes))
            try:
                port = Port(interface, queue_id, self._recipe, share, self._gate.program, self._store, legacy)
            except OSError as e:
                self._complaints.say("an earlier capture cannot be taken over", interface=note.label, why=e)
                legacy.close()
                self._store.forget(legacy.name)
                continue
            self._budget.inherited(queue_id, share)
            port.limit_sections(self._section_bytes)
            port.describe_filter(self._gate.bank.described)
            self._ports[note.ifindex] = port
            self._uplink.hand_over(port)
            if self._recipe.engine == "pypcap":
                self._retire(port, Reason.SHUTDOWN, "another engine is chosen now")
                continue
            if not port.capturing:  # its epoch was finished: slots to be emptied. The loop starts the next one's worker
                continue
            log.info("capture taken over", extra=fields(interface=port.label, waiting=port.region.in_flight()))
            if interface is not gone:
                self.start_worker(port)

    def _sendable(self, interface: Interface) -> bool:
        if interface_name_ok(interface.name):
            return True
        self._complaints.say(_UNSENDABLE, interface=repr(interface.name))
        self.refused[interface.index] = interface, _UNSENDABLE
        return False

    def _made(self, interface: Interface, queue_id: int, share: Share) -> Port | OSError:
        """The port, its memory touched and its socket open; or why there is none. From any thread."""
        try:
            port = Port(interface, queue_id, self._recipe, share, self._gate.program, self._store)
        except OSError as e:
            return e
        port.open_ahead()
        return port

    def _not_captured(self, interface: Interface, why: str) -> None:
        self.refused[interface.index] = interface, why
        self._complaints.say(why, interface=interface.name)
        self.look_at_s = time.monotonic() + _RETRY_S

    def _retire(self, port: Port, reason: Reason, why: str) -> None:
        """Stops capturing the interface; its batches are still delivered."""
        log.info("interface no longer captured: %s", why, extra=fields(interface=port.label))
        del self._ports[port.interface.index]
        self._outages.begin(port.label, time.monotonic())
        self._retired[port.queue_id] = port
        port.retiring = reason
        self.stop_worker(port)

    # -- workers --------------------------------------------------------------------------------------------------

    def start_worker(self, port: Port) -> None:
        try:
            port.start(self._forge)
        except CannotCaptureError as e:
            self._complaints.say("cannot capture", interface=port.interface.name, why=e)
            self.look_at_s = self.look_at_s or time.monotonic() + _SETTLE_S
        else:
            self._told_again(port)

    def release(self, port: Port) -> None:
        """At the end: to another life of the sensor, if there may be one."""
        if not port.hand_over():
            self.stop_worker(port)

    def stop_worker(self, port: Port) -> None:
        port.stop(self._forge)
        if not port.child.alive:
            self._worker_over(port)

    def _worker_over(self, port: Port) -> None:
        if port.retiring is not None:
            self._uplink.retire(port)  # no worker will come: the uploader may empty the slots and let go of them

    def worker_ended(self, port: Port, exit_code: int) -> None:
        asked = port.child.state is State.DRAINING
        reading = {} if port.maybe_reading_s is None else {"reading_s": round(port.maybe_reading_s, 4)}
        where = fields(
            interface=port.label, how=describe(exit_code), lost=port.ended(exit_code, self._forge), **reading
        )
        if asked and port.child.state is State.STOPPED:
            log.info("worker stopped", extra=where)
        else:
            log.warning("worker died", extra=where)
            # It may have noticed before we did that its interface is gone.
            self.look_at_s = self.look_at_s or time.monotonic()
        if port.child.state is State.STOPPED:
            self._worker_over(port)

    def finish(self, queue_id: int) -> None:
        port = self._retired.get(queue_id)
        if port is None or port.child.alive:
            return
        del self._retired[port.queue_id]
        self._budget.give_back(port.queue_id)
        log.info("books closed: %s", port.books(), extra=fields(interface=port.label))
        port.close()


def _side_by_side(make: Callable[[Interface, int], _T], of: Sequence[tuple[Interface, int]]) -> list[_T]:
    """What `make` gives for each; the threads are gone when it returns, so that no fork meets one.

    Setting up a ring waits for an RCU grace period (af_packet.c, packet_set_ring: synchronize_net), some ten
    milliseconds in which nothing is computed: half a second for fifty interfaces one after the other. And the kernel
    clears the slots' memory: 3 ms for a megabyte in a virtual machine whose host gives it only when it is touched.

    Not a ThreadPoolExecutor: where no thread is to be had (the pids limit), that raises, and what it has begun is
    nobody's. Here this thread does it all, then.
    """
    made: list[Future[_T]] = [Future() for _ in of]
    waiting = deque(zip(made, of, strict=True))

    def work() -> None:
        while True:
            try:
                future, (interface, queue_id) = waiting.popleft()
            except IndexError:
                return
            try:
                future.set_result(make(interface, queue_id))
            except BaseException as e:  # noqa: BLE001  for who asks for the result
                future.set_exception(e)

    helpers: list[Thread] = []
    with suppress(RuntimeError):
        while len(helpers) < min(len(of), _MADE_AT_ONCE) - 1:
            helper = Thread(target=work)
            helper.start()
            helpers.append(helper)
    work()
    for helper in helpers:
        helper.join()
    return [future.result() for future in made]
