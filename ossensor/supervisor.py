"""The supervisor: one loop that owns sockets and memory (roster.py), forks and replaces children, stops in order.

Invariant: every capture socket has the effective filter before anyone reads from it, and every address that the
uploader may connect to is in that filter before the uploader may. Sockets, slots and doorbells belong to this process,
which parses no packet and talks to no network; children borrow them, so the death of a child takes none along.

One thread (but for the one that reads children's log records): signals, netlink, the uploader's messages and
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
from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, Final, cast

from . import logs, plans
from .capture import engine
from .children import State, describe
from .complaints import Complaints
from .confine.seccomp import mode_here
from .enforcement import Enforcement
from .errors import ConfigurationError, Exit
from .gate import Gate
from .interfaces import Rules
from .legacy import Estate
from .logs import STATS, fields
from .netlink import Doorbell
from .roster import Roster
from .settings import Settings
from .spawn import Forge, reap_strangers
from .status.observe import Observer
from .status.server import StatusServer
from .systemd.fdstore import Store
from .systemd.notify import Manager
from .uplink import Uplink
from .workers import privileges
from .workers.child import Signals

log = logging.getLogger(__name__)

_TICK_S: Final = 1.0
# A worker that drains closes its last section with the last statistics: they are read again soon after the filter was
# shut, when a processor that was handling a packet with the old filter has finished with it.
_DRAINING_TICK_S: Final = 0.03
_LATE_S: Final = 3.0
_STATS_EVERY_S: Final = 10.0
# For the service manager; gathering it costs some microseconds for each interface.
_SUMMARY_EVERY_S: Final = 3.0
# What SIGHUP can change in a running sensor.
_RELOADABLE: Final = {"network_device", "exclude", "include", "bpf", "capture_credential_endpoints"}


class Phase(Enum):
    """The supervisor's own life."""

    RUNNING = auto()
    DRAINING_WORKERS = auto()
    DRAINING_UPLOADER = auto()
    OVER = auto()


class Supervisor:
    """See the module. `reload` gives new settings at SIGHUP, or raises ConfigurationError; `manager` started us."""

    def __init__(
        self,
        settings: Settings,
        context: ssl.SSLContext,
        metrics: socket.socket | None,
        reload: Callable[[], Settings],
        task: Mapping[str, str],
        manager: Manager,
        store: Store,
        estate: Estate,
    ) -> None:
        engine.load(settings.engine)
        self._settings = settings
        self._reload = reload
        self._manager = manager
        self._forge = Forge(*privileges.user_ids(settings.user), mode_here(settings.seccomp))
        bank = plans.first_bank(settings).with_flows(estate.flow_keeper.flows)
        self._gate = Gate(bank, estate.flow_keeper)
        self._uplink = Uplink(
            plans.uploader_plan(settings, task), context, metrics, self._guard, self._heed, self._order
        )
        enforcer_plan = plans.enforcer_plan(settings)
        self._enforcement = None if enforcer_plan is None else Enforcement(enforcer_plan, self._uplink.report)
        self._roster = Roster(settings, self._gate, self._uplink, self._forge, store, estate.ports)
        self._ticked_s = 0.0
        self._started = False
        self._summary_at_s = 0.0
        self._phase = Phase.RUNNING
        self._exit = Exit.DRAINED
        self._deadline_s = float("inf")
        self._stats_at_s = time.monotonic() + _STATS_EVERY_S
        self._complaints = Complaints(log)
        self._observer = Observer(settings, self._roster, self._uplink)
        self._selector = selectors.DefaultSelector()
        self._status: StatusServer | None = None
        if settings.status_socket:
            self._status = StatusServer(settings.status_socket, self._selector, self._document)

    # -- start and loop -------------------------------------------------------------------------------------------

    def run(self) -> Exit:
        """The sensor's life; returns its exit code. What start.run() left of start-up, again as one-way doors.

        1. Signals become input of the loop, before there is a child whose end could be missed.
        2. The doorbell, before the first enumeration: a change in between rings.
        3. The status socket, while this process may still make it anywhere.
        4. Privilege shrinks to what the loop needs.
        5. The uploader, before any interface: an interface is handed to a running uploader, now as later.
        6. Interfaces (in the loop, as at every later doorbell).
        """
        self._signals = Signals(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        self._selector.register(self._signals, selectors.EVENT_READ, self._on_signals)
        self._doorbell = Doorbell()
        self._selector.register(self._doorbell, selectors.EVENT_READ, self._on_doorbell)
        if self._status is not None:
            self._status.attend(time.monotonic())
        privileges.limit_supervisor()
        logs.start()
        self._start_uploader()
        while self._phase is not Phase.OVER:
            for key, _ in self._selector.select(self._timeout_s()):
                key.data()
            self._reap()
            now_s = time.monotonic()
            if self._roster.look_at_s is not None and now_s >= self._roster.look_at_s:
                self._look()
                if not self._started:
                    self._started = True
                    self._manager.ready()
            if now_s >= self._tick_at_s:
                self._tick(now_s)
            self._start_due(now_s)
            self._drain(now_s)
        if self._status is not None:
            self._status.close()
        self._close_books()
        return self._exit

    @property
    def _tick_at_s(self) -> float:
        return self._ticked_s + (_DRAINING_TICK_S if self._roster.draining else _TICK_S)

    def _timeout_s(self) -> float:
        now_s = time.monotonic()
        times = [self._tick_at_s, self._deadline_s]
        if self._roster.look_at_s is not None:
            times.append(self._roster.look_at_s)
        children = [self._uplink.child, *(p.child for p in self._roster.ports())]
        children += [] if self._enforcement is None else [self._enforcement.child]
        times += [child.due_s for child in children if child.state is State.BACKOFF]
        return max(0.0, min(times) - now_s)

    def _on_signals(self) -> None:
        numbers = self._signals.take()
        if numbers & {signal.SIGTERM, signal.SIGINT}:
            self._begin_drain()
        if signal.SIGHUP in numbers and self._phase is Phase.RUNNING:
            self._manager.reloading()
            self._on_reload()
            self._manager.ready()

    def _on_doorbell(self) -> None:
        """Heard once until the look: links that flap ring a thousand times a second, each time a turn of the loop."""
        self._selector.unregister(self._doorbell)
        self._roster.look_soon()

    def _look(self) -> None:
        self._roster.look_at_s = None
        if self._phase is Phase.RUNNING:
            self._doorbell.silence()
            if self._doorbell not in self._selector.get_map():
                self._selector.register(self._doorbell, selectors.EVENT_READ, self._on_doorbell)
            self._roster.look()
            self._show_surroundings()

    def _on_reload(self) -> None:
        """Lists, device and BPF are read again; what cannot change in a running sensor is left alone."""
        try:
            new = self._reload()
            bank = self._gate.bank.with_user(new.bpf, credential_endpoints=new.capture_credential_endpoints)
            self._gate.use(bank, self._roster.ports())
        except ConfigurationError as e:
            log.error("SIGHUP: the old settings stay: %s", "; ".join(e.faults))  # noqa: TRY400  theirs, no traceback
            self._observer.notes["reload"] = f"SIGHUP: the old settings stay: {'; '.join(e.faults)}"
            return
        self._observer.notes.pop("reload", None)
        changed = [f.name for f in dataclasses.fields(new) if getattr(new, f.name) != getattr(self._settings, f.name)]
        self._settings = new
        self._roster.use(Rules.from_settings(new))
        applied = ", ".join(n for n in changed if n in _RELOADABLE) or "nothing"
        log.info("settings read again", extra=fields(applied=applied))
        if waiting := ", ".join(n for n in changed if n not in _RELOADABLE):
            log.warning("settings that changed and need a restart", extra=fields(names=waiting))

    def _guard(self, wanted: Any) -> bool:
        return self._gate.guard(wanted, self._roster.ports())

    def _heed(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self._roster.limit_sections(asked.get("section_bytes"))
        refused = self._gate.narrow(asked.get("packet_filter"), self._roster.ports())
        self._observer.notes.pop("narrow", None)
        if refused:
            self._observer.notes["narrow"] = (
                f"the vSensor's packet filter cannot be; the one before it stays: {refused}"
            )
        return {"refused": refused, "epochs": self._roster.epochs()}

    def _order(self, text: str) -> None:
        if self._enforcement is not None and self._phase is Phase.RUNNING:
            self._show_surroundings()
            self._enforcement.order(text)

    def _show_surroundings(self) -> None:
        if self._enforcement is not None:
            names = [port.interface.name for port in self._roster.ports()]
            self._enforcement.attend(names, self._gate.bank.flows)

    def _document(self) -> bytes:
        return self._observer.document(self._phase_name)

    @property
    def _phase_name(self) -> str:
        return "running" if self._phase is Phase.RUNNING else "draining"

    # -- children -------------------------------------------------------------------------------------------------

    def _start_due(self, now_s: float) -> None:
        if self._uplink.child.due(now_s) and self._phase is not Phase.OVER:
            self._start_uploader()
        for port in self._roster.ports():
            if port.child.due(now_s) and self._phase is Phase.RUNNING:
                self._roster.start_worker(port)
        if self._enforcement is not None and self._enforcement.due(now_s) and self._phase is Phase.RUNNING:
            self._start_enforcer(self._enforcement)

    def _start_uploader(self) -> None:
        try:
            self._uplink.start(self._forge, self._roster.all())
        except OSError as e:
            self._complaints.say("cannot start the uploader", why=e)
            return
        self._selector.register(cast(int, self._uplink.fileno()), selectors.EVENT_READ, self._on_uploader)

    def _on_uploader(self) -> None:
        for queue_id in self._uplink.listen():
            self._roster.finish(queue_id)
        self._show_surroundings()

    def _start_enforcer(self, enforcement: Enforcement) -> None:
        try:
            enforcement.start(self._forge)
        except OSError as e:
            self._complaints.say("cannot start the enforcer of Antigena", why=e)
            return
        self._selector.register(cast(int, enforcement.fileno()), selectors.EVENT_READ, enforcement.listen)

    # -- deaths ---------------------------------------------------------------------------------------------------

    def _reap(self) -> None:
        if self._uplink.process is not None and (code := self._uplink.process.exit_code) is not None:
            self._uploader_ended(code)
        for port in self._roster.all():
            if port.process is not None and (code := port.process.exit_code) is not None:
                self._roster.worker_ended(port, code)
        enforcement = self._enforcement
        process = None if enforcement is None else enforcement.process
        if enforcement is not None and process is not None and (code := process.exit_code) is not None:
            self._selector.unregister(cast(int, enforcement.fileno()))
            enforcement.ended(code)
        reap_strangers()

    def _uploader_ended(self, exit_code: int) -> None:
        self._selector.unregister(cast(int, self._uplink.fileno()))
        self._uplink.ended(exit_code, self._roster.all())
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
        self._ticked_s = now_s
        for port in self._roster.all():
            port.read_statistics()
        for port in self._roster.ports():
            self._gate.reopen(port)
        self._observer.tick(now_s)
        self._manager.alive(now_s)
        if self._manager.listens and now_s >= self._summary_at_s:
            self._summary_at_s = now_s + _SUMMARY_EVERY_S
            self._manager.status(self._observer.summary(self._phase_name))
        if self._status is not None:
            self._status.attend(now_s)
        processes = [self._uplink.process, *(p.process for p in self._roster.all())]
        processes += [] if self._enforcement is None else [self._enforcement.process]
        for process in processes:
            if process is not None and not thawed:
                process.watch()
        if now_s >= self._stats_at_s:
            self._stats_at_s = now_s + _STATS_EVERY_S
            for port in self._roster.ports():
                log.log(STATS, "capture stats", extra=fields(interface=port.label, **port.books().counts()))

    # -- stop -----------------------------------------------------------------------------------------------------

    def _begin_drain(self) -> None:
        """SIGTERM, once: shut every filter, let the workers empty their rings, then the uploader the slots.

        But where the service manager keeps socket and slots, filters stay open: it does not say whether it stops the
        service or starts it again. Workers read on until all that was captured before is in slots, and the rest of
        the ring is the successor's, or goes with the socket when there is none.
        """
        if self._phase is not Phase.RUNNING:
            return
        self._manager.stopping()
        self._phase = Phase.DRAINING_WORKERS
        self._deadline_s = time.monotonic() + self._settings.drain_s
        log.info("draining", extra=fields(at_most_s=self._settings.drain_s))
        if self._enforcement is not None:
            self._enforcement.stop()
        for port in self._roster.ports():
            self._roster.release(port)

    def _drain(self, now_s: float) -> None:
        if self._phase is Phase.DRAINING_WORKERS and not any(p.child.alive for p in self._roster.all()):
            self._phase = Phase.DRAINING_UPLOADER
            self._uplink.drain()
        if self._phase in {Phase.DRAINING_WORKERS, Phase.DRAINING_UPLOADER} and now_s >= self._deadline_s:
            log.warning("the drain's time is over")
            self._end_children()
            self._phase = Phase.OVER

    def _end_children(self) -> None:
        for port in self._roster.all():
            port.kill()
        self._uplink.end_now()

    def _close_books(self) -> None:
        if self._enforcement is not None:
            self._enforcement.end_now()
        self._forge.hear_out()
        for port in self._roster.all():
            where = fields(interface=port.label)
            if port.handing_over:
                log.info("books handed over: %s", port.books(), extra=where)
                continue
            books = port.books(slots_lost=True)
            undelivered = books.received - books.delivered - books.spooled
            log.log(logging.WARNING if undelivered else logging.INFO, "books closed: %s", books, extra=where)
            if not books.balanced:
                log.error("the books do not balance", extra=where)
