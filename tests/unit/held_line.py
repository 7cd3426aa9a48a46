"""An interface of the uploader's, with batches in its slots that nobody has listened for yet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ossensor.region import Commit, Region
from ossensor.slots import Closing, Consumer, Pipes, Producer
from ossensor.transport.compression import Advice
from ossensor.workers.lines import Line

# In four slots: one batch more than may wait there beside a spool.
BATCHES: Final = 3
PACKETS: Final = 3  # of each


@contextmanager
def held_line() -> Iterator[Line]:
    region, pipes = Region.create(4, 4096), Pipes.create()
    producer = Producer(region, pipes.ready_write, pipes.free_read)
    for _ in range(BATCHES):
        slot = producer.begin(bytes(16))
        producer.commit(slot, Commit(8, PACKETS, 1), 5, 6)
        producer.publish(slot, Closing(8))
    made = Line("eth0", Consumer(region, pipes.ready_read, pipes.free_write), [], Advice())
    yield made
    made.in_slots.clear()
    pipes.close()
    os.close(region.fd)
