"""One captured interface: its slots, its capture socket, its worker, and its books across epochs.

Invariant: the supervisor alone reads the kernel's statistics (reading resets them), and whenever no worker is alive

    received = kernel_drops + own drops + committed by workers + what the engine's ring still holds

is exact. A ring outlives its reader: a killed worker's successor reads on, in the same epoch. An epoch is closed by
shutting its filter first, so that nothing is counted behind our back; then what the ring still holds is counted in the
ring itself, block by block, and booked under a reason, so that the sum proves something. Only pypcap hides its ring:
there the rest is found by subtraction.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from .accounting import Books, Reason
from .budget import Share
from .capture import bpf
from .capture.engine import Engine, Tuning, inherited_engine, open_engine
from .children import Child, Event, State
from .confine.policy import Role
from .errors import ConfigurationError, Exit, InterfaceGoneError, PrivilegeError
from .interfaces import Interface
from .legacy import PORT, Legacy, Note
from .recipe import Recipe
from .region import Region
from .slots import Pipes, Producer, ring_for_dead
from .spawn import Forge, Process
from .systemd.fdstore import Store
from .tally import Tally
from .workers.batcher import rescue
from .workers.capture import CaptureWorker, Plan
from .workers.child import Heartbeat, Signals

# A worker that dies so often at one place of the ring will not get past it.
_DEATHS_AT_ONE_PLACE: Final = 3


class CannotCaptureError(Exception):
    """The interface cannot be opened now; it will be tried again."""


class Port:
    """State of one interface in the supervisor. `program` gives the filter of the moment for an interface's name."""

    def __init__(
        self,
        interface: Interface,
        queue_id: int,
        recipe: Recipe,
        share: Share,
        program: Callable[[str], bytes],
        store: Store,
        legacy: Legacy | None = None,
    ) -> None:
        """OSError: no memory for its slots. With a legacy, interface and share are what that says."""
        self.interface = interface
        # The name in the store. A live rename changes what the interface is opened by, not the stream's identity.
        self.label = interface.name
        self.queue_id = queue_id
        self.child = Child(f"oss-cap-{interface.name}")
        self.process: Process | None = None
        self.retiring: Reason | None = None
        self.pipes = Pipes.create()
        try:
            self.region = legacy.region if legacy else Region.within(share.buffer_bytes, share.slots)
        except OSError:
            self.pipes.close()
            raise
        self._recipe = recipe
        self._tuning = Tuning(share.ring_bytes, recipe.block_timeout_ms, recipe.snaplen, recipe.complete_checksums)
        self._program = program
        self._heartbeat = Heartbeat()
        self.shut = False  # by want of a filter, not for the end
        self._ahead: Engine | None = None
        self._engine: Engine | None = None
        self._epoch = b""
        self._tally = Tally(self.region)
        self._died_at: list[int] = []  # of the deaths in a row that nobody else caused: where in the ring
        self._store = store
        self._kept = ""  # the name under which the service manager keeps socket and slots
        self.handing_over = False
        if legacy is not None:
            try:
                self._take_over(legacy)
            except OSError:
                self.pipes.close()
                raise

    # -- the capture socket ---------------------------------------------------------------------------------------

    def _open(self) -> Engine:
        """A new engine, its filter still shut. Raises CannotCaptureError."""
        try:
            return open_engine(self._recipe.engine, self.interface, bpf.REJECT_ALL, self._tuning)
        except (ConfigurationError, InterfaceGoneError, PrivilegeError, OSError) as e:
            raise CannotCaptureError(str(e)) from e

    def _take_over(self, legacy: Legacy) -> None:
        """The epoch goes on: what is done for a worker that was killed, and the books as the page has them."""
        self.label = legacy.note.label
        self._kept = legacy.name if self._store.holds(legacy.name) else ""
        self._epoch = bytes.fromhex(legacy.note.epoch)
        self._tally.take_up()
        self._tuning = legacy.note.tuning(self._tuning)
        self._engine = inherited_engine(legacy.socket, legacy.note.linktype, self._tuning)
        self._save()
        if self.region.finished(self._epoch):
            # Killed while it drained: the filter is shut for good, and the last section is among those that wait.
            self._close_epoch(Reason.SHUTDOWN)
            return
        self.region.set_ending(on=False)
        try:
            self.refilter(self._program(self.interface.name))
        except (ConfigurationError, OSError):
            self.refilter(None)  # shut, until the supervisor's next tick finds that it compiles (Gate.reopen)

    def open_ahead(self) -> None:
        """Opens what `start` will want, from any thread; what goes wrong is told by `start`, which tries again."""
        with contextlib.suppress(CannotCaptureError):
            self._ahead = self._open()

    def _admit(self, engine: Engine) -> None:
        """Opens the engine's filter. Raises CannotCaptureError."""
        try:
            bpf.attach(engine.socket, self._program(self.interface.name))
        except (ConfigurationError, OSError) as e:
            engine.socket.close()
            raise CannotCaptureError(str(e)) from e

    def _adopt(self, engine: Engine) -> None:
        """A new capture socket: new kernel counters, and a new identity for what is read from it."""
        self._engine = engine
        self.shut = False
        self._epoch = secrets.token_bytes(16)
        self._died_at.clear()
        self._tally.begin_epoch()
        if engine.survives_reader:
            self._keep(engine)

    def _keep(self, engine: Engine) -> None:
        """From here on the epoch outlives this process. See legacy.py."""
        note = Note(
            label=self.label,
            ifindex=self.interface.index,
            epoch=self._epoch.hex(),
            linktype=engine.linktype,
            ring_bytes=self._tuning.ring_bytes,
            timeout_ms=self._tuning.timeout_ms,
        )
        self._kept = ""
        try:
            fd = note.sealed()
        except OSError:  # no descriptor to be had: then it does not
            return
        self._kept = self._store.keep(PORT, (engine.socket.fileno(), self.region.fd, fd))
        os.close(fd)

    @property
    def capturing(self) -> bool:
        return self._engine is not None

    @property
    def unplugged(self) -> bool:
        """The interface is gone, and what has its index now is not what this was opened on."""
        return self._engine is not None and bpf.unbound(self._engine.socket)

    @property
    def epoch(self) -> str:
        """The present one, as on the wire; of the last one when none is open."""
        return self._epoch.hex()

    def limit_sections(self, most_bytes: int) -> None:
        """As many bytes a section has from now on, at most; 0: a slot's."""
        self.region.limit_sections(most_bytes)

    def describe_filter(self, text: str) -> None:
        """What the interface's sections name as their filter from now on: the user's."""
        self.region.set_filter_text(text)

    def refilter(self, program: bytes | None) -> None:
        """Another filter; None lets nothing through, until the next call. OSError: the kernel did not take it."""
        if self._engine is not None:
            bpf.attach(self._engine.socket, program or bpf.REJECT_ALL)
        self.shut = program is None

    def _shut_for_good(self) -> None:
        if self._engine is not None:
            bpf.attach(self._engine.socket, bpf.REJECT_ALL)
            self.region.set_ending(on=True)

    def read_statistics(self) -> None:
        """Adds what the kernel counted since the last reading."""
        if self._engine is None:
            return
        self.region.begin_reading()
        # ENETDOWN, ENODEV: the interface is going away; the counters stay readable after the error is taken.
        with contextlib.suppress(OSError):
            counts = bpf.statistics(self._engine.socket)
            # Killed here: see legacy.py.
            self._tally.add(counts.received, counts.dropped)
        self.region.end_reading()

    def _save(self) -> None:
        """With the worker dead: hands on the batch that it was filling, and tells both sides to look."""
        rescue(Producer(self.region, self.pipes.ready_write, self.pipes.free_read))
        ring_for_dead(self.pipes)

    def _close_epoch(self, reason: Reason) -> int:
        """With the worker dead: saves its open batch, and books and returns what it leaves behind."""
        engine = self._engine
        if engine is None:
            return 0
        self._shut_for_good()
        self.read_statistics()
        self._save()
        lost = engine.maybe_unread(self.region.consumed())
        if lost is None:
            lost = self._tally.uncommitted
        self._store.forget(self._kept)
        # Killed here: the slots go with us, as at any later moment. The other way round, another life would take the
        # ring over, and count what it holds once more.
        self._kept = ""
        self._tally.lose(lost, reason)
        engine.socket.close()
        self._engine = None
        return lost

    # -- the worker -----------------------------------------------------------------------------------------------

    def start(self, forge: Forge) -> None:
        """Forks a worker onto the waiting engine, or a new one. Raises CannotCaptureError, which counts as a death."""
        if self._engine is None:
            try:
                engine, self._ahead = self._ahead or self._open(), None
                self._admit(engine)
            except CannotCaptureError as e:
                self.child.could_not_start(time.monotonic(), str(e))
                raise
            self._adopt(engine)
        self._fork(forge)

    def _fork(self, forge: Forge) -> None:
        engine, region, pipes, heartbeat = self._engine, self.region, self.pipes, self._heartbeat
        if engine is None:
            raise AssertionError("a worker is forked onto an engine")
        plan = Plan(
            interface=self.label,
            ifindex=self.interface.index,
            epoch=self._epoch,
            application=self._recipe.application,
            batch_s=self._recipe.batch_ms / 1000,
            block_timeout_s=self._recipe.block_timeout_ms / 1000,
            snaplen=self._recipe.snaplen,
        )

        def work(signals: Signals) -> Exit:
            producer = Producer(region, pipes.ready_write, pipes.free_read)
            return CaptureWorker(plan, engine, producer, heartbeat).run(signals)

        keep = (engine.fileno(), pipes.ready_write, pipes.free_read)
        try:
            self.process = forge.spawn(self.child.name, Role.CAPTURE, heartbeat, keep, work, mute=keep[:1])
        except OSError as e:
            self.child.could_not_start(time.monotonic(), f"no process to be had: {e}")
            raise CannotCaptureError(f"no process to be had: {e}") from e
        engine.lend()
        self.child.started(time.monotonic())

    def hand_over(self) -> bool:
        """Has the worker leave, with filter and epoch as they are, to another life of the sensor; False: stop it."""
        if not self._kept or self.retiring is not None:
            return False
        self.handing_over = True
        self.read_statistics()
        if self.child.step(Event.STOP) is State.DRAINING and self.process is not None:
            self.process.signal(signal.SIGTERM)
        return True

    def stop(self, forge: Forge) -> None:
        """Shuts the filter and has a worker read what the kernel still holds, forking one if none is alive."""
        self._shut_for_good()
        self.read_statistics()
        if self.child.state in {State.BACKOFF, State.IDLE} and self._engine is not None:
            with contextlib.suppress(CannotCaptureError):
                self._fork(forge)
        if self.child.step(Event.STOP) is State.DRAINING and self.process is not None:
            self.process.signal(signal.SIGTERM)
        elif self.process is None:
            self._close_epoch(self.retiring or Reason.SHUTDOWN)  # no process to be had, and nobody left to read

    @property
    def maybe_reading_s(self) -> float | None:
        """Since when the present worker, or the one that died last, has been reading; None if it never did."""
        return self._heartbeat.maybe_reading_s

    def ended(self, exit_code: int, forge: Forge) -> int:
        """Takes in the worker's end; returns the packets that are lost by it."""
        process, self.process = self.process, None
        asked = self.child.state is State.DRAINING
        struck = process is not None and process.struck(exit_code)
        struck = struck and self.child.may_hurry(worked=self.maybe_reading_s is not None)
        survives = self._engine is not None and self._engine.survives_reader
        if asked and struck and survives and not self.handing_over:
            self._save()
            if not self.region.finished(self._epoch):
                # The ring holds what it had not read, and this was the last reader that it was to have.
                self.child.struck_in_drain()
                self.stop(forge)
                return 0
        state = self.child.ended(exit_code, time.monotonic(), struck=struck)
        if self.handing_over:
            self._save()
            return 0
        if asked:
            return self._close_epoch(self.retiring or Reason.SHUTDOWN)
        if survives and not self._hopeless(struck=struck):
            self._save()
            return 0
        return self._replace_engine(
            Reason.INTERFACE_GONE if exit_code == Exit.GAVE_UP else Reason.WORKER_DIED, reopen=state is State.BACKOFF
        )

    def _hopeless(self, *, struck: bool) -> bool:
        """Whether workers keep dying, by themselves, over the same block of the ring."""
        if struck:
            return False  # it says nothing about what it was reading
        consumed = self.region.consumed()
        self._died_at = [*(place for place in self._died_at if place == consumed), consumed]
        return len(self._died_at) >= _DEATHS_AT_ONE_PLACE

    def _replace_engine(self, reason: Reason, *, reopen: bool) -> int:
        """Gives up the engine of a dead worker; returns the packets that are lost with it.

        If the worker is to be replaced, its successor's socket takes over at once, whatever the back-off: the kernel's
        ring bridges it. The new door opens before the old one shuts, so that no packet passes unseen. Those of the
        moment between are in both rings; the old ring is read by nobody any more, so they are stored once, and counted
        once too often: as received, and as left behind.
        """
        successor = None
        if reopen:
            with contextlib.suppress(CannotCaptureError):
                successor = self._open()
                self._admit(successor)
        lost = self._close_epoch(reason)
        if successor is not None and successor.socket.fileno() >= 0:
            self._adopt(successor)
        return lost

    def kill(self) -> None:
        """The drain's time is over."""
        if self.process is not None:
            self.process.kill()
            self.process = None
        if self.handing_over:
            self._save()
        else:
            self._close_epoch(Reason.SHUTDOWN)

    # -- the end --------------------------------------------------------------------------------------------------

    def books(self, *, slots_lost: bool = False) -> Books:
        """The interface's counts now.

        While the engine is open, what is in flight is found by subtraction, because a worker moves packets meanwhile:
        the counts balance by definition. When it is closed they balance because nothing is missing.
        """
        delivered = self.region.delivered()
        tally = self._tally
        dropped = Counter(tally.own)
        dropped.update(self.region.dropped())
        spooled = self.region.spooled()
        if self._engine is not None:
            self.read_statistics()  # after what is settled was read: the sum cannot be short of it
            in_flight = tally.received - tally.kernel_drops - delivered - spooled - dropped.total()
        else:
            in_flight = self.region.in_flight()
        if slots_lost:
            dropped[Reason.SHUTDOWN] += in_flight
            in_flight = 0
        return Books(tally.received, tally.kernel_drops, delivered, in_flight, dict(dropped), spooled)

    def close(self) -> None:
        """Releases memory and descriptors. The uploader maps the region still, if it has anything of it left."""
        self.region.close()
        self.pipes.close()
        self._heartbeat.close()
        os.close(self.region.fd)
