"""A12: what a worker's death leaves behind in the processes that live on, a thousand times."""

from __future__ import annotations

import os
import random
import secrets
import signal
import time
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from harness import frames, proc
from harness.programs import UPLOADER, Sensor, worker_of
from harness.world import World, unread_for

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

RESTARTS: Final = 1000 if os.environ.get("OSSENSOR_CHAOS") else 50
GROWTH_KIB: Final = 2048
PER_SECOND: Final = 2_000
WORKER: Final = worker_of("cap0")


class Held(NamedTuple):
    """What the supervisor and the uploader have, and the worker of the moment."""

    descriptors: tuple[int, ...]  # without connections, of which the uploader makes another when it needs one
    threads: tuple[int, ...]
    children: int  # zombies too

    def within(self, other: Held) -> bool:
        """At most as much of each: the other may have been caught while it connected."""
        mine = (*self.descriptors, *self.threads, self.children)
        theirs = (*other.descriptors, *other.threads, other.children)
        return all(m <= t for m, t in zip(mine, theirs, strict=True))


def _lasting(pid: int) -> int:
    folder = Path(f"/proc/{pid}")
    rows = [line.split() for line in (folder / "net/tcp").read_text().splitlines()[1:]]
    connections = {f"socket:[{row[9]}]" for row in rows}
    return sum(str(fd.readlink()) not in connections for fd in (folder / "fd").iterdir())


def _held(sensor: Sensor) -> Held | None:
    """None while a worker is dying or being born."""
    processes = (sensor.pid, sensor.one(UPLOADER), sensor.one(WORKER))
    try:
        threads = tuple(int(proc.status(pid)["Threads"]) for pid in processes)
        return Held(tuple(map(_lasting, processes)), threads, len(proc.children(sensor.pid)))
    except (FileNotFoundError, KeyError):
        return None


def _memory_kib(sensor: Sensor) -> list[int]:
    """Of the supervisor and the uploader, without ring and slots, with what they still share with children."""
    return [int(proc.status(pid)["RssAnon"].split()[0]) for pid in (sensor.pid, sensor.one(UPLOADER))]


def test_a12_restarts_of_a_worker_leave_no_descriptor_no_thread_and_no_memory_behind(world: World) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    world.add_link("cap0")
    world.start_vsensor()
    # zstd's memory follows the largest batch that each of four senders has had, up to 1.4 MiB each (compression.py).
    # What waits in the ring after a death makes batches larger: so it grows for hundreds of deaths, and is not theirs.
    sensor = world.start_sensor("cap0", changes={**unread_for(20), "OSSENSOR_COMPRESSION": "off"})
    sender = world.sender("cap0", per_second=PER_SECOND)
    proc.eventually("the first frames are stored", lambda: world.holds("cap0", 10))
    worker = sensor.kill(WORKER)  # what is loaded for a first death is there from then on
    proc.eventually("it is told", lambda: sensor.records("worker died"))
    before, before_kib = proc.eventually("all is quiet", lambda: _held(sensor)), _memory_kib(sensor)

    for _ in range(RESTARTS):
        time.sleep(rng.uniform(0.005, 0.05))  # the random moment is the test
        os.kill(worker, signal.SIGKILL)
        worker = sensor.successor(WORKER, worker)
    after_kib = _memory_kib(sensor)
    print(f"{RESTARTS} restarts: {before}, {before_kib} KiB; then {_held(sensor)}, {after_kib} KiB")
    proc.eventually(f"it is no more than {before}", lambda: (held := _held(sensor)) and held.within(before))
    sent = sender.stop()

    assert sensor.terminate()[0] == 0
    assert len(sensor.records("worker died")) == RESTARTS + 1
    assert [after - first <= GROWTH_KIB for first, after in zip(before_kib, after_kib, strict=True)] == [True, True]
    assert frames.verdict(range(sent), world.stored_numbers("cap0")) == ""
