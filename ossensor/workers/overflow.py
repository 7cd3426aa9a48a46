"""Which batches go from slots to the disk, and what becomes of them there. The uploader's main thread only.

Invariant: a batch that waits has one place: its slot until its file is flushed, the file from then on. One that is
being sent keeps its slot, whatever has been written meanwhile: the sender reads from it.

Half of an interface's slots may wait for the vSensor. What is more goes to the disk, the newest first, because the
oldest are the next to be sent; in a rescue, at a stop, all of it. Then what is being sent is written too, as a copy:
its slot is let go of when this process is about to end, unless an answer came. If the vSensor has it after all, the
next life sends it once more and is told that it is there.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from ossensor.accounting import Reason
from ossensor.complaints import Complaints
from ossensor.logs import fields
from ossensor.slots import Batch
from ossensor.spoolfile import Spooled
from ossensor.transport.compression import Advice
from ossensor.transport.protocol import BatchId

from .lines import Holdings, InSlot, Line, OnDisk, Plan, stream_of
from .spool import Damaged, Order, Spool, Written

log = logging.getLogger(__name__)


class Overflow:
    """The spool, and the batches in it and on their way to it."""

    def __init__(
        self,
        plan: Plan,
        holdings: Holdings,
        complaints: Complaints,
        report: Callable[[Written], None],
    ) -> None:
        self._lines = holdings.lines
        self._window = holdings.window
        self._totals = holdings.totals
        self._complaints = complaints
        self._writing: dict[BatchId, InSlot] = {}
        self._on_disk: set[BatchId] = set()
        self._rescuing = False
        self._copies: dict[BatchId, tuple[Spooled, InSlot]] = {}  # of what is being sent, in a rescue
        self._inherited: set[str] = set()  # streams that an earlier life left something of
        self.trouble = ""  # why the last batch could not be written
        self.advice = Advice(plan.compression)
        self.spool = Spool(Path(plan.spool_folder), plan.spool_bytes, report)
        self._load()

    def _load(self) -> None:
        """What earlier lives left, before any queue is known: it is older than what slots of its epochs hold."""
        try:
            found = self.spool.found()
        except OSError as e:
            self.spool.broken = True
            self.trouble = os.strerror(e.errno or 0)
            self._complaints.say("OSSENSOR_SPOOL_DIR cannot be used", why=os.strerror(e.errno or 0))
            return
        oldest_first = {stream_of(spooled.batch): n for n, spooled in reversed(list(enumerate(found)))}
        for spooled in sorted(found, key=lambda s: (oldest_first[stream_of(s.batch)], s.batch.sequence)):
            if self._window.add(stream_of(spooled.batch), spooled.batch.sequence, OnDisk(spooled)):
                self._on_disk.add(spooled.batch)
                self._inherited.add(stream_of(spooled.batch))
        if found:
            packets = sum(spooled.packets for spooled in found)
            left = fields(batches=len(found), packets=packets, bytes=self.spool.bytes)
            log.info("batches of an earlier life wait in the spool", extra=left)

    def has(self, name: BatchId) -> bool:
        """True for a batch whose slot may be settled: a predecessor was killed between its file and its slot."""
        return name in self._on_disk

    def inherited(self, stream: str) -> bool:
        """True for a stream whose slots may hold what is older than what is on disk."""
        return stream in self._inherited

    def relieve(self, *, rescue: bool) -> None:
        """Orders what should go to the disk now."""
        now_s = time.monotonic()
        self._rescuing = rescue
        full = any(line.consumer.held > _spare(line) for line in self._lines.values())
        if not (rescue or full or self.spool.broken):
            self.trouble = ""  # it may have passed, and may be long before it is tried again: nothing has to go there
        for line in self._lines.values():
            writing = sum(1 for name in line.in_slots if name in self._writing or name in self._copies)
            spare = 0 if rescue else _spare(line)
            for name, item in reversed(line.in_slots.items()):
                if line.consumer.held - writing <= spare:
                    break
                if self._may_go(name) and self.spool.takes(len(item.section), now_s):
                    self._writing[name] = item
                    writing += 1
                    spooled = Spooled(name, item.packets, item.batch.first_ns)
                    self.spool.order(Order(spooled, item.section, line.account(item.batch)))

    def _may_go(self, name: BatchId) -> bool:
        ready = self._rescuing or self._window.waits(stream_of(name), name.sequence)
        return ready and not (name in self._writing or name in self._on_disk or name in self._copies)

    def written(self, written: Written) -> Batch | None:
        """Takes in what the disk said. The batch whose slot is to be settled as spooled, if there is one now."""
        spooled = written.order.spooled
        name, item = spooled.batch, self._writing.pop(spooled.batch)
        self.spool.conclude(written, time.monotonic())
        self.trouble = written.trouble
        if written.trouble:
            rest = "" if written.passing else "; nothing more will be, until a restart"
            self._complaints.say(f"OSSENSOR_SPOOL_DIR: a batch cannot be written{rest}", why=written.trouble)
            return None
        line = self._lines.get(item.queue_id)
        if not self._window.waits(stream_of(name), name.sequence):
            if self._rescuing and line is not None and name in line.in_slots:
                self._copies[name] = spooled, item
                return item.batch
            self.spool.remove(spooled)  # meanwhile it was sent, or is being sent, from its slot
            return None
        self._window.replace(stream_of(name), name.sequence, OnDisk(spooled))
        self._on_disk.add(name)
        self._let_go(name, item)
        return item.batch

    def _let_go(self, name: BatchId, item: InSlot) -> None:
        """The batch's place is its file now."""
        self._totals.spooled += item.packets
        line = self._lines[item.queue_id]
        del line.in_slots[name]
        line.consumer.settle(item.batch, spooled=True)

    @property
    def has_all(self) -> bool:
        """True when everything that is in a slot is on the disk, too."""
        return all(name in self._copies for line in self._lines.values() for name in line.in_slots)

    def leave(self) -> None:
        """Just before the end: what was written as a copy is the batch itself now, unless that was settled."""
        for name, (spooled, item) in self._copies.items():
            line = self._lines.get(item.queue_id)
            if line is not None and name in line.in_slots:
                self._let_go(name, item)
            else:
                self.spool.remove(spooled)
        self._copies.clear()

    def settled(self, item: OnDisk, *, refused: bool) -> None:
        """The vSensor has it, or never will."""
        self.spool.remove(item.spooled)
        self._on_disk.discard(item.spooled.batch)
        self._totals.unspooled += 0 if refused else item.packets
        self._totals.spool_lost += item.packets if refused else 0

    def damaged(self, damaged: Damaged) -> None:
        """The batch is lost, and counted; its file is kept for whoever wants to look."""
        name = damaged.spooled.batch
        self._on_disk.discard(name)
        self._totals.spool_lost += damaged.spooled.packets
        self.spool.set_aside(damaged.spooled)
        where = fields(
            interface=name.stream.interface,
            sequence=name.sequence,
            packets=damaged.spooled.packets,
            reason=Reason.SPOOL_DAMAGED.value,
            why=damaged.why,
        )
        log.error("a batch in the spool is damaged, and lost", extra=where)


def _spare(line: Line) -> int:
    """How many of its slots may wait for the vSensor."""
    return line.consumer.region.count // 2
