"""The shared-memory queue between one capture worker and the uploader: batches in slots, doorbells in pipes.

Invariant: a slot's header alone says who may touch the slot, and it changes hands by one aligned 8-byte store.

    FREE      the worker's to take          -> FILLING by the worker
    FILLING   the worker's                  -> READY   by the worker, or by its successor
    READY     the uploader's                -> SETTLING, FREE by the uploader, once the vSensor has it or it is dropped

So a batch stays in its slot until it is settled, and SIGKILL of either side at any instruction loses none: whoever
comes next reads the headers. What crosses the pipes are doorbells (16 bytes, hence atomic by POSIX's PIPE_BUF; they
can be polled; and the pipe's lock orders the slot's bytes before the reader's look at them, on Arm too, where a pure
head/tail ring in Python has no barriers). A lost or repeated doorbell is harmless, because the header decides.

Memory is a memfd, not shm_open: Fargate's /dev/shm is 64 MiB and cannot be raised, and named segments outlive or
predecease their users. It is sealed against resizing (a worker that shrank it would kill its readers by SIGBUS) and
allocated in full at the start (a late SIGBUS is not an error message).
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
from collections import deque
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from .accounting import UPLOADER_REASONS, Reason

_MAGIC: Final = 0x31544F4C534F  # "OSLOT1"
_CONTROL_BYTES: Final = 4096
_HEADER_BYTES: Final = 128
_WORD: Final = 8
# Where the control page holds the text of the user's filter, which every section names.
_FILTER_AT: Final = 1024
_FILTER_BYTES: Final = _CONTROL_BYTES - _FILTER_AT
_DOORBELL = struct.Struct("<QQ")
_ANY_SLOT: Final = 2**64 - 1  # a doorbell that names no slot: look at all headers

# The smallest EPB is 32 bytes, so a header that claims more packets than this per byte lies.
_SMALLEST_PACKET_BYTES: Final = 32


class State(IntEnum):
    """Whose a slot is."""

    FREE = 0
    FILLING = 1
    READY = 2
    SETTLING = 3


class _Control(IntEnum):
    """Words of the control page, each with one writer."""

    MAGIC = 0
    COUNT = 1
    SLOT_BYTES = 2
    COMMITTED = 8  # worker: packets committed to slots, all epochs
    RECEIVED = 16  # supervisor: the current epoch's tp_packets
    KERNEL_DROPS = 17  # supervisor: the current epoch's tp_drops
    FILTER_VERSION = 18  # supervisor: of the text below; odd while it is being written
    FILTER_LENGTH = 19
    DELIVERED = 24  # uploader: packets acknowledged
    DROPPED = 25  # uploader: the first of UPLOADER_REASONS


class _Header(IntEnum):
    """Words of a slot's header."""

    STATE = 0
    COMMIT = 1  # packets << 32 | bytes used: one store commits both
    SEQUENCE = 2
    EPOCH_HIGH = 3
    EPOCH_LOW = 4
    BASE = 5  # COMMITTED as it was when the slot was begun
    FIRST_NS = 6
    LAST_NS = 7
    LENGTH = 8  # the closed section's
    SETTLE_WORD = 9  # redo log of settle(): which control word,
    SETTLE_VALUE = 10  # and the value it gets


class Region:
    """The memory: a control page, one header per slot, and the slots. Knows the layout and nothing of who uses it."""

    def __init__(self, fd: int) -> None:
        """Maps an existing region, which stays the caller's to close."""
        self.fd = fd
        self._map = mmap.mmap(fd, 0)
        self._words = memoryview(self._map).cast("Q")
        if self._words[_Control.MAGIC] != _MAGIC:
            raise ValueError("the descriptor is no slot region")
        self.count = self._words[_Control.COUNT]
        self.slot_bytes = self._words[_Control.SLOT_BYTES]
        if self.size(self.count, self.slot_bytes) != len(self._map):
            raise ValueError("the slot region's size contradicts its control page")
        self._slots_at = _slots_offset(self.count)

    @staticmethod
    def size(count: int, slot_bytes: int) -> int:
        return _slots_offset(count) + count * slot_bytes

    @classmethod
    def create(cls, count: int, slot_bytes: int) -> Region:
        """A new region, all slots free. Raises OSError (ENOSPC, ENOMEM) now rather than SIGBUS later."""
        size = cls.size(count, slot_bytes)
        fd = os.memfd_create("ossensor-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(fd, 0, size)
            os.pwrite(fd, struct.pack("<QQQ", _MAGIC, count, slot_bytes), 0)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            return cls(fd)
        except BaseException:
            os.close(fd)
            raise

    def control(self, word: int) -> int:
        return self._words[word]

    def set_control(self, word: int, value: int) -> None:
        self._words[word] = value

    def header(self, slot: int, word: int) -> int:
        return self._words[(_CONTROL_BYTES + slot * _HEADER_BYTES) // _WORD + word]

    def set_header(self, slot: int, word: int, value: int) -> None:
        self._words[(_CONTROL_BYTES + slot * _HEADER_BYTES) // _WORD + word] = value

    def state(self, slot: int) -> int:
        return self.header(slot, _Header.STATE)

    def slot(self, slot: int) -> memoryview:
        start = self._slots_at + slot * self.slot_bytes
        return memoryview(self._map)[start : start + self.slot_bytes]

    def close(self) -> None:
        """Unmaps. Views handed out must be gone; one that is not keeps the mapping, which then dies with it."""
        self._words.release()
        # BufferError: a sender thread still holds a slice; the garbage collector unmaps after it.
        with contextlib.suppress(BufferError):
            self._map.close()

    def in_flight(self) -> int:
        """Packets committed to slots and not settled. Exact once worker and uploader stand still, or are dead."""
        total = 0
        for slot in range(self.count):
            state = self.state(slot)
            if state in {State.FILLING, State.READY} or (state == State.SETTLING and not self._counted(slot)):
                total += self.header(slot, _Header.COMMIT) >> 32
        return total

    def _counted(self, slot: int) -> bool:
        """True when the counter that a SETTLING slot's redo log names has its new value already."""
        word = self.header(slot, _Header.SETTLE_WORD)
        return is_settle_word(word) and self.control(word) == self.header(slot, _Header.SETTLE_VALUE)

    def committed(self) -> int:
        """Packets that workers committed to slots, exact also after a worker's SIGKILL.

        commit() stores the slot's word first and the total second; killed between the two, the slot knows more. The
        slot's base makes its knowledge a total too, so the larger of the two is right.
        """
        total = self.control(_Control.COMMITTED)
        for slot in range(self.count):
            if self.state(slot) == State.FILLING:
                total = max(total, self.header(slot, _Header.BASE) + (self.header(slot, _Header.COMMIT) >> 32))
        return total

    def delivered(self) -> int:
        return self.control(_Control.DELIVERED)

    def dropped(self) -> dict[Reason, int]:
        """Drops that the uploader owns."""
        return {reason: self.control(_Control.DROPPED + i) for i, reason in enumerate(UPLOADER_REASONS)}

    def set_kernel_counts(self, received: int, dropped: int) -> None:
        """The supervisor's reading of the epoch's statistics, for the section's ISB."""
        self.set_control(_Control.RECEIVED, received)
        self.set_control(_Control.KERNEL_DROPS, dropped)

    def set_filter_text(self, text: str) -> None:
        """What sections name as their filter from now on; cut to what the page holds."""
        data = text.encode("utf-8", "replace")[:_FILTER_BYTES]
        version = self.control(_Control.FILTER_VERSION)
        self.set_control(_Control.FILTER_VERSION, version + 1)
        self._map[_FILTER_AT : _FILTER_AT + len(data)] = data
        self.set_control(_Control.FILTER_LENGTH, len(data))
        self.set_control(_Control.FILTER_VERSION, version + 2)

    @property
    def filter_version(self) -> int:
        return self.control(_Control.FILTER_VERSION)

    def filter_text(self) -> str:
        length = min(self.control(_Control.FILTER_LENGTH), _FILTER_BYTES)
        return self._map[_FILTER_AT : _FILTER_AT + length].decode("utf-8", "replace")

    def kernel_counts(self) -> tuple[int, int]:
        return self.control(_Control.RECEIVED), self.control(_Control.KERNEL_DROPS)


def is_settle_word(word: int) -> bool:
    """True for the uploader's counters. A compromised worker writes headers too, and must not reach other words."""
    return _Control.DELIVERED <= word < _Control.DROPPED + len(UPLOADER_REASONS)


def _slots_offset(count: int) -> int:
    headers_end = _CONTROL_BYTES + count * _HEADER_BYTES
    return -(-headers_end // mmap.PAGESIZE) * mmap.PAGESIZE


class Pipes(NamedTuple):
    """Both doorbell lines. The supervisor keeps all four ends, so that it can lend them to successors."""

    ready_read: int
    ready_write: int
    free_read: int
    free_write: int

    @classmethod
    def create(cls) -> Pipes:
        flags = os.O_CLOEXEC | os.O_NONBLOCK
        return cls(*os.pipe2(flags), *os.pipe2(flags))

    def close(self) -> None:
        for fd in self:
            os.close(fd)


def _ring(fd: int, slot: int, sequence: int = 0) -> None:
    # BlockingIOError: thousands of doorbells wait there; the reader will wake, and reads headers.
    with contextlib.suppress(BlockingIOError):
        os.write(fd, _DOORBELL.pack(slot, sequence))


def _heard(fd: int) -> list[int]:
    """The slots named by every doorbell that is waiting; never blocks."""
    slots: list[int] = []
    while True:
        try:
            data = os.read(fd, 256 * _DOORBELL.size)
        except BlockingIOError:
            return slots
        slots += [slot for slot, _ in _DOORBELL.iter_unpack(data)]
        if len(data) < 256 * _DOORBELL.size:
            return slots


class Producer:
    """The worker's side. Holds at most one FILLING slot."""

    def __init__(self, region: Region, ready_write: int, free_read: int) -> None:
        self.region = region
        self._ready_write = ready_write
        self.free_read = free_read
        self._free: deque[int] = deque()
        self._known_free: set[int] = set()
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

    def begin(self, epoch: bytes, sequence: int) -> int:
        """Takes a free slot for the batch and says which. IndexError when there is none: ask `free` first.

        A kill before the last store leaves the slot FREE, its header half written: nobody reads a FREE header.
        """
        slot = self._free.popleft()
        self._known_free.discard(slot)
        region = self.region
        high, low = struct.unpack(">QQ", epoch)
        region.set_header(slot, _Header.COMMIT, 0)
        region.set_header(slot, _Header.SEQUENCE, sequence)
        region.set_header(slot, _Header.EPOCH_HIGH, high)
        region.set_header(slot, _Header.EPOCH_LOW, low)
        region.set_header(slot, _Header.BASE, region.control(_Control.COMMITTED))
        region.set_header(slot, _Header.FIRST_NS, 0)
        region.set_header(slot, _Header.LAST_NS, 0)
        region.set_header(slot, _Header.STATE, State.FILLING)
        return slot

    def commit(self, slot: int, used: int, packets: int, first_ns: int, last_ns: int) -> None:
        """From here on the slot's first `used` bytes, with `packets` packets in all, survive this process."""
        region = self.region
        region.set_header(slot, _Header.FIRST_NS, first_ns)
        region.set_header(slot, _Header.LAST_NS, last_ns)
        region.set_header(slot, _Header.COMMIT, packets << 32 | used)
        # Killed here: Region.committed() takes the slot's word for it.
        region.set_control(_Control.COMMITTED, region.header(slot, _Header.BASE) + packets)

    def publish(self, slot: int, length: int) -> None:
        """Hands the closed section of `length` bytes to the uploader."""
        self.region.set_header(slot, _Header.LENGTH, length)
        self.region.set_header(slot, _Header.STATE, State.READY)
        # Killed here: the doorbell is missing. The supervisor rings for a dead worker (ring_for_dead).
        _ring(self._ready_write, slot, self.region.header(slot, _Header.SEQUENCE))

    def abandon(self, slot: int) -> None:
        """Gives back a slot that holds no packet."""
        self.region.set_header(slot, _Header.STATE, State.FREE)
        self._offer(slot)

    def orphan(self) -> Orphan | None:
        """The slot that a killed predecessor was filling; to be closed and published, or abandoned when empty."""
        region = self.region
        for slot in range(region.count):
            if region.state(slot) == State.FILLING:
                # Killed between commit()'s two stores, the total lags behind the slot: mend it before anyone adds.
                region.set_control(_Control.COMMITTED, region.committed())
                commit = region.header(slot, _Header.COMMIT)
                return Orphan(
                    slot,
                    used=commit & 0xFFFFFFFF,
                    packets=commit >> 32,
                    first_ns=region.header(slot, _Header.FIRST_NS),
                    last_ns=region.header(slot, _Header.LAST_NS),
                )
        return None


class Orphan(NamedTuple):
    """A FILLING slot whose filler is dead: everything it had committed."""

    slot: int
    used: int
    packets: int
    first_ns: int
    last_ns: int


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
                commit = region.header(slot, _Header.COMMIT)
                epoch = region.header(slot, _Header.EPOCH_HIGH) << 64 | region.header(slot, _Header.EPOCH_LOW)
                found.append(
                    Batch(
                        slot,
                        epoch=f"{epoch:032x}",
                        sequence=region.header(slot, _Header.SEQUENCE),
                        packets=min(commit >> 32, region.slot_bytes // _SMALLEST_PACKET_BYTES),
                        length=region.header(slot, _Header.LENGTH),
                        first_ns=region.header(slot, _Header.FIRST_NS),
                        last_ns=region.header(slot, _Header.LAST_NS),
                    )
                )
        return found

    def _take(self, slots: list[int]) -> list[Batch]:
        batches = sorted(self._ready(list(dict.fromkeys(slots))), key=lambda b: (b.epoch, b.sequence))
        self._held.update(b.slot for b in batches)
        return batches

    def section(self, batch: Batch) -> memoryview | None:
        """The batch's bytes, not copied; None when its header cannot be true (settle it as CORRUPT)."""
        if not 0 < batch.length <= self.region.slot_bytes or batch.sequence >= 2**63:
            return None
        return self.region.slot(batch.slot)[: batch.length]

    def settle(self, batch: Batch, reason: Reason | None = None) -> None:
        """Frees the slot and counts its packets exactly once: delivered, or dropped for a reason.

        Counter and state are two stores, and a kill between them would count twice or not at all. So the counter's
        *new value* is written into the header first, and the state SETTLING says that it holds: a successor that
        finds SETTLING stores the same value again.
        """
        word = _Control.DELIVERED if reason is None else _Control.DROPPED + UPLOADER_REASONS.index(reason)
        region = self.region
        region.set_header(batch.slot, _Header.SETTLE_WORD, word)
        region.set_header(batch.slot, _Header.SETTLE_VALUE, region.control(word) + batch.packets)
        region.set_header(batch.slot, _Header.STATE, State.SETTLING)
        self._finish(batch.slot)
        self._held.discard(batch.slot)

    def _finish(self, slot: int) -> None:
        region = self.region
        word = region.header(slot, _Header.SETTLE_WORD)
        if is_settle_word(word):
            region.set_control(word, region.header(slot, _Header.SETTLE_VALUE))
        region.set_header(slot, _Header.STATE, State.FREE)
        # Killed here: the doorbell is missing; the successor's first act is to ring for all.
        _ring(self._free_write, slot)

    @property
    def held(self) -> int:
        return len(self._held)

    def idle(self) -> bool:
        """True when no slot is filled, filling or being settled: the queue may be closed."""
        return all(self.region.state(slot) == State.FREE for slot in range(self.region.count))
