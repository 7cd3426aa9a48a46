"""Slots, window, spool and what moves batches between them, against a plain model: three sets of batches.

The model has what the worker published, what the vSensor has stored, and what is lost and was counted. Held against
that after every step: a batch that is in none of the last two is in a slot or in a whole file; what the vSensor has is
what was published; a batch that waits has one place. And when all is calm in the end, everything published is stored or
lost, and nothing lies anywhere. The uploader dies between any two steps, between the calls of a write, and before it
leaves. Its loop is not here: `take_in` and `conclude` do what uploader.py and delivery.py do around these modules.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import cast
from unittest import mock

import pytest
from histories import histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from mortal_disk import Fault, KilledError, MortalDisk
from spool_thread import no_threads, serve_one, take_orders

from ossensor.accounting import Reason
from ossensor.region import Commit, Region
from ossensor.slots import Batch, Closing, Consumer, Pipes, Producer
from ossensor.spoolfile import DamagedError, Spooled
from ossensor.transport.compression import Advice
from ossensor.transport.protocol import BatchId, Stream
from ossensor.transport.window import Window
from ossensor.workers import overflow as overflow_module
from ossensor.workers.lines import Holdings, InSlot, Item, Line, OnDisk, Plan, stream_of
from ossensor.workers.overflow import Overflow
from ossensor.workers.spool import Damaged, Written

QUEUE = 0
SLOTS = 4
SLOT_BYTES = 4096
SECTION_BYTES = 64
FILE_BYTES = 1024  # more than that is one with its books
IN_FLIGHT = 2
RETRY_S = 5.0
ANSWERS = ["stored", "stored", "no answer", "lost answer", "refused"]
CALLS = [("open", 0), ("write", 0), ("write", 1), ("fsync", 0), ("rename", 0), ("open", 1), ("fsync", 1)]


class OverflowMachine(RuleBasedStateMachine):
    """Random histories of one interface, lives of uploaders, and a vSensor that comes and goes."""

    @initialize(files=st.integers(1, 6))
    def start(self, files: int) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="ossensor-overflow-"))
        self.disk = MortalDisk(self.root)
        self.plan = cast("Plan", SimpleNamespace(spool_folder=str(self.disk.folder), compression=None))
        self.plan.spool_bytes = files * FILE_BYTES
        self.region = Region.create(SLOTS, SLOT_BYTES)
        self.pipes = Pipes.create()
        self.producer = Producer(self.region, self.pipes.ready_write, self.pipes.free_read)
        self.epoch = self.sequence = self.committed = 0
        self.published: dict[BatchId, bytes] = {}
        self.stored: dict[BatchId, bytes] = {}
        self.lost: set[BatchId] = set()
        self.now_s = 1000.0
        self.clock = mock.patch.object(overflow_module, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.clock.start()
        self.begin_a_life()

    def teardown(self) -> None:
        if hasattr(self, "root"):
            try:
                self.all_is_delivered_in_the_end()
            finally:
                self.clock.stop()
                self.holdings.lines.clear()
                self.sending.clear()
                os.close(self.region.fd)
                self.pipes.close()
                shutil.rmtree(self.root)

    # -- the worker ---------------------------------------------------------------------------------------------------

    @rule(batches=st.integers(1, SLOTS))
    def worker_publishes(self, batches: int) -> None:
        self.producer.listen()
        for _ in range(min(batches, self.producer.free)):
            slot = self.producer.begin(self.epoch.to_bytes(16, "big"))
            name = BatchId(Stream("sensor-1", f"{self.epoch:032x}", "eth0"), self.sequence)
            body = f"{self.epoch},{self.sequence};".encode().ljust(SECTION_BYTES, b".")
            self.region.slot(slot)[: len(body)] = body
            self.committed += 1
            self.producer.commit(slot, Commit(len(body), 1, 1), self.committed, self.committed)
            self.producer.publish(slot, Closing(len(body)))
            self.published[name] = body
            self.sequence += 1

    @rule()
    def new_epoch(self) -> None:
        self.epoch += 1
        self.sequence = 0
        self.region.begin_epoch()

    # -- lives of the uploader ----------------------------------------------------------------------------------------

    def begin_a_life(self) -> None:
        self.holdings = Holdings(Window[Item](IN_FLIGHT))
        self.window = self.holdings.window
        self.reports: list[Written] = []
        self.sending: dict[BatchId, Item] = {}
        self.rescuing = False
        with no_threads(), self.disk.watched():
            self.overflow = Overflow(self.plan, self.holdings, mock.Mock(), self.reports.append)
        self.orders = take_orders(self.overflow.spool)

    @rule()
    def dies(self) -> None:
        self.begin_a_life()

    @precondition(lambda self: self.orders and not self.overflow.spool._refuses)
    @rule(at=st.sampled_from(CALLS))
    def dies_while_it_writes(self, at: tuple[str, int]) -> None:
        with pytest.raises(KilledError), self.disk.watched(Fault(*at, KilledError())):
            serve_one(self.overflow.spool, self.orders)
        self.begin_a_life()

    @rule(answers=st.lists(st.sampled_from(ANSWERS), max_size=IN_FLIGHT), dies=st.booleans())
    def leaves(self, answers: list[str], *, dies: bool) -> None:
        """At the end of a drain that came to its rescue: what is being sent is on the disk, too, and may be settled."""
        self.worker_publishes(SLOTS)
        self.looks()
        self.send()
        self.rescuing = True
        self.relieve()
        while self.orders:
            self.disk_writes()
        while self.reports:
            self.hear()
        settled = set()
        for how in answers[: len(self.sending)]:
            name = next(iter(self.sending))
            self.conclude(name, how)
            settled |= {name} if how in {"stored", "refused"} else set()
        if not dies:
            with self.disk.watched():
                self.overflow.leave()
            assert not self.named() & settled
        self.begin_a_life()

    @property
    def line(self) -> Line | None:
        return self.holdings.lines.get(QUEUE)

    @precondition(lambda self: self.line is None)
    @rule()
    def is_given_the_queue(self) -> None:
        """By the supervisor, some time after its start: what the spool holds may be on its way by then."""
        consumer = Consumer(self.region, self.pipes.ready_read, self.pipes.free_write)
        self.holdings.lines[QUEUE] = Line("eth0", consumer, [], Advice())

    def looks(self) -> None:
        if self.line is None:
            self.is_given_the_queue()
        self.takes_in()

    @precondition(lambda self: self.line is not None)
    @rule()
    def takes_in(self) -> None:
        assert self.line is not None
        for batch in self.line.consumer.listen():
            self.take_in(self.line, batch)

    def take_in(self, line: Line, batch: Batch) -> None:
        section = line.consumer.section(batch)
        assert section is not None
        name = BatchId(Stream("sensor-1", batch.epoch, line.interface), batch.sequence)
        if self.overflow.has(name):
            line.consumer.settle(batch, spooled=True)
            return
        between = self.overflow.inherited(stream_of(name))
        item = InSlot(QUEUE, batch, section)
        assert self.window.add(stream_of(name), batch.sequence, item, between=between)
        line.in_slots[name] = item

    # -- the disk -----------------------------------------------------------------------------------------------------

    @rule()
    def relieve(self) -> None:
        self.overflow.relieve(rescue=self.rescuing)

    @rule(now=st.sampled_from([False, False, False, True]))
    def comes_to_the_rescue(self, *, now: bool) -> None:
        """From here on to the end of this life."""
        self.rescuing |= now

    @precondition(lambda self: self.orders)
    @rule()
    def disk_writes(self) -> None:
        with self.disk.watched():
            serve_one(self.overflow.spool, self.orders)

    @precondition(lambda self: self.orders)
    @rule(at=st.sampled_from(CALLS), number=st.sampled_from([errno.ENOSPC, errno.ENOSPC, errno.EIO]))
    def disk_fails(self, at: tuple[str, int], number: int) -> None:
        with self.disk.watched(Fault(*at, OSError(number, os.strerror(number)))):
            serve_one(self.overflow.spool, self.orders)

    @precondition(lambda self: self.reports)
    @rule()
    def hear(self) -> None:
        with self.disk.watched():
            self.overflow.written(self.reports.pop(0))

    @rule(data=st.data())
    def a_file_is_damaged(self, data: st.DataObject) -> None:
        """Its first bit: the batch is lost when it is to be sent, unless the vSensor or a slot has it, too."""
        if sound := sorted(self.whole_files()):
            path = self.disk.folder / data.draw(st.sampled_from(sound))
            contents = bytearray(path.read_bytes())
            contents[0] ^= 1
            path.write_bytes(contents)
            self.lost.add(cast("Spooled", Spooled.parse(path.name)).batch)

    # -- the vSensor --------------------------------------------------------------------------------------------------

    @rule()
    def send(self) -> None:
        while (chosen := self.window.next(self.now_s)) is not None:
            stream, sequence, item = chosen
            _, _, epoch = stream.partition("/")
            self.sending[BatchId(Stream("sensor-1", epoch, "eth0"), sequence)] = item

    @precondition(lambda self: self.sending)
    @rule(data=st.data(), how=st.sampled_from(ANSWERS))
    def answer(self, data: st.DataObject, how: str) -> None:
        self.conclude(data.draw(st.sampled_from(sorted(self.sending, key=lambda n: n.path))), how)

    def conclude(self, name: BatchId, how: str) -> None:
        item = self.sending.pop(name)
        if isinstance(item, InSlot):
            body = bytes(item.section)
        else:
            try:
                body = bytes(self.overflow.spool.read(item.spooled)[0])
            except DamagedError as e:
                self.window.settle(stream_of(name), name.sequence)
                with self.disk.watched():
                    self.overflow.damaged(Damaged(item.spooled, str(e)))
                return
        assert body == self.published[name]
        if how in {"stored", "lost answer"}:
            self.stored[name] = body
        if how in {"no answer", "lost answer"}:
            self.window.fail(stream_of(name), name.sequence, self.now_s + 1.0)
            return
        if how == "refused":
            self.lost.add(name)
        self.window.settle(stream_of(name), name.sequence)
        if isinstance(item, OnDisk):
            with self.disk.watched():
                self.overflow.settled(item, refused=how == "refused")
        else:
            line = self.holdings.lines[QUEUE]
            del line.in_slots[name]
            line.consumer.settle(item.batch, Reason.REJECTED if how == "refused" else None)

    @rule(passed_s=st.sampled_from([1.0, 5.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    # -- whole turns, so that histories get far -----------------------------------------------------------------------

    @rule(turns=st.integers(1, 4), fault=st.sampled_from([None, *CALLS]))
    def the_vsensor_is_away(self, turns: int, fault: tuple[str, int] | None) -> None:
        for _ in range(turns):
            self.worker_publishes(SLOTS)
            self.looks()
            self.send()
            self.relieve()
            if self.orders and fault is not None:
                self.disk_fails(fault, errno.ENOSPC)
                self.now_s += RETRY_S
            while self.orders:
                self.disk_writes()
            while self.reports:
                self.hear()

    @rule(answers=st.lists(st.sampled_from(ANSWERS), max_size=8))
    def the_vsensor_is_back_while_the_disk_writes(self, answers: list[str]) -> None:
        """So what was ordered to the disk is sent from its slot, and may be settled."""
        self.worker_publishes(SLOTS)
        self.looks()
        self.relieve()
        self.send()
        for how in answers:
            if self.sending:
                self.conclude(next(iter(self.sending)), how)
            self.send()
        while self.orders:
            self.disk_writes()
        while self.reports:
            self.hear()

    def all_is_delivered_in_the_end(self) -> None:
        if self.rescuing:
            self.leaves([], dies=False)
        for _ in range(len(self.published) + 2):
            self.looks()
            while self.orders:
                self.disk_writes()
            while self.reports:
                self.hear()
            self.send()
            for name in list(self.sending):
                self.conclude(name, "stored")
            self.now_s += 5.0

        assert self.stored.keys() | self.lost == self.published.keys()
        assert (len(self.window), self.region.in_flight()) == (0, 0)
        assert [path.name for path in self.disk.folder.iterdir() if not path.name.endswith(".damaged")] == []

    # -- what is always true ------------------------------------------------------------------------------------------

    def named(self) -> set[BatchId]:
        """Those that have a file of their name."""
        parsed = (Spooled.parse(path.name) for path in self.disk.folder.iterdir())
        return {spooled.batch for spooled in parsed if spooled is not None}

    def whole_files(self) -> dict[str, BatchId]:
        """That open to what was published."""
        found = {}
        for path in self.disk.folder.iterdir():
            spooled = Spooled.parse(path.name)
            if spooled is not None:
                try:
                    section, _ = self.overflow.spool.read(spooled)
                except DamagedError:
                    continue
                assert bytes(section) == self.published[spooled.batch]
                found[path.name] = spooled.batch
        return found

    def ready(self) -> dict[BatchId, bytes]:
        """What the slots hold, as another life would see it."""
        region = Region(self.region.fd)
        idle = Pipes.create()
        consumer = Consumer(region, idle.ready_read, idle.free_write)
        found = {}
        for batch in consumer.listen():
            section = cast("memoryview", consumer.section(batch))
            found[BatchId(Stream("sensor-1", batch.epoch, "eth0"), batch.sequence)] = bytes(section)
            section.release()
        idle.close()
        return found

    @invariant()
    def nothing_is_lost(self) -> None:
        ready, on_disk = self.ready(), self.whole_files()
        assert ready.items() <= self.published.items()
        assert self.published.keys() == self.stored.keys() | self.lost | ready.keys() | set(on_disk.values())

    @invariant()
    def what_waits_has_one_place(self) -> None:
        names = {name for name, item in self.items() if isinstance(item, OnDisk)}
        assert {name for name in self.published if self.overflow.has(name)} == names
        unheard = {written.order.spooled.batch for written in self.reports if not written.trouble}
        assert self.named() == names | unheard | self.overflow._copies.keys()
        if self.line is not None:
            assert not names & self.line.in_slots.keys()
            assert self.line.consumer.held == len(self.line.in_slots)

    def items(self) -> list[tuple[BatchId, Item]]:
        return [
            (BatchId(Stream("sensor-1", stream.partition("/")[2], "eth0"), sequence), entry.item)
            for stream, line in self.window._streams.items()
            for sequence, entry in line.items()
        ]


TestOverflowMachine = histories(OverflowMachine, 80, 40)
