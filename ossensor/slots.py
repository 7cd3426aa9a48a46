"""The shared-memory queue between one capture worker and the uploader: batches in slots, doorbells in pipes.

Invariant: a slot's header alone says who may touch the slot, and it changes hands by one aligned 8-byte store.

    FREE      the worker's to take          -> FILLING by the worker
    FILLING   the worker's                  -> READY   by the worker, or by its successor
    READY     the uploader's                -> SETTLING, FREE by the uploader, once the vSensor has it or it is dropped

So a batch stays in its slot until it is settled, and SIGKILL of either side at any instruction loses none: whoever
comes next reads the headers. What crosses the pipes are doorbells (16 bytes, hence atomic by POSIX's PIPE_BUF; they
can be polled; and the pipe's lock orders the slot's bytes before the reader's look at them, on Arm too, where a pure
head/tail ring in Python has no barriers). A lost or repeated doorbell is harmless, because the header decides.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final, NamedTuple

from .accounting import UPLOADER_REASONS, Reason
from .region import Commit, Control, Header, Region, State, is_settle_word

_DOORBELL = struct.Struct("<QQ")
_ANY_SLOT: Final = 2**64 - 1  # a doorbell that names no slot: look at all headers

# The smallest EPB is 32 bytes, so a header that claims more packets than this per byte lies.
_SMALLEST_PACKET_BYTES: Final = 32


class Pipes(NamedTuple):
    """Both doorbell lines. The supervisor keeps all four ends, so that it can lend them to successors."""

    ready_read: int
    ready_write: int
    free_read: int
    free_write: int

    @classmethod
    def create(cls) -> Pipes:
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        ready = os.pipe2(flags)
        try:
            return cls(*ready, *os.pipe2(flags))
        except OSError:  # it is tried again and again, and would take the last descriptors
            for fd in ready:
                os.close(fd)
            raise

    def close(self) -> None:
        for fd in self:
            os.close(fd)


def _ring(fd: int, slot: int, sequence: int = 0) -> None:
    # BlockingIOError: thousands of doorbells wait there; the reader will wake, and reads headers.
    with contextlib.suppress(BlockingIOError):
        os.write(fd, _DOORBELL.pack(slot, sequence))


def _heard(fd: int) -> list[int]:
    """The slots named by the doorbells that wait. Never blocks, nor listens for ever to one that never stops."""
    slots: list[int] = []
    for _ in range(16):
        try:
            data = os.read(fd, 256 * _DOORBELL.size)
        except BlockingIOError:
            return slots
        if len(data) % _DOORBELL.size:
            # Ours are whole. A compromised worker's need not be, and its successor's are then cut at wrong places.
            return [_ANY_SLOT]
        slots += [slot for slot, _ in _DOORBELL.iter_unpack(data)]
        if len(data) < 256 * _DOORBELL.size:
            break
    return slots


class Producer:
    """The worker's side. Holds at most one FILLING slot."""

    def __init__(self, region: Region, ready_write: int, free_read: int) -> None:
        self.region = region
        self._ready_write = ready_write
        self.free_read = free_read
        self._free: deque[int] = deque()
        self._known_free: set[int] = set()
        self._used_before: set[int] = set()
        self._look_at_all()

    def _look_at_all(self) -> None:
        for slot in range(self.region.count):
            self._offer(slot)

    def _offer(self, slot: int) -> None:
        if slot < self.region.count and slot not in self._known_free and self.region.state(slot) == State.FREE:
            self._free.append(slot)
            self._known_free.add(slot)

    def listen(self) -> None:
        """Takes in the slots that the uploader has freed."""
        for slot in _heard(self.free_read):
            if slot == _ANY_SLOT:
                self._look_at_all()
            else:
                self._offer(slot)

    @property
    def free(self) -> int:
        return len(self._free)

    @property
    def sequence(self) -> int:
        """The sequence that the next batch will have."""
        return self.region.control(Control.SEQUENCE)

    def begin(self, epoch: bytes) -> int:
        """Takes a free slot for the epoch's next batch and says which. IndexError when there is none: ask `free` first.

        The slot that was freed last, because it is the one that the processor's cache still holds. A kill before
        FILLING is stored leaves the slot FREE, its header half written: nobody reads a FREE header.
        """
        slot = self._free.pop()
        self._known_free.discard(slot)
        region = self.region
        if slot not in self._used_before:
            self._used_before.add(slot)
            region.populate(slot)
        high, low = struct.unpack(">QQ", epoch)
        committed, sequence = region.control(Control.COMMITTED), region.control(Control.SEQUENCE)
        region.set_headers(slot, Header.COMMIT, 0, sequence, high, low, committed, 0, 0)
        first_packet = committed - region.control(Control.EPOCH_START)
        region.set_headers(slot, Header.FIRST_PACKET, first_packet, 0, region.control(Control.BLOCKS))
        region.set_header(slot, Header.STATE, State.FILLING)
        # Killed here: orphan() finds the sequence in the slot.
        region.set_control(Control.SEQUENCE, sequence + 1)
        return slot

    def commit(self, slot: int, commit: Commit, first_ns: int, last_ns: int) -> None:
        """From here on the slot's first `used_bytes`, and that its ring blocks are read, survive this process."""
        region = self.region
        region.set_header(slot, Header.FIRST_NS, first_ns)
        region.set_header(slot, Header.LAST_NS, last_ns)
        region.set_header(slot, Header.COMMIT, commit.pack())
        # Killed here: Region.committed() and Region.consumed() take the slot's word for it.
        region.set_control(Control.COMMITTED, region.header(slot, Header.BASE) + commit.packets)
        # Killed here: likewise.
        region.set_control(Control.BLOCKS, region.header(slot, Header.BLOCK_BASE) + commit.blocks)

    def publish(self, slot: int, closing: Closing) -> None:
        """Hands the closed section to the uploader."""
        region = self.region
        region.set_header(slot, Header.LENGTH, closing.length)
        region.set_headers(slot, Header.RECEIVED, closing.received, closing.kernel_drops)
        region.set_header(slot, Header.FINAL, int(closing.final))
        # Killed here: rescue() finds FINAL, and says what follows.
        if closing.final:
            region.set_control(Control.FINISHED, region.header(slot, Header.EPOCH_LOW))
        region.set_header(slot, Header.STATE, State.READY)
        # Killed here: the doorbell is missing. The supervisor rings for a dead worker (ring_for_dead).
        _ring(self._ready_write, slot, region.header(slot, Header.SEQUENCE))

    def abandon(self, slot: int) -> None:
        """Gives back a slot that holds no packet, and its sequence with it."""
        self.region.set_control(Control.SEQUENCE, self.region.header(slot, Header.SEQUENCE))
        self.region.set_header(slot, Header.STATE, State.FREE)
        self._offer(slot)

    def orphan(self) -> Orphan | None:
        """What a killed predecessor was filling; to be closed and published, or abandoned if empty and not final."""
        region = self.region
        for slot in range(region.count):
            if region.state(slot) == State.FILLING:
                # Killed between two stores of begin() or commit(), the totals lag behind the slot: mend them before
                # anyone adds.
                region.set_control(Control.COMMITTED, region.committed())
                region.set_control(Control.BLOCKS, region.consumed())
                region.set_control(Control.SEQUENCE, region.header(slot, Header.SEQUENCE) + 1)
                return Orphan(
                    slot,
                    region.commit_of(slot),
                    first_ns=region.header(slot, Header.FIRST_NS),
                    last_ns=region.header(slot, Header.LAST_NS),
                    final=region.header(slot, Header.FINAL) == 1,
                )
        return None


class Closing(NamedTuple):
    """How a section was closed: its length, and the epoch's kernel counts as its statistics block has them."""

    length: int
    received: int = 0
    kernel_drops: int = 0
    final: bool = False


class Orphan(NamedTuple):
    """A FILLING slot whose filler is dead: everything it had committed."""

    slot: int
    commit: Commit
    first_ns: int
    last_ns: int
    final: bool = False  # it was being published as the epoch's last (begin() has cleared what was there before)


def ring_for_dead(pipes: Pipes) -> None:
    """Tells both sides to look at all headers: called by the supervisor after either died."""
    _ring(pipes.ready_write, _ANY_SLOT)
    _ring(pipes.free_write, _ANY_SLOT)


@dataclass(frozen=True, slots=True)
class Batch:
    """What the uploader knows of a READY slot, copied once: a worker that changes its header later changes nothing."""

    slot: int
    epoch: str
    sequence: int
    packets: int
    length: int
    first_ns: int
    last_ns: int
    first_packet: int = 0  # packets of the epoch in earlier batches
    received: int = 0  # the epoch's kernel counts, as the section's statistics block has them
    kernel_drops: int = 0
    final: bool = False  # the epoch ended with this batch


class Consumer:
    """The uploader's side."""

    def __init__(self, region: Region, ready_read: int, free_write: int) -> None:
        self.region = region
        self.ready_read = ready_read
        self._free_write = free_write
        self._held: set[int] = set()
        self._recover()

    def _recover(self) -> None:
        """Finishes what a killed predecessor was settling (at most one slot: settle() is not re-entered)."""
        region = self.region
        for slot in range(region.count):
            if region.state(slot) == State.SETTLING:
                self._finish(slot)
        # The predecessor may have freed slots without ringing.
        _ring(self._free_write, _ANY_SLOT)
        _heard(self.ready_read)  # what these name is READY already: the scan at the first listen() finds it
        self._scan_due = True

    def listen(self) -> list[Batch]:
        """The batches that became ready since the last call, each once, in sequence order within its epoch."""
        named = _heard(self.ready_read)
        if self._scan_due or _ANY_SLOT in named:
            self._scan_due = False
            return self._scan()
        return self._take(named)

    def _scan(self) -> list[Batch]:
        """Everything READY, by two looks: one alone can see batch 5 and miss 4.

        (4's header is read while it is still FILLING, then both are published, then 5's header is read.) A batch that
        is READY at the first look has all its predecessors READY by then, so the second look, limited to what the
        first proves complete, misses none. What is newer has a doorbell on its way.
        """
        newest: dict[str, int] = {}
        for batch in self._ready(range(self.region.count)):
            newest[batch.epoch] = max(batch.sequence, newest.get(batch.epoch, -1))
        complete = [b.slot for b in self._ready(range(self.region.count)) if b.sequence <= newest.get(b.epoch, -1)]
        return self._take(complete)

    def _ready(self, slots: range | list[int]) -> list[Batch]:
        region = self.region
        found = []
        for slot in slots:
            if slot < region.count and slot not in self._held and region.state(slot) == State.READY:
                epoch = region.header(slot, Header.EPOCH_HIGH) << 64 | region.header(slot, Header.EPOCH_LOW)
                found.append(
                    Batch(
                        slot,
                        epoch=f"{epoch:032x}",
                        sequence=region.header(slot, Header.SEQUENCE),
                        packets=min(region.commit_of(slot).packets, region.slot_bytes // _SMALLEST_PACKET_BYTES),
                        length=region.header(slot, Header.LENGTH),
                        first_ns=region.header(slot, Header.FIRST_NS),
                        last_ns=region.header(slot, Header.LAST_NS),
                        first_packet=region.header(slot, Header.FIRST_PACKET),
                        received=region.header(slot, Header.RECEIVED),
                        kernel_drops=region.header(slot, Header.KERNEL_DROPS),
                        final=region.header(slot, Header.FINAL) == 1,
                    )
                )
        return found

    def _take(self, slots: list[int]) -> list[Batch]:
        batches = sorted(self._ready(list(dict.fromkeys(slots))), key=lambda b: (b.epoch, b.sequence))
        self._held.update(b.slot for b in batches)
        return batches

    def section(self, batch: Batch) -> memoryview | None:
        """The batch's bytes, not copied; None when its header cannot be true (settle it as CORRUPT)."""
        numbers = (batch.sequence, batch.first_packet, batch.received, batch.kernel_drops)
        if not 0 < batch.length <= self.region.slot_bytes or max(numbers) >= 2**63:
            return None
        return self.region.slot(batch.slot)[: batch.length]

    def settle(self, batch: Batch, reason: Reason | None = None, *, spooled: bool = False) -> None:
        """Frees the slot and counts its packets exactly once: delivered, spooled, or dropped for a reason.

        Counter and state are two stores, and a kill between them would count twice or not at all. So the counter's
        *new value* is written into the header first, and the state SETTLING says that it holds: a successor that
        finds SETTLING stores the same value again.
        """
        if spooled:
            word: int = Control.SPOOLED
        else:
            word = Control.DELIVERED if reason is None else Control.DROPPED + UPLOADER_REASONS.index(reason)
        region = self.region
        region.set_header(batch.slot, Header.SETTLE_WORD, word)
        region.set_header(batch.slot, Header.SETTLE_VALUE, region.control(word) + batch.packets)
        region.set_header(batch.slot, Header.STATE, State.SETTLING)
        self._finish(batch.slot)
        self._held.discard(batch.slot)

    def _finish(self, slot: int) -> None:
        region = self.region
        word = region.header(slot, Header.SETTLE_WORD)
        if is_settle_word(word):
            region.set_control(word, region.header(slot, Header.SETTLE_VALUE))
        region.set_header(slot, Header.STATE, State.FREE)
        # Killed here: the doorbell is missing; the successor's first act is to ring for all.
        _ring(self._free_write, slot)

    @property
    def held(self) -> int:
        return len(self._held)

    def idle(self) -> bool:
        """True when no slot is filled, filling or being settled: the queue may be closed."""
        return all(self.region.state(slot) == State.FREE for slot in range(self.region.count))
