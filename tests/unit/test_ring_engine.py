"""A reader of the ring killed before each of its steps: its successor loses nothing and repeats nothing.

The kill is a real SIGKILL of a real process, at every store into shared memory and every block given back; the ring is
memory of the test's own, so that the kernel cannot hide a mistake by filling a block again.
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ring_memory import Frame, put_block, ring_of

from ossensor import pcapng
from ossensor.capture import _native
from ossensor.capture.engine import Tuning
from ossensor.capture.ring_engine import BLOCK_BYTES, RingEngine
from ossensor.region import Region
from ossensor.slots import Consumer, Pipes, Producer, ring_for_dead
from ossensor.workers.batcher import Batcher, Opening, rescue

EPOCH = bytes(range(16))
OPENING = Opening("eth0", 1, 262_144, "test")
BLOCKS = 7
# Two and a half blocks of these fill a slot, so batches end within the run.
FRAMES = 1600


class FakeRing(RingEngine):
    """The engine over memory of the test's."""

    def __init__(self, memory: int) -> None:
        unused = socket.socket()
        unused.close()
        size = os.fstat(memory).st_size
        super().__init__(unused, 1, size // BLOCK_BYTES, Tuning(size, 100))
        self._memory = memory

    def _map(self) -> memoryview:
        return memoryview(mmap.mmap(self._memory, 0))


class Queue:
    """One interface's memory, and both ends."""

    def __init__(self) -> None:
        self.region = Region.create(8, 1 << 19)
        self.pipes = Pipes.create()
        self.region.begin_epoch()

    def producer(self) -> Producer:
        return Producer(self.region, self.pipes.ready_write, self.pipes.free_read)

    def read_all(self, ring: int, region: Region | None = None) -> None:
        """A worker's life: what the ring has, to the last batch."""
        engine = FakeRing(ring)
        producer = Producer(region or self.region, self.pipes.ready_write, self.pipes.free_read)
        batcher = Batcher(producer, EPOCH, OPENING, 10.0, engine.unit_bytes)
        engine.resume(producer.region.consumed())
        engine.read(batcher, 1)
        batcher.finish()

    def stored(self) -> tuple[list[int], list[int]]:
        """Sequences and packet times of all batches, which are in order; the last, and no other, says that it is."""
        consumer = Consumer(self.region, self.pipes.ready_read, self.pipes.free_write)
        times: list[int] = []
        sequences = []
        batches = consumer.listen()
        assert [batch.final for batch in batches] == [False] * (len(batches) - 1) + [True]
        for batch in batches:
            section = consumer.section(batch)
            assert section is not None
            assert batch.first_packet == len(times)
            times += [packet.ts_ns for packet in pcapng.packets(bytes(section))]
            sequences.append(batch.sequence)
        return sequences, times

    def close(self) -> None:
        self.region.close()
        self.pipes.close()
        os.close(self.region.fd)


@pytest.fixture
def queue() -> Iterator[Queue]:
    made = Queue()
    yield made
    made.close()


def ring() -> int:
    return ring_of([[Frame(bytes(14), ts_ns=FRAMES * b + n) for n in range(FRAMES)] for b in range(BLOCKS)])


def die_at(step: int, queue: Queue, memory: int) -> bool:
    """Runs a worker that is killed before its step number `step`; False when it had fewer."""
    pid = os.fork()
    if not pid:
        left = [step]

        def mortal(act: Callable[..., Any]) -> Callable[..., Any]:
            def stepping(*args: Any) -> Any:
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1
                return act(*args)

            return stepping

        release = _native.release

        def one_by_one(ring: mmap.mmap, size: int, sequence: int, count: int) -> None:
            for n in range(count):
                mortal(release)(ring, size, sequence + n, 1)

        def one_word_at_a_time(slot: int, first_word: int, *values: int) -> None:
            for n, value in enumerate(values):
                region.set_header(slot, first_word + n, value)

        try:
            region = Region(queue.region.fd)
            region.set_header = mortal(region.set_header)  # type: ignore[method-assign]
            region.set_headers = one_word_at_a_time  # type: ignore[method-assign]
            region.set_control = mortal(region.set_control)  # type: ignore[method-assign]
            _native.release = one_by_one  # type: ignore[assignment]
            queue.read_all(memory, region)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in {0, -signal.SIGKILL}
    return os.WIFSIGNALED(status)


def test_killed_before_any_step_its_successor_reads_on_where_it_stopped() -> None:
    steps = 0
    died = True
    while died:
        queue, memory = Queue(), ring()
        died = die_at(steps, queue, memory)
        if died:
            rescue(queue.producer())
            ring_for_dead(queue.pipes)
            if not queue.region.finished(EPOCH):
                queue.read_all(memory)
        sequences, times = queue.stored()

        assert times == list(range(BLOCKS * FRAMES)), f"killed before step {steps}"
        assert sequences == list(range(len(sequences)))
        assert queue.region.committed_in_epoch() == BLOCKS * FRAMES
        assert queue.region.consumed() == BLOCKS
        with mmap.mmap(memory, 0) as mapped:
            assert not any(_native.ready(mapped, BLOCK_BYTES, n + 1) for n in range(BLOCKS))
        os.close(memory)
        queue.close()
        steps += 1
    print(steps, "steps")
    assert steps > 40


def test_the_last_section_of_an_epoch_says_so_and_has_its_counts(queue: Queue) -> None:
    queue.region.set_kernel_counts(BLOCKS * FRAMES + 5, 5)

    queue.read_all(ring())
    batches = Consumer(queue.region, queue.pipes.ready_read, queue.pipes.free_write).listen()

    assert [batch.final for batch in batches] == [False] * (len(batches) - 1) + [True]
    assert (batches[-1].received, batches[-1].kernel_drops) == (BLOCKS * FRAMES + 5, 5)
    assert sum(batch.packets for batch in batches) == BLOCKS * FRAMES


def test_an_epoch_without_packets_has_one_empty_section(queue: Queue) -> None:
    silent = os.memfd_create("ring")
    os.ftruncate(silent, 2 * BLOCK_BYTES)

    queue.read_all(silent)
    (batch,) = Consumer(queue.region, queue.pipes.ready_read, queue.pipes.free_write).listen()

    assert (batch.sequence, batch.packets, batch.final) == (0, 0, True)


def test_what_nobody_read_is_counted_in_the_ring_itself() -> None:
    memory = ring()
    with mmap.mmap(memory, 0) as mapped:
        put_block(mapped, 6 * BLOCK_BYTES, 7, [Frame(b"x")] * 3, status=0)  # the kernel is still filling it

    assert [FakeRing(memory).maybe_unread(n) for n in (0, 5, 6, 7)] == [6 * FRAMES + 3, FRAMES + 3, 3, 0]
