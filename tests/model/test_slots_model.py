"""The slot queue against a plain model, with either side killed before any of its stores.

The model has the batch that is being filled, a dict of those that are ready, and the books. Held against it: what each
side sees, byte by byte, and after every step that all packets committed are delivered, spooled, dropped for a reason or
in flight. Two or three slots, so that each is used again and again; sequences and blocks up to the end of their words.

A kill is an exception raised from the store that it prevents: after it, the object that stood for the process is thrown
away and a successor is made from the memory alone.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from histories import histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ossensor.accounting import UPLOADER_REASONS, Reason
from ossensor.region import MOST_BLOCKS, Commit, Control, Region, State
from ossensor.slots import Batch, Closing, Consumer, Pipes, Producer, ring_for_dead
from ossensor.transport.protocol import MAX_SEQUENCE

SLOT_BYTES = 4096
MOST_PACKETS = SLOT_BYTES // 32


# Of begin(), which has the most; its last ones are those that matter.
STORES = st.integers(0, 12) | st.integers(10, 12)
SPOOLED = "spooled"
ENDS = st.sampled_from([None, SPOOLED, *UPLOADER_REASONS])  # None: delivered
BLOCKS = st.integers(0, 9) | st.just(MOST_BLOCKS)
FIRST = st.sampled_from([0, MAX_SEQUENCE - 2])  # of an epoch, as if so many batches had gone before


class KilledError(BaseException):
    """SIGKILL, at the next store."""


class MortalRegion(Region):
    """Memory whose user dies instead of its n-th store; None: it lives."""

    stores_left: int | None = None

    def _store(self) -> None:
        if self.stores_left is not None:
            if not self.stores_left:
                self.stores_left = None
                raise KilledError
            self.stores_left -= 1

    def set_control(self, word: int, value: int) -> None:
        self._store()
        super().set_control(word, value)

    def set_header(self, slot: int, word: int, value: int) -> None:
        self._store()
        super().set_header(slot, word, value)

    def set_headers(self, slot: int, first_word: int, *values: int) -> None:
        for n, value in enumerate(values):
            self.set_header(slot, first_word + n, value)

    def survives(self, stores: int, act: Callable[[], object]) -> bool:
        """False when `act` was killed before its store number `stores`, counted from 0."""
        self.stores_left = stores
        try:
            act()
        except KilledError:
            return False
        finally:
            self.stores_left = None
        return True


@dataclass(frozen=True)
class Modelled:
    """A batch as the model sees it."""

    epoch: str
    sequence: int
    packets: int
    blocks: int  # of the ring
    body: bytes
    first_packet: int


class SlotsMachine(RuleBasedStateMachine):
    """Random histories of one queue. A producer's successor goes on in its epoch, as on a ring."""

    @initialize(count=st.integers(2, 3), first=FIRST)
    def start(self, count: int, first: int) -> None:
        self.count = count
        self.region = MortalRegion.create(count, SLOT_BYTES)
        assert isinstance(self.region, MortalRegion)
        self.pipes = Pipes.create()
        self.epoch = 0
        self.slot: int | None = None  # the one being filled
        self.filling: Modelled | None = None
        self.ready: dict[tuple[str, int], Modelled] = {}
        self.held: dict[tuple[str, int], Batch] = {}
        self.committed = 0
        self.delivered = self.spooled = 0
        self.dropped: Counter[Reason] = Counter()
        self.number_from(first)
        self.new_producer()
        self.new_consumer()

    def teardown(self) -> None:
        if hasattr(self, "region"):
            self.region.close()
            os.close(self.region.fd)
            self.pipes.close()

    def new_producer(self) -> None:
        self.producer = Producer(self.region, self.pipes.ready_write, self.pipes.free_read)

    @precondition(lambda self: self.filling is None)
    @rule(first=FIRST)
    def new_epoch(self, first: int) -> None:
        """Another capture socket: what is counted by epoch begins anew."""
        self.epoch += 1
        self.region.begin_epoch()
        self.number_from(first)

    def number_from(self, first: int) -> None:
        self.sequence = first
        self.region.set_control(Control.SEQUENCE, first)
        self.blocks = 0  # of the ring, in this epoch
        self.epoch_start = self.committed

    def new_consumer(self) -> None:
        self.consumer = Consumer(self.region, self.pipes.ready_read, self.pipes.free_write)
        self.held = {}

    # -- the worker ---------------------------------------------------------------------------------------------------

    def identity(self) -> tuple[bytes, str]:
        return self.epoch.to_bytes(16, "big"), f"{self.epoch:032x}"

    @precondition(lambda self: self.filling is None and self.producer.free)
    @rule()
    def begin(self) -> None:
        raw, text = self.identity()
        self.slot = self.producer.begin(raw)
        self.note_begun(text)

    def note_begun(self, epoch: str) -> None:
        self.filling = Modelled(epoch, self.sequence, 0, 0, b"", self.committed - self.epoch_start)
        self.sequence += 1

    def commit_to(self, more: int, blocks: int) -> tuple[Modelled, Callable[[], None]]:
        """The batch after so many more packets and blocks, and the act that makes it so."""
        assert self.slot is not None
        assert self.filling is not None
        slot, before = self.slot, self.filling
        total = min(before.packets + more, MOST_PACKETS)
        body = struct.pack("<IQ", self.epoch, before.sequence) * total
        self.region.slot(slot)[: len(body)] = body
        after = replace(before, packets=total, blocks=min(before.blocks + blocks, MOST_BLOCKS), body=body)
        return after, lambda: self.producer.commit(slot, Commit(len(body), total, after.blocks), 1, 2)

    @precondition(lambda self: self.filling is not None)
    @rule(more=st.integers(0, 9), blocks=BLOCKS)
    def commit(self, more: int, blocks: int) -> None:
        after, act = self.commit_to(more, blocks)
        act()
        self.book(after)

    def book(self, after: Modelled) -> None:
        assert self.filling is not None
        self.committed += after.packets - self.filling.packets
        self.blocks += after.blocks - self.filling.blocks
        self.filling = after

    def publish_act(self) -> Callable[[], None]:
        assert self.slot is not None
        assert self.filling is not None
        slot, length = self.slot, len(self.filling.body)
        return lambda: self.producer.publish(slot, Closing(length, self.committed, 7))

    @precondition(lambda self: self.filling is not None and self.filling.packets)
    @rule()
    def publish(self) -> None:
        self.publish_act()()
        self.note_published()

    def note_published(self) -> None:
        assert self.filling is not None
        self.ready[self.filling.epoch, self.filling.sequence] = self.filling
        self.filling = None

    @rule()
    def producer_listens(self) -> None:
        self.producer.listen()
        assert self.producer.free == self.free_slots()

    def free_slots(self) -> int:
        return self.count - len(self.ready) - (self.filling is not None)

    # -- the uploader -------------------------------------------------------------------------------------------------

    @rule()
    def consumer_listens(self) -> None:
        batches = self.consumer.listen()
        new = sorted(self.ready.keys() - self.held.keys())
        assert [(b.epoch, b.sequence) for b in batches] == new
        for batch in batches:
            model = self.ready[batch.epoch, batch.sequence]
            section = self.consumer.section(batch)
            # What the protocol cannot number is not sent.
            body = model.body if model.sequence <= MAX_SEQUENCE else None
            assert (section and bytes(section)) == body
            assert (batch.packets, batch.first_packet, batch.kernel_drops) == (model.packets, model.first_packet, 7)
            self.held[batch.epoch, batch.sequence] = batch
        assert self.consumer.held == len(self.held)

    @precondition(lambda self: self.held)
    @rule(data=st.data(), end=ENDS)
    def settle(self, data: st.DataObject, end: Reason | str | None) -> None:
        key = data.draw(st.sampled_from(sorted(self.held)))
        self.settle_act(key, end)()
        self.note_settled(key, end)

    def settle_act(self, key: tuple[str, int], end: Reason | str | None) -> Callable[[], None]:
        batch, consumer = self.held[key], self.consumer
        if isinstance(end, Reason):
            return lambda: consumer.settle(batch, end)
        return lambda: consumer.settle(batch, spooled=end == SPOOLED)

    def note_settled(self, key: tuple[str, int], end: Reason | str | None) -> None:
        packets = self.ready.pop(key).packets
        self.held.pop(key, None)
        if isinstance(end, Reason):
            self.dropped[end] += packets
        elif end == SPOOLED:
            self.spooled += packets
        else:
            self.delivered += packets

    # -- whole turns, so that random histories get far --------------------------------------------------------------

    @rule(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4))
    def worker_turns(self, sizes: list[int]) -> None:
        for more in sizes:
            self.producer_listens()
            if self.filling is None and self.producer.free:
                self.begin()
            if self.filling is not None:
                self.commit(more, more)
                self.publish()

    @rule(data=st.data(), most=st.integers(1, 4))
    def uploader_turns(self, data: st.DataObject, most: int) -> None:
        self.consumer_listens()
        for _ in range(min(most, len(self.held))):
            self.settle(data, data.draw(ENDS))

    @rule(slots=st.lists(st.integers(0, 4) | st.just(2**64 - 1), max_size=4))
    def doorbells_that_mean_nothing(self, slots: list[int]) -> None:
        """For a slot that is not there, or not theirs, or once more, or for all: the header decides."""
        for slot in slots:
            os.write(self.pipes.ready_write, struct.pack("<QQ", slot, 0))
            os.write(self.pipes.free_write, struct.pack("<QQ", slot, 0))

    # -- deaths -------------------------------------------------------------------------------------------------------

    def bury_producer(self) -> None:
        """What the supervisor does: close what the dead worker was filling, ring for it, and start a successor."""
        # Known at once, before anything is mended.
        assert (self.region.committed(), self.region.consumed()) == (self.committed, self.blocks)
        orphan = Producer(self.region, self.pipes.ready_write, self.pipes.free_read).orphan()
        if self.filling is None:
            assert orphan is None
        else:
            assert orphan is not None
            assert (orphan.slot, orphan.commit[:2]) == (self.slot, (len(self.filling.body), self.filling.packets))
            undertaker = Producer(self.region, self.pipes.ready_write, self.pipes.free_read)
            assert undertaker.sequence == self.sequence
            if orphan.commit.packets:
                undertaker.publish(orphan.slot, Closing(orphan.commit.used_bytes, self.committed, 7))
                self.note_published()
            else:
                undertaker.abandon(orphan.slot)
                self.filling = None
                self.sequence -= 1
        self.lose_doorbells()
        ring_for_dead(self.pipes)
        self.new_producer()
        assert self.producer.free == self.free_slots()

    def lose_doorbells(self) -> None:
        for fd in (self.pipes.ready_read, self.pipes.free_read):
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 1 << 16)

    @rule(stores=STORES, more=st.integers(1, 9), blocks=BLOCKS, publishing=st.booleans())
    def producer_is_killed(self, stores: int, more: int, blocks: int, *, publishing: bool) -> None:
        """Before a store of whatever it could be doing, or after the last."""
        if self.filling is None and self.producer.free:
            self.killed_in_begin(stores)
        elif self.filling is not None and self.filling.packets and publishing:
            self.killed_in_publish(stores % 6)
        elif self.filling is not None:
            self.killed_in_commit(stores % 6, more, blocks)
        self.bury_producer()

    def killed_in_begin(self, stores: int) -> None:
        raw, text = self.identity()
        free_before = {n for n in range(self.count) if self.region.state(n) == State.FREE}
        survived = self.region.survives(stores, lambda: self.producer.begin(raw))
        assert survived is (stores == 12)
        if stores >= 11:
            (self.slot,) = [n for n in free_before if self.region.state(n) == State.FILLING]
            self.note_begun(text)

    def killed_in_commit(self, stores: int, more: int, blocks: int) -> None:
        after, act = self.commit_to(more, blocks)
        assert self.region.survives(stores, act) is (stores == 5)
        if stores >= 3:
            self.book(after)

    def killed_in_publish(self, stores: int) -> None:
        survived = self.region.survives(stores, self.publish_act())
        assert survived is (stores == 5)
        if survived:
            self.note_published()

    def bury_consumer(self) -> None:
        """Nobody rings: a new consumer looks for itself, and tells the producer to."""
        self.lose_doorbells()
        self.new_consumer()

    @rule(data=st.data(), stores=st.integers(0, 5), end=ENDS)
    def consumer_is_killed(self, data: st.DataObject, stores: int, end: Reason | str | None) -> None:
        self.consumer_listens()
        if self.held:
            key = data.draw(st.sampled_from(sorted(self.held)))
            assert self.region.survives(stores, self.settle_act(key, end)) is (stores == 5)
            if stores >= 3:
                self.note_settled(key, end)
        # Known at once, and also if nobody came to finish it.
        region = self.region
        ended = region.delivered() + region.spooled() + sum(region.dropped().values())
        assert ended + region.in_flight() == self.committed
        self.bury_consumer()

    # -- the books ----------------------------------------------------------------------------------------------------

    @invariant()
    def the_books_balance(self) -> None:
        in_flight = sum(m.packets for m in self.ready.values()) + (self.filling.packets if self.filling else 0)
        region = self.region

        assert (region.consumed(), self.producer.sequence) == (self.blocks, self.sequence)
        ended = self.delivered + self.spooled + self.dropped.total()
        assert region.committed() == self.committed == ended + in_flight
        assert (region.delivered(), region.spooled(), region.in_flight()) == (self.delivered, self.spooled, in_flight)
        assert region.dropped() == {reason: self.dropped[reason] for reason in UPLOADER_REASONS}
        assert self.consumer.idle() is (not self.ready and self.filling is None)


TestSlotsMachine = histories(SlotsMachine, 100, 60)


@pytest.mark.parametrize(
    "stores",
    [
        *range(3),
        3,
        4,
        5,
    ],
)
def test_the_books_balance_when_the_uploader_dies_in_settle_and_has_no_successor(stores: int) -> None:
    """As at the end of a drain: nobody comes to finish what the redo log says."""
    region = MortalRegion.create(2, SLOT_BYTES)
    assert isinstance(region, MortalRegion)
    pipes = Pipes.create()
    producer = Producer(region, pipes.ready_write, pipes.free_read)
    slot = producer.begin(bytes(16))
    producer.commit(slot, Commit(100, 3, 0), 1, 2)
    producer.publish(slot, Closing(100))
    consumer = Consumer(region, pipes.ready_read, pipes.free_write)
    (batch,) = consumer.listen()
    region.survives(stores, lambda: consumer.settle(batch))
    books = region.committed(), region.delivered() + sum(region.dropped().values()) + region.in_flight()
    region.close()
    os.close(region.fd)
    pipes.close()

    assert books == (3, 3)
