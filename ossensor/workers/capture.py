"""The capture worker: packets from one engine into slots, one pcapng section a slot.

Invariant: a packet that the engine has given is either committed to a slot, where it survives this process, or this
process died between the two: then a ring still has it for the successor, and with pypcap the supervisor finds it by
subtraction (kernel's count less committed) and counts it as worker_died. When no slot is free the worker does not read:
the kernel's ring fills, and the kernel counts for us. Nothing here waits for the network, the disk or a log.
"""

from __future__ import annotations

import logging
import select
import time
from dataclasses import dataclass
from typing import Final

from ossensor.capture.engine import Engine
from ossensor.complaints import Complaints
from ossensor.errors import Exit, InterfaceGoneError
from ossensor.logs import fields
from ossensor.slots import Producer

from .batcher import Batcher, Opening
from .child import HEARTBEAT_S, Heartbeat, Signals

log = logging.getLogger(__name__)

# Packets per call of the engine: the loop looks at signals and ages between calls, some hundred times a second.
_READ_AT_MOST: Final = 512
# A drain takes this long at least: the supervisor reads the last statistics meanwhile, for the last section.
_DRAIN_AT_LEAST_S: Final = 0.1
# A drain that finds no free slot for this long leaves the ring to the supervisor's count.
_DRAIN_PATIENCE_S: Final = 1.0


@dataclass(frozen=True)
class Plan:
    """What the worker was forked for."""

    interface: str
    ifindex: int
    epoch: bytes
    application: str
    batch_s: float
    snaplen: int
    block_timeout_s: float  # how long the kernel may hold a packet before it shows it


class CaptureWorker:
    """The loop over engine, doorbells and signals."""

    def __init__(self, plan: Plan, engine: Engine, producer: Producer, heartbeat: Heartbeat) -> None:
        self._plan = plan
        self._engine = engine
        self._producer = producer
        self._heartbeat = heartbeat
        opening = Opening(plan.interface, engine.linktype, plan.snaplen, plan.application)
        # The kernel may have held the first packet for one block timeout already; the batch's age counts that.
        max_age_s = max(0.0, plan.batch_s - plan.block_timeout_s)
        self._batcher = Batcher(producer, plan.epoch, opening, max_age_s, engine.unit_bytes)
        self._drain_until_s: float | None = None
        self._complaints = Complaints(log, logging.INFO)

    def run(self, signals: Signals) -> Exit:
        """Captures until SIGTERM, then drains: DRAINED, or GAVE_UP when the interface is gone.

        It closes the epoch if the supervisor has shut the filter. A SIGTERM from anywhere else, or one that comes with
        the supervisor's own, ends this process alone: a successor reads on, in this life of the sensor or the next.
        """
        where = fields(interface=self._plan.interface, ifindex=self._plan.ifindex, epoch=self._plan.epoch.hex())
        self._engine.resume(self._producer.region.consumed())
        log.info("capturing", extra=where)
        try:
            self._loop(signals)
        except InterfaceGoneError as e:
            log.warning("the interface is gone: %s", e, extra=where)
            self._batcher.publish()
            return Exit.GAVE_UP
        if self._batcher.room() and self._producer.region.ending:
            self._batcher.finish()
        else:
            # Something may be left that found no slot, or a successor reads on: these are not the epoch's last counts.
            self._batcher.publish()
        return Exit.DRAINED

    def _loop(self, signals: Signals) -> None:
        poll = select.poll()
        poll.register(signals.fileno(), select.POLLIN)
        poll.register(self._producer.free_read, select.POLLIN)
        engine_fd = self._engine.fileno()
        watching = False
        self._read()
        self._heartbeat.reading()
        while True:
            self._heartbeat.beat()
            # Without room the engine's descriptor stays readable, and polling it would spin.
            if (self._batcher.room() > 0) is not watching:
                watching = not watching
                if watching:
                    poll.register(engine_fd, select.POLLIN)
                else:
                    poll.unregister(engine_fd)
            for fd, event in poll.poll(self._timeout_ms()):
                self._attend(fd, event, signals)
            moved = self._read()
            due_s = self._batcher.due_s()
            left_s = HEARTBEAT_S if due_s is None else due_s - time.monotonic()
            if left_s <= 0:
                self._batcher.publish()
            elif moved:
                self._engine.gather(left_s)
            if self._drained(moved):
                return

    def _attend(self, fd: int, event: int, signals: Signals) -> None:
        """Each is asked only when there is something: the loop turns for every few blocks of a busy link."""
        if fd == self._producer.free_read:
            self._producer.listen()
        elif fd == signals.fileno():
            self._hear(signals)
        elif event & select.POLLERR and (why := self._engine.maybe_trouble()):
            self._complaints.say(f"the kernel says: {why}", interface=self._plan.interface)

    def _hear(self, signals: Signals) -> None:
        if signals.take() and self._drain_until_s is None:
            # If this is the end, every filter is shut by now. What was captured before becomes visible within one
            # block timeout; three leave room for a late timer (measured exact in 60 of 60 stops).
            wait_s = max(3 * self._plan.block_timeout_s, _DRAIN_AT_LEAST_S)
            self._drain_until_s = time.monotonic() + wait_s

    def _read(self) -> int:
        """Packets moved. An engine that fails half way has given some, too: commit before the error goes up."""
        try:
            return self._engine.read(self._batcher, _READ_AT_MOST)
        finally:
            self._batcher.commit()

    def _drained(self, moved: int) -> bool:
        if self._drain_until_s is None:
            return False
        now_s = time.monotonic()
        if not self._producer.region.ending:
            return now_s >= self._drain_until_s  # packets keep coming, and what is left is not lost
        if moved:
            self._drain_until_s = max(self._drain_until_s, now_s + self._plan.block_timeout_s)
        patience_s = 0.0 if self._batcher.room() else _DRAIN_PATIENCE_S
        return now_s >= self._drain_until_s + patience_s

    def _timeout_ms(self) -> float:
        now_s = time.monotonic()
        until_s = now_s + (HEARTBEAT_S if self._drain_until_s is None else self._plan.block_timeout_s)
        due_s = self._batcher.due_s()
        if due_s is not None:
            until_s = min(until_s, due_s)
        return max(0.0, (until_s - now_s) * 1000)
