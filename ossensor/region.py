"""The memory of one slot queue: a control page, a header for each slot, the slots. Layout, not who uses it.

Invariant: every word has one writer, and a slot's state word changes hands by one aligned 8-byte store (see slots.py).

It is a memfd, not shm_open: Fargate's /dev/shm is 64 MiB and cannot be raised, and named segments outlive or predecease
their users. It is sealed against resizing (a worker that shrank it would kill its readers by SIGBUS) and allocated in
full at the start (a late SIGBUS is not an error message).
"""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Mapping
from enum import IntEnum
from typing import Final, NamedTuple

from .accounting import SUPERVISOR_REASONS, UPLOADER_REASONS, Reason
from .mapping import Mapping as Memory

_MAGIC: Final = 0x31544F4C534F  # "OSLOT1"
_CONTROL_BYTES: Final = 4096
_HEADER_BYTES: Final = 128
_WORD: Final = 8
# A sum of words that a compromised worker wrote may be longer than a word. It is cut: the books of that interface are
# wrong anyway, and say so; the uploader and the supervisor, which serve all interfaces, must not end by it.
_MOST: Final = 2**64 - 1
# Where the control page holds the text of the user's filter, which every section names.
_FILTER_AT: Final = 1024
_FILTER_BYTES: Final = _CONTROL_BYTES - _FILTER_AT


class State(IntEnum):
    """Whose a slot is."""

    FREE = 0
    FILLING = 1
    READY = 2
    SETTLING = 3


class Control(IntEnum):
    """Words of the control page, each with one writer."""

    MAGIC = 0
    COUNT = 1
    SLOT_BYTES = 2
    COMMITTED = 8  # worker: packets committed to slots, all epochs
    BLOCKS = 9  # worker: blocks of the current epoch's ring that are wholly in slots
    SEQUENCE = 10  # worker: of the current epoch's next batch
    FINISHED = 11  # worker: lower half of the epoch whose last section is closed; no other has it, so nobody clears it
    RECEIVED = 16  # supervisor: the current epoch's tp_packets
    KERNEL_DROPS = 17  # supervisor: the current epoch's tp_drops
    FILTER_VERSION = 18  # supervisor: of the text below; odd while it is being written
    FILTER_LENGTH = 19
    EPOCH_START = 20  # supervisor: COMMITTED as it was when the epoch began
    SECTION_BYTES = 21  # supervisor: of a section, at most; 0: as many as a slot has
    DELIVERED = 24  # uploader: packets acknowledged
    DROPPED = 25  # uploader: the first of UPLOADER_REASONS
    SPOOLED = 28  # uploader: packets written to the spool; the word after the last of UPLOADER_REASONS
    TOTAL_RECEIVED = 40  # supervisor: tp_packets of all epochs
    TOTAL_KERNEL_DROPS = 41  # supervisor: tp_drops of all epochs
    OWN_DROPPED = 42  # supervisor: the first of SUPERVISOR_REASONS
    ENDING = 48  # supervisor: 1 when the epoch's filter is shut for good: what its worker reads now is the last
    READING = 49  # supervisor: a Reading


class Reading(IntEnum):
    """What is known of the epoch's kernel counts, which the kernel sets back when they are read."""

    DONE = 0
    UNDER_WAY = 1
    LOST = 2  # a life of the supervisor was killed between the kernel's answer and writing it down


class Header(IntEnum):
    """Words of a slot's header."""

    STATE = 0
    COMMIT = 1  # packets, ring blocks and bytes of the slot in one word (Commit): one store commits all three
    SEQUENCE = 2
    EPOCH_HIGH = 3
    EPOCH_LOW = 4
    BASE = 5  # COMMITTED as it was when the slot was begun
    FIRST_NS = 6
    LAST_NS = 7
    LENGTH = 8  # the closed section's
    SETTLE_WORD = 9  # redo log of settle(): which control word,
    SETTLE_VALUE = 10  # and the value it gets
    RECEIVED = 11  # the epoch's tp_packets as the closed section has them,
    KERNEL_DROPS = 12  # and its tp_drops
    FIRST_PACKET = 13  # packets of the epoch in earlier batches
    FINAL = 14  # 1: the epoch ended with this section
    BLOCK_BASE = 15  # BLOCKS as it was when the slot was begun


class Commit(NamedTuple):
    """What of a slot survives its filler, packed into one word so that one store says it all."""

    used_bytes: int  # a multiple of four, as everything in pcapng
    packets: int
    blocks: int

    def pack(self) -> int:
        return self.packets << 38 | self.blocks << 22 | self.used_bytes >> 2

    @classmethod
    def unpack(cls, word: int) -> Commit:
        return cls((word & 0x3FFFFF) << 2, word >> 38, word >> 22 & 0xFFFF)


# A slot that has taken this many blocks is published, however empty: the word above counts no further.
MOST_BLOCKS: Final = 0xFFFF


class Region:
    """The memory: a control page, one header per slot, and the slots. Knows the layout and nothing of who uses it."""

    def __init__(self, fd: int) -> None:
        """Maps an existing region, which stays the caller's to close."""
        self.fd = fd
        self._memory = Memory(fd)
        self._bytes = self._memory.view
        self._words = self._bytes.cast("Q")
        if self._words[Control.MAGIC] != _MAGIC:
            raise ValueError("the descriptor is no slot region")
        self.count = self._words[Control.COUNT]
        self.slot_bytes = self._words[Control.SLOT_BYTES]
        if self.size(self.count, self.slot_bytes) != len(self._bytes):
            raise ValueError("the slot region's size contradicts its control page")
        self._slots_at = _slots_offset(self.count)

    @staticmethod
    def size(count: int, slot_bytes: int) -> int:
        return _slots_offset(count) + count * slot_bytes

    @classmethod
    def within(cls, total_bytes: int, count: int) -> Region:
        """A new region of not more than that, control page and headers included. Errors as in `create`.

        Exactly that where it divides: a length of whole huge pages is what the kernel aligns a mapping for.
        """
        slot_bytes = (total_bytes - _slots_offset(count)) // count
        return cls.create(count, slot_bytes - slot_bytes % _WORD)

    @classmethod
    def create(cls, count: int, slot_bytes: int) -> Region:
        """A new region, all slots free. Raises OSError (ENOSPC, ENOMEM) now rather than SIGBUS later."""
        size = cls.size(count, slot_bytes)
        fd = os.memfd_create("ossensor-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, size)
            os.pwrite(fd, struct.pack("<QQQ", _MAGIC, count, slot_bytes), 0)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            region = cls(fd)
            region._memory.allocate(fd)
        except BaseException:
            os.close(fd)
            raise
        return region

    def populate(self, slot: int) -> None:
        """Enters the slot's pages into this process's page table: a fork does not copy that for shared memory.

        Without it the first pass through the slot takes a page fault every 4 KiB, while packets arrive.
        """
        start = self._slots_at + slot * self.slot_bytes
        self._memory.populate(start, start + self.slot_bytes)

    def control(self, word: int) -> int:
        return self._words[word]

    def set_control(self, word: int, value: int) -> None:
        self._words[word] = value & _MOST

    def header(self, slot: int, word: int) -> int:
        return self._words[(_CONTROL_BYTES + slot * _HEADER_BYTES) // _WORD + word]

    def set_header(self, slot: int, word: int, value: int) -> None:
        self._words[(_CONTROL_BYTES + slot * _HEADER_BYTES) // _WORD + word] = value & _MOST

    def set_headers(self, slot: int, first_word: int, *values: int) -> None:
        """Consecutive words, at a third of the price; in no order, so not those that a successor reads a story from."""
        at = _CONTROL_BYTES + slot * _HEADER_BYTES + first_word * _WORD
        struct.pack_into(f"={len(values)}Q", self._bytes, at, *values)

    def state(self, slot: int) -> int:
        return self.header(slot, Header.STATE)

    def slot(self, slot: int) -> memoryview:
        start = self._slots_at + slot * self.slot_bytes
        return self._bytes[start : start + self.slot_bytes]

    def close(self) -> None:
        """Unmaps. Views handed out must be gone; one that is not keeps the mapping, which then dies with it."""
        self._words.release()
        self._memory.close()

    def in_flight(self) -> int:
        """Packets committed to slots and not settled. Exact once worker and uploader stand still, or are dead."""
        total = 0
        for slot in range(self.count):
            state = self.state(slot)
            if state in {State.FILLING, State.READY} or (state == State.SETTLING and not self._counted(slot)):
                total += self.commit_of(slot).packets
        return total

    def commit_of(self, slot: int) -> Commit:
        return Commit.unpack(self.header(slot, Header.COMMIT))

    def _counted(self, slot: int) -> bool:
        """True when the counter that a SETTLING slot's redo log names has its new value already."""
        word = self.header(slot, Header.SETTLE_WORD)
        return is_settle_word(word) and self.control(word) == self.header(slot, Header.SETTLE_VALUE)

    def committed(self) -> int:
        """Packets that workers committed to slots, exact also after a worker's SIGKILL.

        commit() stores the slot's word first and the totals second; killed between the two, the slot knows more. The
        slot's bases make its knowledge totals too, so the larger of the two is right. Here and in `consumed`.
        """
        filling = (self.header(slot, Header.BASE) + self.commit_of(slot).packets for slot in self._filling())
        return max(self.control(Control.COMMITTED), *filling, 0)

    def consumed(self) -> int:
        """Blocks of the current epoch's ring whose packets are committed: the next one to read comes after them."""
        filling = (self.header(slot, Header.BLOCK_BASE) + self.commit_of(slot).blocks for slot in self._filling())
        return max(self.control(Control.BLOCKS), *filling, 0)

    def _filling(self) -> list[int]:
        return [slot for slot in range(self.count) if self.state(slot) == State.FILLING]

    def begin_epoch(self) -> None:
        """A new capture socket: its batches, packets and blocks are counted from 0. No slot is FILLING."""
        self.set_control(Control.EPOCH_START, self.control(Control.COMMITTED))
        self.set_control(Control.BLOCKS, 0)
        self.set_control(Control.SEQUENCE, 0)
        self.set_control(Control.READING, Reading.DONE)
        self.set_ending(on=False)
        self.set_kernel_counts(0, 0)

    def finished(self, epoch: bytes) -> bool:
        """Whether its last section is closed: a worker more would make a second one."""
        return self.control(Control.FINISHED) == int.from_bytes(epoch[8:])

    def committed_in_epoch(self) -> int:
        return self.committed() - self.control(Control.EPOCH_START)

    def delivered(self) -> int:
        return self.control(Control.DELIVERED)

    def dropped(self) -> dict[Reason, int]:
        """Drops that the uploader owns."""
        return {reason: self.control(Control.DROPPED + i) for i, reason in enumerate(UPLOADER_REASONS)}

    def spooled(self) -> int:
        return self.control(Control.SPOOLED)

    def set_kernel_counts(self, received: int, dropped: int) -> None:
        """The supervisor's reading of the epoch's statistics, for the section's ISB."""
        self.set_control(Control.KERNEL_DROPS, dropped)
        # Killed here: `received` is short of all that was read, and that is what can be found out.
        self.set_control(Control.RECEIVED, received)

    def set_totals(self, received: int, kernel_drops: int, own: Mapping[Reason, int]) -> None:
        """The supervisor's part of the books, all epochs, for whoever shows them."""
        self.set_control(Control.TOTAL_KERNEL_DROPS, kernel_drops)
        self.set_control(Control.TOTAL_RECEIVED, received)  # after it, as above
        for i, reason in enumerate(SUPERVISOR_REASONS):
            # A count that was found by subtraction may be below nothing for a moment: pypcap's.
            self.set_control(Control.OWN_DROPPED + i, max(0, own.get(reason, 0)))

    def totals(self) -> tuple[int, int, dict[Reason, int]]:
        """What set_totals was given last."""
        own = {reason: self.control(Control.OWN_DROPPED + i) for i, reason in enumerate(SUPERVISOR_REASONS)}
        return self.control(Control.TOTAL_RECEIVED), self.control(Control.TOTAL_KERNEL_DROPS), own

    def limit_sections(self, most_bytes: int) -> None:
        """Sections begun from now on are not longer than that; 0: than a slot."""
        self.set_control(Control.SECTION_BYTES, most_bytes)

    def section_bytes(self) -> int:
        """How long a section may become; a multiple of a word, as the slot is."""
        limit = self.control(Control.SECTION_BYTES)
        return min(self.slot_bytes, limit - limit % _WORD) if limit else self.slot_bytes

    def set_ending(self, *, on: bool) -> None:
        """Whether the epoch ends with the present worker; otherwise another reads on when it has left."""
        self.set_control(Control.ENDING, int(on))

    @property
    def ending(self) -> bool:
        return self.control(Control.ENDING) == 1

    def set_filter_text(self, text: str) -> None:
        """What sections name as their filter from now on; cut to what the page holds."""
        data = text.encode("utf-8", "replace")[:_FILTER_BYTES]
        # Odd while it is written; it is odd already where a supervisor was killed in the middle.
        version = self.control(Control.FILTER_VERSION) | 1
        self.set_control(Control.FILTER_VERSION, version)
        self._bytes[_FILTER_AT : _FILTER_AT + len(data)] = data
        self.set_control(Control.FILTER_LENGTH, len(data))
        self.set_control(Control.FILTER_VERSION, version + 1)

    @property
    def filter_version(self) -> int:
        return self.control(Control.FILTER_VERSION)

    def filter_text(self) -> tuple[int, str] | None:
        """Its version and what it is; None while it is being written, or where it was replaced while it was read."""
        version = self.filter_version
        length = min(self.control(Control.FILTER_LENGTH), _FILTER_BYTES)
        text = str(self._bytes[_FILTER_AT : _FILTER_AT + length], "utf-8", "replace")
        return (version, text) if version % 2 == 0 and self.filter_version == version else None

    def kernel_counts(self) -> tuple[int, int]:
        return self.control(Control.RECEIVED), self.control(Control.KERNEL_DROPS)

    def last_counts(self) -> tuple[int, int]:
        """The same when nothing is left to be read. Where a reading was lost, what was captured of it still counts."""
        received, drops = self.kernel_counts()
        if self.reading_lost:
            received = min(_MOST, max(received, drops + self.committed_in_epoch()))
        return received, drops

    def begin_reading(self) -> None:
        if not self.reading_lost:
            self.set_control(Control.READING, Reading.UNDER_WAY)

    def end_reading(self) -> None:
        if not self.reading_lost:
            self.set_control(Control.READING, Reading.DONE)

    def take_up_reading(self) -> None:
        """In another life of the supervisor: one that was not ended is lost."""
        if self.control(Control.READING):
            self.set_control(Control.READING, Reading.LOST)

    @property
    def reading_lost(self) -> bool:
        return self.control(Control.READING) == Reading.LOST


def is_settle_word(word: int) -> bool:
    """True for the uploader's counters. A compromised worker writes headers too, and must not reach other words."""
    return Control.DELIVERED <= word <= Control.SPOOLED


def _slots_offset(count: int) -> int:
    headers_end = _CONTROL_BYTES + count * _HEADER_BYTES
    return -(-headers_end // _CONTROL_BYTES) * _CONTROL_BYTES
