"""The supervisor: chooses interfaces, owns sockets and memory, forks and replaces children, stops in order.

Invariant: every capture socket has the effective filter before anyone reads from it, and every address that the
uploader may connect to is in that filter before the uploader may. Sockets, slots and doorbells belong to this process,
which parses no packet and talks to no network; children borrow them, so the death of a child takes none along.

One loop, one thread (but for the readers of children's log records): signals, netlink, the uploader's messages and
timers are its events.
"""

from __future__ import annotations

import dataclasses
import logging
import selectors
import signal
import socket
import ssl
import time
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, cast

from . import logs, plans
from .accounting import Reason
from .budget import Budget, Share
from .children import State, describe
from .complaints import Complaints
from .errors import ConfigurationError, Exit
from .gate import Gate
from .interfaces import Interface, Rules, default_route_interfaces, enumerate_interfaces
from .logs import STATS, fields
from .netlink import Doorbell
from .outages import Outages
from .port import CannotCaptureError, Port, open_all_ahead
from .settings import Settings
from .spawn import Forge, reap_strangers
from .transport.protocol import interface_name_ok
from .uplink import Uplink
from .workers import privileges
from .workers.child import HELD_BACK

log = logging.getLogger(__name__)

_TICK_S: Final = 1.0
# A worker that drains closes its last section with the last statistics: they are read again soon after the filter was
# shut, when a processor that was handling a packet with the old filter has finished with it.
_DRAINING_TICK_S: Final = 0.03
_LATE_S: Final = 3.0
_STATS_EVERY_S: Final = 10.0
# Doorbells come in bursts (a bridge coming up rings dozens of times): look once per burst.
_SETTLE_S: Final = 0.05
_RETRY_S: Final = 5.0
# What SIGHUP can change in a running sensor.
_RELOADABLE: Final = {"network_device", "exclude", "include", "bpf", "capture_credential_endpoints"}


class Phase(Enum):
    """The supervisor's own life."""

    RUNNING = auto()
    DRAINING_WORKERS = auto()
    DRAINING_UPLOADER = auto()
    OVER = auto()


class Supervisor:
    """See the module. `reload` gives new settings at SIGHUP, or raises ConfigurationError."""

    def __init__(
        self,
        settings: Settings,
        context: ssl.SSLContext,
        metrics: socket.socket | None,
        reload: Callable[[], Settings],
    ) -> None:
        self._settings = settings
        self._reload = reload
        self._rules = Rules.from_settings(settings)
        self._forge = Forge(*privileges.user_ids(settings.user))
        self._gate = Gate(plans.first_bank(settings))
        self._ports: dict[int, Port] = {}  # by ifindex: a name can be given to another interface
        self._retired: dict[int, Port] = {}  # by queue: without a worker, waiting for the uploader to empty it
        self._next_queue = 1
        self._recipe = plans.recipe(settings)
        self._uplink = Uplink(plans.uploader_plan(settings), context, metrics, self._guard)
        self._phase = Phase.RUNNING
        self._exit = Exit.DRAINED
        self._deadline_s = float("inf")
        self._look_at_s: float | None = 0.0
        self._tick_at_s = 0.0
        self._stats_at_s = time.monotonic() + _STATS_EVERY_S
        self._complaints = Complaints(log)
        self._outages = Outages()
        self._budget = Budget(settings.memory_mb, settings.ring_mb, settings.buffer_mb)
        self._waiting_said = False

    # -- start and loop -------------------------------------------------------------------------------------------

    def run(self) -> Exit:
        """The sensor's life; returns its exit code. What start.run() left of start-up, again as one-way doors.

        1. Signals become input of the loop, before there is a child whose end could be missed.
        2. The doorbell, before the first enumeration: a change in between rings.
        3. Privilege shrinks to what the loop needs.
        4. The uploader, before any interface: an interface is handed to a running uploader, now as later.
        5. Interfaces (in the loop, as at every later doorbell).
        """
        self._selector = selectors.DefaultSelector()
        self._wake, wake_write = socket.socketpair()
        for end in (self._wake, wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)
        self._selector.register(self._wake, selectors.EVENT_READ, self._on_signals)
        self._doorbell = Doorbell()
        self._selector.register(self._doorbell, selectors.EVENT_READ, self._on_doorbell)
        privileges.limit_supervisor()
        logs.start()
        self._start_uploader()
        while self._phase is not Phase.OVER:
            for key, _ in self._selector.select(self._timeout_s()):
                key.data()
            self._reap()
            now_s = time.monotonic()
            if self._look_at_s is not None and now_s >= self._look_at_s:
                self._look_at_interfaces()
            if now_s >= self._tick_at_s:
                self._tick(now_s)
            self._start_due(now_s)
            self._drain(now_s)
        self._close_books()
        return self._exit

    def _all_ports(self) -> list[Port]:
        return [*self._ports.values(), *self._retired.values()]

    def _timeout_s(self) -> float:
        now_s = time.monotonic()
        times = [self._tick_at_s, self._deadline_s]
        if self._look_at_s is not None:
            times.append(self._look_at_s)
        times += [
            c.due_s for c in (self._uplink.child, *(p.child for p in self._ports.values())) if c.state is State.BACKOFF
        ]
        return max(0.0, min(times) - now_s)

    def _on_signals(self) -> None:
        numbers = set(self._wake.recv(4096))
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._begin_drain()
        if signal.SIGHUP in numbers and self._phase is Phase.RUNNING:
            self._on_reload()

    def _on_doorbell(self) -> None:
        self._doorbell.silence()
        if self._look_at_s is None:
            self._look_at_s = time.monotonic() + _SETTLE_S

    def _on_reload(self) -> None:
        """Lists, device and BPF are read again; what cannot change in a running sensor is left alone."""
        try:
            new = self._reload()
            bank = self._gate.bank.with_user(new.bpf, credential_endpoints=new.capture_credential_endpoints)
            self._gate.use(bank, self._ports.values())
        except ConfigurationError as e:
            log.error("SIGHUP: the old settings stay: %s", "; ".join(e.faults))  # noqa: TRY400  theirs, no traceback
            return
        changed = [f.name for f in dataclasses.fields(new) if getattr(new, f.name) != getattr(self._settings, f.name)]
        self._settings = new
        self._rules = Rules.from_settings(new)
        self._look_at_s = time.monotonic()
        applied = ", ".join(n for n in changed if n in _RELOADABLE) or "nothing"
        log.info("settings read again", extra=fields(applied=applied))
        if waiting := ", ".join(n for n in changed if n not in _RELOADABLE):
            log.warning("settings that changed and need a restart", extra=fields(names=waiting))

    # -- interfaces -----------------------------------------------------------------------------------------------

    def _look_at_interfaces(self) -> None:
        """Makes what is captured equal to what the rules say of what exists, compared by index."""
        self._look_at_s = None
        if self._phase is not Phase.RUNNING:
            return
        self._doorbell.silence()
        try:
            routes = default_route_interfaces()
            existing = {i.index: i for i in enumerate_interfaces()}
        except OSError as e:
            self._complaints.say("cannot list the interfaces", why=e)
            self._look_at_s = time.monotonic() + _RETRY_S
            return
        wanted = {n: i for n, i in existing.items() if self._rules.decide(i, routes).captured}
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
            if index not in existing:
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
        ports = []
        for interface, queue_id in queues.items():
            if queue_id not in shares:
                self._not_captured(interface, self._budget.refusal())
            elif (port := self._maybe_port(interface, queue_id, shares[queue_id])) is not None:
                ports.append(port)
            else:
                self._budget.give_back(queue_id)
        open_all_ahead(ports)
        for port in ports:
            self._ports[port.interface.index] = port
            port.describe_filter(self._gate.bank.user)
            self._uplink.hand_over(port)
            self._start_worker(port)

    def _maybe_port(self, interface: Interface, queue_id: int, share: Share) -> Port | None:
        if not interface_name_ok(interface.name):
            self._complaints.say("an interface's name cannot be sent", interface=repr(interface.name))
            return None
        try:
            return Port(interface, queue_id, self._recipe, share, self._gate.program)
        except OSError as e:
            self._not_captured(interface, f"no memory for its slots: {e.strerror}")
            return None

    def _not_captured(self, interface: Interface, why: str) -> None:
        self._complaints.say(why, interface=interface.name)
        self._look_at_s = time.monotonic() + _RETRY_S

    def _retire(self, port: Port, reason: Reason, why: str) -> None:
        """Stops capturing the interface; its batches are still delivered."""
        log.info("interface no longer captured: %s", why, extra=fields(interface=port.label))
        del self._ports[port.interface.index]
        self._outages.begin(port.label, time.monotonic())
        self._retired[port.queue_id] = port
        port.retiring = reason
        self._stop_worker(port)

    def _stop_worker(self, port: Port) -> None:
        port.stop(self._forge)
        self._tick_at_s = min(self._tick_at_s, time.monotonic() + _DRAINING_TICK_S)
        if not port.child.alive:
            self._worker_over(port)

    def _worker_over(self, port: Port) -> None:
        if port.retiring is not None:
            self._uplink.retire(port)  # no worker will come: the uploader may empty the slots and let go of them

    def _guard(self, wanted: Any) -> bool:
        return self._gate.guard(wanted, self._ports.values())

    # -- children -------------------------------------------------------------------------------------------------

    def _start_due(self, now_s: float) -> None:
        if self._uplink.child.due(now_s) and self._phase is not Phase.OVER:
            self._start_uploader()
        for port in list(self._ports.values()):
            if port.child.due(now_s) and self._phase is Phase.RUNNING:
                self._start_worker(port)

    def _start_worker(self, port: Port) -> None:
        try:
            port.start(self._forge)
        except CannotCaptureError as e:
            self._complaints.say("cannot capture", interface=port.interface.name, why=e)
            self._look_at_s = self._look_at_s or time.monotonic() + _SETTLE_S
        else:
            self._told_again(port)

    def _start_uploader(self) -> None:
        try:
            self._uplink.start(self._forge, self._all_ports())
        except OSError as e:
            self._complaints.say("cannot start the uploader", why=e)
            return
        self._selector.register(cast(int, self._uplink.fileno()), selectors.EVENT_READ, self._on_uploader)

    def _on_uploader(self) -> None:
        for queue_id in self._uplink.listen():
            self._finish_port(queue_id)

    def _finish_port(self, queue_id: int) -> None:
        port = self._retired.get(queue_id)
        if port is None or port.child.alive:
            return
        del self._retired[port.queue_id]
        self._budget.give_back(port.queue_id)
        log.info("books closed: %s", port.books(), extra=fields(interface=port.label))
        port.close()

    # -- deaths ---------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        if self._uplink.process is not None and (code := self._uplink.process.exit_code) is not None:
            self._uploader_ended(code)
        for port in self._all_ports():
            if port.process is not None and (code := port.process.exit_code) is not None:
                self._worker_ended(port, code)
        reap_strangers()

    def _worker_ended(self, port: Port, exit_code: int) -> None:
        asked = port.child.state is State.DRAINING
        reading = {} if port.maybe_reading_s is None else {"reading_s": round(port.maybe_reading_s, 4)}
        where = fields(interface=port.label, how=describe(exit_code), lost=port.ended(exit_code), **reading)
        if asked:
            log.info("worker stopped", extra=where)
        else:
            log.warning("worker died", extra=where)
            # It may have noticed before we did that its interface is gone.
            self._look_at_s = self._look_at_s or time.monotonic()
        if port.child.state is State.STOPPED:
            self._worker_over(port)

    def _uploader_ended(self, exit_code: int) -> None:
        self._selector.unregister(cast(int, self._uplink.fileno()))
        self._uplink.ended(exit_code, self._all_ports())
        if self._phase is Phase.DRAINING_UPLOADER and exit_code == Exit.DRAINED:
            self._phase = Phase.OVER
            return
        log.warning("uploader died", extra=fields(how=describe(exit_code), failures=self._uplink.child.failures))
        if self._uplink.hopeless and self._phase is Phase.RUNNING:
            log.critical("the uploader dies again and again; giving up")
            self._exit = Exit.GAVE_UP
            self._begin_drain()

    # -- time -----------------------------------------------------------------------------------------------------

    def _tick(self, now_s: float) -> None:
        # A tick that is late by much means that everything stood still (a frozen container, a suspended machine): the
        # children have not had their turn to beat either.
        thawed = now_s - self._tick_at_s > _LATE_S
        draining = any(p.child.state is State.DRAINING for p in self._all_ports())
        self._tick_at_s = now_s + (_DRAINING_TICK_S if draining else _TICK_S)
        for port in self._all_ports():
            port.read_statistics()
        for port in self._ports.values():
            self._gate.reopen(port)
        for process in (self._uplink.process, *(p.process for p in self._all_ports())):
            if process is not None and not thawed:
                process.watch()
        if now_s >= self._stats_at_s:
            self._stats_at_s = now_s + _STATS_EVERY_S
            for port in self._ports.values():
                log.log(STATS, "capture stats", extra=fields(interface=port.label, **port.books().counts()))

    # -- stop -----------------------------------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        """SIGTERM, once: shut every filter, let the workers empty their rings, then the uploader the slots."""
        if self._phase is not Phase.RUNNING:
            return
        self._phase = Phase.DRAINING_WORKERS
        self._deadline_s = time.monotonic() + self._settings.drain_s
        log.info("draining", extra=fields(at_most_s=self._settings.drain_s))
        for port in list(self._ports.values()):
            self._stop_worker(port)

    def _drain(self, now_s: float) -> None:
        if self._phase is Phase.DRAINING_WORKERS and not any(p.child.alive for p in self._all_ports()):
            self._phase = Phase.DRAINING_UPLOADER
            self._uplink.drain()
        if self._phase in {Phase.DRAINING_WORKERS, Phase.DRAINING_UPLOADER} and now_s >= self._deadline_s:
            log.warning("the drain's time is over")
            self._end_children()
            self._phase = Phase.OVER

    def _end_children(self) -> None:
        for port in self._all_ports():
            port.kill()
        self._uplink.end_now()

    def _close_books(self) -> None:
        self._forge.hear_out()
        for port in self._all_ports():
            books = port.books(slots_lost=True)
            where = fields(interface=port.label)
            undelivered = books.received - books.delivered - books.spooled
            log.log(logging.WARNING if undelivered else logging.INFO, "books closed: %s", books, extra=where)
            if not books.balanced:
                log.error("the books do not balance", extra=where)
