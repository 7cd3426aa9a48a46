"""Packets into slots: where a batch ends, what a promise of room is worth, and what a killed worker leaves."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossensor import pcapng
from ossensor.logs import CHUNK, PACKET
from ossensor.pcapng import CLOSING_BYTES, LONGEST_FILTER_BYTES, Packet
from ossensor.region import Commit, Control, Region, State
from ossensor.slots import Batch, Consumer, Pipes, Producer, ring_for_dead
from ossensor.workers.batcher import Batcher, Opening, rescue

EPOCH = bytes(range(16))
SNAPLEN = 1000
OPENING = Opening("eth0", 1, SNAPLEN, "ossensor 0.1.0")
LARGEST = pcapng.largest_block(SNAPLEN)
PROLOGUE_MAX = len(OPENING.prologue("x" * LONGEST_FILTER_BYTES))
START_NS = 1_795_000_000_000_000_000


class Queue:
    """One interface's memory with both its ends."""

    def __init__(self, slots: int, packets_per_slot: int) -> None:
        slot_bytes = PROLOGUE_MAX + CLOSING_BYTES + packets_per_slot * LARGEST
        self.region = Region.create(slots, slot_bytes + -slot_bytes % 8)
        self.region.set_filter_text("x" * 10_000)  # the longest that a section can come to name
        self.pipes = Pipes.create()
        self.producer = Producer(self.region, self.pipes.ready_write, self.pipes.free_read)
        self.consumer = Consumer(self.region, self.pipes.ready_read, self.pipes.free_write)

    def batcher(self, max_age_s: float = 10.0, opening: Opening = OPENING) -> Batcher:
        return Batcher(self.producer, EPOCH, opening, max_age_s)

    def section(self, batch: Batch) -> bytes:
        view = self.consumer.section(batch)
        assert view is not None
        return bytes(view)

    def stored(self) -> list[Packet]:
        """The packets of every batch that is ready, which is then settled."""
        found = []
        for batch in self.consumer.listen():
            packets = list(pcapng.packets(self.section(batch)))
            assert len(packets) == batch.packets
            found += packets
            self.consumer.settle(batch)
        return found


@contextmanager
def opened(slots: int = 3, packets_per_slot: int = 4) -> Iterator[Queue]:
    made = Queue(slots, packets_per_slot)
    try:
        yield made
    finally:
        made.region.close()
        made.pipes.close()
        os.close(made.region.fd)


@pytest.fixture
def queue() -> Iterator[Queue]:
    with opened() as made:
        yield made


def packet(n: int, size: int) -> Packet:
    return Packet(0, START_NS + n, size + n, bytes([n % 256]) * size)


def add(batcher: Batcher, *packets: Packet) -> None:
    for p in packets:
        batcher.add(p.ts_ns, p.data, p.original_length)


def test_a_section_is_no_longer_than_the_limit_from_the_next_look_on_and_none_is_lost() -> None:
    with opened(slots=4, packets_per_slot=20) as queue:
        batcher = queue.batcher()
        limit = PROLOGUE_MAX + CLOSING_BYTES + 3 * LARGEST
        add(batcher, packet(0, SNAPLEN))
        queue.region.limit_sections(limit + 7)
        for n in range(1, 60):
            assert batcher.room()
            add(batcher, packet(n, SNAPLEN))
            if n == 19 + 3:
                assert batcher.room() == 2 * 3  # the slots that are left, with three packets each
                queue.region.limit_sections(0)
        batcher.publish()
        batches = queue.consumer.listen()
        lengths = [batch.length for batch in batches]

        assert [batch.packets for batch in batches] == [20, 3, 20, 17]
        assert lengths[0] > limit >= lengths[1]
        assert sum(len(list(pcapng.packets(queue.section(batch)))) for batch in batches) == 60


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, SNAPLEN), st.integers(0, 6)), max_size=80))
def test_what_room_promises_can_be_added_also_when_the_limit_changes_in_between(steps: list[tuple[int, int]]) -> None:
    with opened(slots=3, packets_per_slot=6) as queue:
        batcher = queue.batcher()
        stored = added = 0
        for n, (size, fit) in enumerate(steps):
            room = batcher.room()
            queue.region.limit_sections(PROLOGUE_MAX + CLOSING_BYTES + fit * LARGEST + 7 if fit else 0)
            for _ in range(room):
                add(batcher, packet(n, size))  # raises where the promise was hollow
                added += 1
            batcher.commit()
            stored += len(queue.stored())
            queue.producer.listen()
        batcher.publish()

        assert stored + len(queue.stored()) == added


@settings(derandomize=True, max_examples=80, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 6),
    st.lists(st.integers(0, SNAPLEN) | st.just(SNAPLEN) | st.just(0), max_size=80),
    st.lists(st.booleans(), min_size=80, max_size=80),
)
def test_what_room_promises_can_be_added_whatever_the_lengths(
    slots: int, per_slot: int, sizes: list[int], consumed: list[bool]
) -> None:
    with opened(slots, per_slot) as queue:
        batcher = queue.batcher()
        added, stored = [], []
        for n, size in enumerate(sizes):
            if consumed[n]:
                stored += queue.stored()
                queue.producer.listen()
            room = batcher.room()
            if not room:
                continue
            added.append(packet(n, size))
            add(batcher, added[-1])  # raises where the promise was hollow
            assert batcher.room() >= room - 1
            batcher.commit()
            assert queue.region.committed() == len(added)
        batcher.publish()

        assert stored + queue.stored() == added
        assert queue.region.committed() == queue.region.delivered() == len(added)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6))
def test_the_whole_promise_can_be_used_up_by_the_largest_packets(slots: int, per_slot: int) -> None:
    with opened(slots, per_slot) as queue:
        batcher = queue.batcher()
        promised = batcher.room()
        assert promised == slots * per_slot
        packets = [packet(n, SNAPLEN) for n in range(promised)]
        add(batcher, *packets)
        batcher.publish()

        assert queue.stored() == packets


def test_a_batch_ends_exactly_where_the_next_packet_does_not_fit(queue: Queue) -> None:
    batcher = queue.batcher()
    named = queue.region.filter_text()
    assert named is not None
    room = queue.region.slot_bytes - CLOSING_BYTES - len(OPENING.prologue(named[1]))
    fill = [packet(0, SNAPLEN)] * (room // LARGEST)
    rest = room - len(fill) * LARGEST  # bytes left for one more block
    assert rest > pcapng.EPB_OVERHEAD + 4
    add(batcher, *fill, packet(1, rest - pcapng.EPB_OVERHEAD))  # to the last byte
    assert queue.consumer.listen() == []
    add(batcher, packet(2, 0))
    (first,) = queue.consumer.listen()

    assert (first.sequence, first.packets, first.length) == (0, len(fill) + 1, queue.region.slot_bytes)
    batcher.publish()
    (second,) = queue.consumer.listen()
    assert (second.sequence, second.packets) == (1, 1)


def test_sequences_follow_one_another_and_spans_are_the_packets_own(queue: Queue) -> None:
    batcher = queue.batcher()
    for n in range(3):
        add(batcher, packet(10 * n, 20), packet(10 * n + 5, 20))
        batcher.publish()

    assert [(b.sequence, b.epoch, b.first_ns - START_NS, b.last_ns - START_NS) for b in queue.consumer.listen()] == [
        (n, EPOCH.hex(), 10 * n, 10 * n + 5) for n in range(3)
    ]


def test_a_clock_that_is_set_back_widens_the_span(queue: Queue) -> None:
    batcher = queue.batcher()
    add(batcher, packet(50, 20), packet(90, 20), packet(40, 20), packet(45, 20))
    batcher.publish()

    assert [(b.first_ns - START_NS, b.last_ns - START_NS) for b in queue.consumer.listen()] == [(40, 90)]


def test_nothing_added_is_nothing_published_and_takes_no_slot(queue: Queue) -> None:
    batcher = queue.batcher()
    batcher.commit()
    batcher.publish()

    assert (queue.consumer.listen(), queue.producer.free, batcher.due_s()) == ([], 3, None)


def test_a_batch_is_due_its_age_after_its_first_packet(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    batcher = queue.batcher(max_age_s=0.25)
    add(batcher, packet(0, 20))
    monkeypatch.setattr("time.monotonic", lambda: 100.2)
    add(batcher, packet(1, 20))

    assert batcher.due_s() == 100.25
    batcher.publish()
    assert batcher.due_s() is None


def test_without_a_slot_there_is_no_room_until_one_is_settled(queue: Queue) -> None:
    batcher = queue.batcher()
    while batcher.room():
        add(batcher, packet(0, SNAPLEN))
    batcher.publish()
    queue.producer.listen()
    assert batcher.room() == 0

    queue.consumer.settle(queue.consumer.listen()[0])
    queue.producer.listen()
    assert batcher.room() > 0


def test_an_added_packet_is_the_predecessors_loss_until_it_is_committed(queue: Queue) -> None:
    batcher = queue.batcher()
    add(batcher, packet(0, 20), packet(1, 20))
    assert (queue.region.committed(), queue.region.in_flight()) == (0, 0)
    batcher.commit()

    assert (queue.region.committed(), queue.region.in_flight()) == (2, 2)


def test_a_slot_too_small_for_one_largest_packet_is_refused_at_the_start() -> None:
    with opened() as queue, pytest.raises(AssertionError, match="cannot hold one unit"):
        queue.batcher(opening=Opening("eth0", 1, queue.region.slot_bytes, "x"))


def options(section: bytes) -> bytes:
    return next(bytes(body) for kind, body in pcapng.blocks(section) if kind == pcapng.IDB)


def test_a_section_names_the_filter_that_held_when_it_was_begun(queue: Queue) -> None:
    batcher = queue.batcher()
    for n, text in enumerate(["", "tcp port 80", "x" * 10_000]):
        queue.region.set_filter_text(text)
        add(batcher, packet(n, 20))
        batcher.publish()
    sections = [queue.section(b) for b in queue.consumer.listen()]

    assert [b"tcp port 80" in options(s) for s in sections] == [False, True, False]
    assert options(sections[2]).count(b"x" * 3000) == 1
    assert [len(list(pcapng.packets(s))) for s in sections] == [1, 1, 1]


@pytest.mark.parametrize(
    "before, meanwhile",
    [pytest.param("tcp port 80", b"tcp port 80", id="a later section"), pytest.param("", None, id="the first")],
)
def test_a_filter_that_is_being_written_is_named_by_no_section(
    queue: Queue, before: str, meanwhile: bytes | None
) -> None:
    batcher = queue.batcher()
    if before:
        queue.region.set_filter_text(before)
        add(batcher, packet(0, 20))
        batcher.publish()
        queue.consumer.settle(queue.consumer.listen()[0])

    queue.region.set_filter_text("udp port 53")
    queue.region.set_control(Control.FILTER_VERSION, queue.region.filter_version + 1)  # amid the next one
    add(batcher, packet(1, 20))
    batcher.publish()
    queue.region.set_filter_text("tcp port 443")
    add(batcher, packet(2, 20))
    batcher.publish()
    first, second = (options(queue.section(batch)) for batch in queue.consumer.listen())

    texts = [b"tcp port 80", b"udp port 53", b"tcp port 443"]
    assert [text for text in texts if text in first] == ([meanwhile] if meanwhile else [])
    assert [text for text in texts if text in second] == [b"tcp port 443"]


def test_the_kernels_counts_close_the_section(queue: Queue) -> None:
    queue.region.set_kernel_counts(12_345, 678)
    batcher = queue.batcher()
    add(batcher, packet(0, 20))
    batcher.publish()
    section = queue.section(queue.consumer.listen()[0])
    *_, (kind, statistics) = pcapng.blocks(section)

    assert kind == pcapng.ISB
    assert (12_345).to_bytes(8, "little") in bytes(statistics)
    assert (678).to_bytes(8, "little") in bytes(statistics)


def test_levels_four_and_five_say_what_a_batch_and_a_packet_hold(
    queue: Queue, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.monotonic", lambda: 100.0)
    caplog.set_level(PACKET)
    batcher = queue.batcher()
    for n in range(150):
        if not batcher.room():
            for ready in queue.consumer.listen():
                queue.consumer.settle(ready)
            queue.producer.listen()
        add(batcher, packet(n, 3))
    batcher.publish()
    shown = [r for r in caplog.records if r.levelno == PACKET]
    dumps = [r for r in shown if r.getMessage() != "not shown"]
    left_out = sum(vars(r)["fields"]["packets_left_out"] for r in shown)
    chunks = [vars(r)["fields"] for r in caplog.records if r.levelno == CHUNK]

    assert dumps[7].getMessage() == "070707"
    assert vars(dumps[7])["fields"]["bytes"] == 3
    assert (len(dumps), left_out) == (100, 50)
    assert [sum(c["packets"] for c in chunks), chunks[0]["sequence"], chunks[0]["span_ms"]] == [150, 0, 0.0]


# -- what a killed worker leaves --------------------------------------------------------------------------------------


def test_nothing_to_rescue_is_zero(queue: Queue) -> None:
    assert rescue(queue.producer) == 0


@pytest.mark.parametrize("committed", [1, 3])
def test_a_rescued_section_holds_exactly_what_was_committed(queue: Queue, committed: int) -> None:
    batcher = queue.batcher()
    packets = [packet(n, 50 + n) for n in range(committed)]
    add(batcher, *packets)
    batcher.commit()
    add(batcher, packet(99, 10))  # added, and dead before the commit

    successor = Producer(queue.region, queue.pipes.ready_write, queue.pipes.free_read)
    assert rescue(successor) == committed
    (batch,) = queue.consumer.listen()

    assert list(pcapng.packets(queue.section(batch))) == packets
    assert (batch.sequence, batch.packets, batch.first_ns) == (0, committed, START_NS)


def test_rescuing_twice_saves_once(queue: Queue) -> None:
    batcher = queue.batcher()
    add(batcher, packet(0, 20))
    batcher.commit()

    assert [rescue(queue.producer), rescue(queue.producer)] == [1, 0]


def test_a_rescued_section_is_byte_for_byte_the_one_that_its_worker_would_have_published() -> None:
    def sections(finish: Callable[[Queue, Batcher], object]) -> list[bytes]:
        with opened() as queue:
            queue.region.set_kernel_counts(10, 1)
            batcher = queue.batcher()
            add(batcher, packet(0, 20), packet(7, 33))
            batcher.commit()
            finish(queue, batcher)
            return [queue.section(b) for b in queue.consumer.listen()]

    assert sections(lambda _, batcher: batcher.publish()) == sections(lambda queue, _: rescue(queue.producer))


def test_a_slot_begun_without_a_packet_is_given_back(queue: Queue) -> None:
    queue.producer.begin(EPOCH)
    successor = Producer(queue.region, queue.pipes.ready_write, queue.pipes.free_read)

    assert (rescue(successor), successor.free, queue.consumer.listen()) == (0, 3, [])


@pytest.mark.parametrize("over", [4, 100, 2**23])
def test_a_used_length_that_cannot_be_true_is_published_for_the_uploader_to_call_corrupt(
    queue: Queue, over: int
) -> None:
    used = queue.region.slot_bytes - CLOSING_BYTES + over
    slot = queue.producer.begin(EPOCH)
    queue.producer.commit(slot, Commit(used + -used % 4, 5, 0), START_NS, START_NS)

    assert rescue(queue.producer) == 0
    (batch,) = queue.consumer.listen()
    assert (queue.consumer.section(batch), batch.packets) == (None, 5)
    queue.consumer.settle(batch)
    assert queue.region.state(slot) == State.FREE


@pytest.mark.parametrize("used", [0, 4, 8, 16, 20, 28])
def test_a_used_length_below_the_first_blocks_raises_nothing_and_stays_inside_the_slot(queue: Queue, used: int) -> None:
    for neighbour in range(3):
        queue.region.slot(neighbour)[:] = b"\xaa" * queue.region.slot_bytes
    slot = queue.producer.begin(EPOCH)
    queue.producer.commit(slot, Commit(used, 1, 0), 2**64 - 1, 2**64 - 1)

    rescue(queue.producer)

    (batch,) = queue.consumer.listen()
    assert batch.length == used + CLOSING_BYTES
    others = {bytes(queue.region.slot(n)[:]) for n in range(3) if n != slot}
    assert others == {b"\xaa" * queue.region.slot_bytes}


@pytest.mark.slow
def test_workers_killed_while_they_fill_lose_nothing_that_they_had_committed() -> None:
    """Each worker reports every commit, a moment after it; what is stored is that, or one packet more."""
    seed = 20261123
    print("seed", seed)
    rng = random.Random(seed)
    with opened(slots=4, packets_per_slot=8) as queue:
        stored: list[int] = []
        for life in range(25):
            read, write = os.pipe()
            pid = os.fork()
            if not pid:
                try:
                    producer = Producer(queue.region, queue.pipes.ready_write, queue.pipes.free_read)
                    batcher = Batcher(producer, life.to_bytes(16, "big"), OPENING, 10.0)
                    n = 0
                    while batcher.room():
                        batcher.add(n, bytes([life]) * rng.randint(0, SNAPLEN), 0)
                        batcher.commit()
                        n += 1
                        os.write(write, b"!")
                    signal.pause()
                finally:
                    os._exit(1)
            os.close(write)
            reported = sum(len(os.read(read, 1)) for _ in range(rng.randint(1, 30)))
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            reported += len(os.read(read, 1 << 16))
            os.close(read)
            rescue(Producer(queue.region, queue.pipes.ready_write, queue.pipes.free_read))
            ring_for_dead(queue.pipes)
            times = [p.ts_ns for p in queue.stored()]
            assert times == list(range(len(times)))
            assert reported <= len(times) <= reported + 1
            stored.append(len(times))
            assert queue.region.committed() == queue.region.delivered() == sum(stored)
        print("stored", stored)
    assert len(set(stored)) > 5
