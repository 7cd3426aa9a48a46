"""The spool against a plain model: a dict of what lies on the disk, on a real file system, through kills and outages.

The model has what each batch is (its bytes and its books), the names that the folder has (`named`), and those that an
outage cannot take from it (`flushed`). Held against that: a life finds exactly what is named, or after an outage what
is named and flushed, and nothing that is neither; a file opens to exactly what was written, or is found to be damaged;
whatever a life takes for being on the disk to stay is named and flushed; no write takes it above its limit; behind a
write that failed for good nothing is written in that life, whether its main thread has heard of it or not.

Process and machine die in mortal_disk.py: between any two calls, write and rename, and rename and flush, among them.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest
from histories import histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mortal_disk import Fault, KilledError, MortalDisk
from spool_thread import no_threads, serve_one, take_orders

from ossensor.spoolfile import LONGEST_TRAILER_BYTES, DamagedError, Spooled
from ossensor.transport.protocol import MAX_SEQUENCE, Account, BatchId, Stream
from ossensor.workers.spool import Order, Spool, Written

RETRY_S = 5.0
MOST_PENDING = 4
STRANGERS = {"notes.txt": b"mine", "notes.part": b"mine, too", "x.pcapng.damaged": b""}
PARTS = {"notes.part", "old.part"}
INTERFACES = ("eth0", "é,b.part")

# The calls of one write, in their order. A file has its name from the first that follows `rename` on.
CALLS = [("open", 0), ("write", 0), ("write", 1), ("fsync", 0), ("rename", 0), ("open", 1), ("fsync", 1)]
AT = st.integers(0, len(CALLS) - 1)
NAMED_FROM = CALLS.index(("open", 1))
STARTS = ("unlink", "open", "fsync")
PASSING = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE)
LASTING = (errno.EIO, errno.EROFS)

# Deaths are rare among the rules, or nothing would ever fill up.
RARELY = st.sampled_from([False, False, False, True])


class Contents(NamedTuple):
    """Of a batch."""

    section: bytes
    account: Account


class SpoolMachine(RuleBasedStateMachine):
    """Random histories of one folder."""

    @initialize(limit_bytes=st.integers(1500, 6000), number=st.sampled_from([0, MAX_SEQUENCE - 300]))
    def start(self, limit_bytes: int, number: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ossensor-spool-"))
        self.disk = MortalDisk(self.root)
        for name, data in STRANGERS.items():
            (self.disk.folder / name).write_bytes(data)
        (self.disk.folder / "old.part").mkdir()  # a stranger's, too
        self.limit_bytes = limit_bytes
        self.number = number  # of the next batch: sequences are used once
        self.now_s = 1000.0
        self.contents: dict[Spooled, Contents] = {}
        self.in_memory: list[Spooled] = []  # in slots, which outlive a process and no machine
        self.named: dict[Spooled, None] = {}
        self.flushed: dict[Spooled, None] = {}
        self.returning: set[Spooled] = set()  # removed, and not for sure: an outage may bring it back, and need not
        self.damaged: set[Spooled] = set()
        self.begin_a_life()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            shutil.rmtree(self.root)

    # -- lives --------------------------------------------------------------------------------------------------------

    def new_spool(self) -> None:
        self.reports: list[Written] = []
        with no_threads():
            self.spool = Spool(self.disk.folder, self.limit_bytes, self.reports.append)
        self.orders = take_orders(self.spool)
        self.known: list[Spooled] = []  # on the disk to stay, as this life has it
        self.left: set[Spooled] = set()  # what could not be removed
        self.not_before_s = 0.0
        self.broken = False
        self.refuses = ""  # why the thread writes nothing any more

    def begin_a_life(self, *, after_an_outage: bool = False) -> None:
        self.new_spool()
        with self.disk.watched():
            found = self.spool.found()
        if after_an_outage:
            assert set(found) <= self.named.keys() | self.flushed.keys() | self.returning
            assert set(found) >= self.named.keys() & self.flushed.keys()
        else:
            assert set(found) == self.named.keys()
        assert found == sorted(found, key=lambda s: (s.first_ns, s.batch.stream.epoch, s.batch.sequence))
        self.named = dict.fromkeys(found)
        self.flushed = dict.fromkeys(found)  # what is taken for being there to stay has to
        self.returning.clear()
        self.known = found
        self.in_memory = [one for one in self.in_memory if one not in self.named]
        assert {path.name for path in self.disk.folder.glob("*.part")} == PARTS

    def back_to_memory(self) -> None:
        """What was ordered and not concluded has never left its slot."""
        self.in_memory += [order.spooled for order in (*self.orders, *(written.order for written in self.reports))]

    def die(self, *, outage: bool, data: st.DataObject) -> None:
        self.back_to_memory()
        if outage:
            self.disk.lose_power(data.draw(st.integers(0, 4)), data.draw(st.integers(0, 2000)))
            self.in_memory = []
        self.begin_a_life(after_an_outage=outage)

    @rule(now=RARELY, start=st.sampled_from([None, *STARTS]), outage=st.booleans(), data=st.data())
    def dies(self, data: st.DataObject, start: str | None, *, now: bool, outage: bool) -> None:
        """With `start`, its successor, too, before a call of its start; another finds the same."""
        if not now:
            return
        if start is not None:
            self.back_to_memory()
            self.new_spool()
            with suppress(KilledError), self.disk.watched(Fault(start, 0, KilledError())):
                self.spool.found()
        self.die(outage=outage, data=data)

    # -- writing ------------------------------------------------------------------------------------------------------

    def lying_bytes(self) -> int:
        """Of what this life counts."""
        return sum((self.disk.folder / one.name).stat().st_size for one in self.named if one not in self.left)

    def room_bytes(self) -> int:
        """The longest section that may be ordered now; below nothing when none may."""
        underway = [*self.orders, *(written.order for written in self.reports)]
        if self.broken or len(underway) >= MOST_PENDING or self.now_s < self.not_before_s:
            return -1
        concluded = sum((self.disk.folder / one.name).stat().st_size for one in self.known)
        to_come = sum(len(order.section) + LONGEST_TRAILER_BYTES for order in underway)
        return self.limit_bytes - concluded - to_come - LONGEST_TRAILER_BYTES

    def new_batch(self, data: st.DataObject) -> Spooled:
        interface = data.draw(st.sampled_from(INTERFACES))
        packets = data.draw(st.sampled_from([0, 1, 2**32 - 1]))
        first_ns = data.draw(st.integers(0, 3) | st.integers(2**64 - 3, 2**64 - 1))
        spooled = Spooled(BatchId(Stream("sensor-1", "f" * 32, interface), self.number), packets, first_ns)
        self.number += 1
        section = bytes([self.number % 256]) * data.draw(st.integers(1, 300))
        self.contents[spooled] = Contents(section, Account(first_packet=self.number))
        return spooled

    @rule(data=st.data(), again=st.booleans())
    def order(self, data: st.DataObject, *, again: bool) -> None:
        spooled = self.in_memory.pop(0) if self.in_memory and again else self.new_batch(data)
        contents = self.contents[spooled]
        takes = len(contents.section) <= self.room_bytes()
        assert self.spool.takes(len(contents.section), self.now_s) is takes
        self.it_fills_up_to_the_last_byte()
        if takes:
            self.spool.order(Order(spooled, memoryview(contents.section), contents.account))
        else:
            self.in_memory.append(spooled)

    def it_fills_up_to_the_last_byte(self) -> None:
        room_bytes = self.room_bytes()
        if room_bytes >= 0:
            assert self.spool.takes(room_bytes, self.now_s)
        assert not self.spool.takes(max(0, room_bytes + 1), self.now_s)

    def write(self, fault: Fault | None = None) -> None:
        with self.disk.watched(fault):
            serve_one(self.spool, self.orders)

    @precondition(lambda self: self.orders)
    @rule(longest=st.sampled_from([1, 7, 1 << 30]))
    def disk_writes(self, longest: int) -> None:
        spooled = self.orders[0].spooled
        self.disk.longest_write = longest
        self.write()
        self.disk.longest_write = 1 << 30

        assert (self.reports[-1].trouble, self.reports[-1].passing) == (self.refuses, False)
        if self.refuses:
            return
        assert self.reports[-1].file_bytes == (self.disk.folder / spooled.name).stat().st_size
        self.named[spooled] = None
        self.flushed = dict(self.named)
        self.returning.clear()
        self.left.discard(spooled)
        self.damaged.discard(spooled)
        assert self.lying_bytes() <= self.limit_bytes

    def ordered(self, data: st.DataObject) -> bool:
        """Whether the disk has something to do, now at the latest."""
        if self.refuses:
            return False
        if not self.orders:
            self.order(data, again=True)
        return bool(self.orders)

    @rule(at=AT, number=st.sampled_from(PASSING + LASTING), for_good=st.booleans(), data=st.data())
    def disk_fails(self, at: int, number: int, data: st.DataObject, *, for_good: bool) -> None:
        """It leaves nothing behind, unless the disk does not even let it remove that."""
        if not self.ordered(data):
            return
        spooled = self.orders[0].spooled
        self.write(Fault(*CALLS[at], OSError(number, os.strerror(number)), for_good))

        assert (self.reports[-1].trouble, self.reports[-1].passing) == (os.strerror(number), number in PASSING)
        self.refuses = os.strerror(number) if number in LASTING else ""
        if for_good and at >= NAMED_FROM:
            self.named[spooled] = None
            self.left.add(spooled)
            self.damaged.discard(spooled)
        elif not for_good:
            assert not (self.disk.folder / spooled.name).with_suffix(".part").exists()
            self.named.pop(spooled, None)
            self.left.discard(spooled)
            if at >= NAMED_FROM or spooled in self.flushed:
                self.returning.add(spooled)  # it is whole
                self.flushed.pop(spooled, None)

    @rule(at=AT, outage=st.booleans(), data=st.data())
    def dies_while_it_writes(self, at: int, data: st.DataObject, *, outage: bool) -> None:
        if not self.ordered(data):
            return
        spooled = self.orders[0].spooled
        with pytest.raises(KilledError):
            self.write(Fault(*CALLS[at], KilledError()))
        if at >= NAMED_FROM:
            self.named[spooled] = None
            self.damaged.discard(spooled)
        self.in_memory.append(spooled)
        self.die(outage=outage, data=data)

    @precondition(lambda self: self.reports)
    @rule()
    def conclude(self) -> None:
        written = self.reports.pop(0)
        self.spool.conclude(written, self.now_s)
        if not written.trouble:
            self.known.append(written.order.spooled)
            return
        self.in_memory.append(written.order.spooled)
        if written.passing:
            self.not_before_s = self.now_s = self.now_s + RETRY_S
            assert not self.spool.takes(0, self.now_s - 0.001)
            assert self.spool.takes(0, self.now_s) is (self.room_bytes() >= 0)
        else:
            self.broken = True

    # -- whole turns, so that the folder fills up ---------------------------------------------------------------------

    @rule(data=st.data(), batches=st.integers(1, 6))
    def outage_of_the_vsensor(self, data: st.DataObject, batches: int) -> None:
        self.now_s += RETRY_S
        for _ in range(batches):
            self.order(data, again=True)
            if self.orders:
                self.disk_writes(1 << 30)
            if self.reports:
                self.conclude()

    # -- reading and removing -----------------------------------------------------------------------------------------

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        spooled = data.draw(st.sampled_from(self.known))
        if spooled in self.damaged:
            with pytest.raises(DamagedError):
                self.spool.read(spooled)
        else:
            section, account = self.spool.read(spooled)
            assert (bytes(section), account) == self.contents[spooled]

    @precondition(lambda self: self.known)
    @rule(data=st.data(), number=st.sampled_from([None, None, None, errno.EROFS]))
    def settle(self, data: st.DataObject, number: int | None) -> None:
        self.leave(data, self.spool.remove, "unlink", number)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), outage=st.booleans())
    def dies_before_it_removes(self, data: st.DataObject, *, outage: bool) -> None:
        with pytest.raises(KilledError), self.disk.watched(Fault("unlink", 0, KilledError())):
            self.spool.remove(data.draw(st.sampled_from(self.known)))
        self.die(outage=outage, data=data)

    @precondition(lambda self: self.known)
    @rule(now=RARELY, data=st.data(), number=st.sampled_from([None, errno.EROFS]))
    def set_aside(self, data: st.DataObject, number: int | None, *, now: bool) -> None:
        if now:
            self.leave(data, self.spool.set_aside, "rename", number)

    def leave(self, data: st.DataObject, act: Callable[[Spooled], None], call: str, number: int | None) -> None:
        spooled = data.draw(st.sampled_from(self.known))
        with self.disk.watched(number and Fault(call, 0, OSError(number, os.strerror(number)))):
            act(spooled)
        self.known.remove(spooled)
        if number is None:
            del self.named[spooled]
        else:
            self.left.add(spooled)

    @precondition(lambda self: self.known and not self.spool.pending)
    @rule(data=st.data(), bit=st.integers(0, 7), stays=RARELY)
    def is_damaged(self, data: st.DataObject, bit: int, *, stays: bool) -> None:
        """By whoever else writes there, or by the disk. One bit is enough."""
        sound = [one for one in self.known if one not in self.damaged]
        if not sound:
            return
        spooled = data.draw(st.sampled_from(sound))
        path = self.disk.folder / spooled.name
        contents = path.read_bytes()
        at = data.draw(st.integers(0, len(contents) - 1))
        books_at = contents.index(b"first-packet=") + 13
        ways = [
            contents[:at],
            contents[:at] + bytes(1) + contents[at:],
            contents[:at] + bytes([contents[at] ^ 1 << bit]) + contents[at + 1 :],
            contents[:books_at] + bytes([contents[books_at] ^ 1]) + contents[books_at + 1 :],  # they read as well
            *((self.disk.folder / other.name).read_bytes() for other in sound if other != spooled),
        ]
        for damaged in ways:
            path.write_bytes(damaged)
            with pytest.raises(DamagedError):
                self.spool.read(spooled)
        if stays:
            self.damaged.add(spooled)
            # Its size, too, is as it was found: the limit is held by it.
            self.spool.bytes += len(damaged) - self.spool._sizes[spooled.name]
            self.spool._sizes[spooled.name] = len(damaged)
        else:
            path.write_bytes(contents)

    @rule(passed_s=st.sampled_from([1.0, 4.0, 5.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    # -- what is always true ------------------------------------------------------------------------------------------

    @invariant()
    def the_folder_holds_what_the_model_says(self) -> None:
        names = {path.name for path in self.disk.folder.iterdir()}
        ours = {name for name in names if Spooled.parse(name) is not None}
        assert ours == {one.name for one in self.named}
        assert names >= STRANGERS.keys() | {"old.part"}
        assert set(self.known) <= self.named.keys() & self.flushed.keys()

    @invariant()
    def it_counts_what_it_takes_for_being_there(self) -> None:
        concluded = sum((self.disk.folder / one.name).stat().st_size for one in self.known)
        assert self.spool.bytes == concluded
        assert self.spool.pending == len(self.orders) + len(self.reports)


TestSpoolMachine = histories(SpoolMachine, 80, 40)
