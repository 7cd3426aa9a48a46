"""When a batch that is not full is published: by age, unless it would only take a slot in a queue."""

from __future__ import annotations

import os

import pytest

from ossensor.region import Region
from ossensor.slots import Consumer, Pipes, Producer
from ossensor.workers.batcher import Batcher, Opening

SLOTS = 8
OPENING = Opening("eth0", linktype=1, snaplen=2000, application="test")


@pytest.mark.parametrize("waiting", range(SLOTS))
def test_a_batch_has_a_time_only_while_the_uploader_keeps_up(waiting: int) -> None:
    region = Region.create(SLOTS, 1 << 16)
    pipes = Pipes.create()
    producer = Producer(region, pipes.ready_write, pipes.free_read)
    batcher = Batcher(producer, bytes(16), OPENING, max_age_s=0.1)
    for _ in range(waiting):
        batcher.add(1, b"packet", 6)
        batcher.publish()

    batcher.add(1, b"packet", 6)

    assert (batcher.due_s() is not None) is (waiting <= 3)
    region.close()
    os.close(region.fd)
    pipes.close()


def test_its_time_comes_back_when_the_uploader_has_caught_up() -> None:
    region = Region.create(SLOTS, 1 << 16)
    pipes = Pipes.create()
    producer = Producer(region, pipes.ready_write, pipes.free_read)
    consumer = Consumer(region, pipes.ready_read, pipes.free_write)
    batcher = Batcher(producer, bytes(16), OPENING, max_age_s=0.1)
    for _ in range(4):
        batcher.add(1, b"packet", 6)
        batcher.publish()
    batcher.add(1, b"packet", 6)
    assert batcher.due_s() is None

    consumer.settle(consumer.listen()[0])
    producer.listen()

    assert batcher.due_s() is not None
    region.close()
    os.close(region.fd)
    pipes.close()
