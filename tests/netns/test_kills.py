"""SIGKILL of each process in turn, under load: what was sent is stored once, or its loss is counted."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest
from harness import frames, proc
from harness.programs import OSSENSOR, UPLOADER, worker_of
from harness.world import World, unread_for

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

# About 0.1 MB/s: half a minute without a worker, its longest back-off, fills a fifth of the 16 MiB of ring.
PER_SECOND = 500
KILLS = 10
MANY_PER_SECOND = 5_000
UPLOADER_KILLS = 100
VSENSOR_KILLS = 20
KILLS_WITHOUT_WORK = 10  # at most: after twenty in a row that came to no work the sensor gives up
MOST_REPEATS_A_KILL = 5  # what can be on its way: four requests, and the one that is being settled


def _await_progress(world: World) -> None:
    before = world.stored_bytes("cap0")
    proc.eventually("the store grows again", lambda: world.stored_bytes("cap0") > before)


def _holes(stored: list[int], sent: int) -> list[int]:
    """The lengths of the runs of numbers that are missing."""
    fence = [-1, *stored, sent]
    return [after - before - 1 for before, after in pairwise(fence) if after - before > 1]


def test_a2_100_kills_of_the_uploader_and_20_of_the_vsensor_lose_nothing_and_store_nothing_twice(world: World) -> None:
    """Each at moments of its own, whatever the other is about; batches are small, so that many are on their way."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    world.add_link("cap0")
    vsensor = world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={**unread_for(20), "OSSENSOR_DEBUG": "3"})
    worker = sensor.one(worker_of("cap0"))
    sender = world.sender("cap0", per_second=MANY_PER_SECOND)
    _await_progress(world)

    def uploader() -> None:
        sensor.strike(UPLOADER)

    kills = Counter[str]()
    victims: dict[str, tuple[Callable[[], None], int, tuple[float, float]]] = {
        "uploader": (uploader, UPLOADER_KILLS, (0.05, 0.6)),
        "vsensor": (vsensor.kill_server, VSENSOR_KILLS, (1.2, 2.4)),
    }
    due_s = {name: time.monotonic() + rng.uniform(*between_s) for name, (_, _, between_s) in victims.items()}
    while due_s:
        name = min(due_s, key=lambda name: due_s[name])
        time.sleep(max(0.0, due_s[name] - time.monotonic()))  # when the fault comes, not what it is waited for
        kill, most, between_s = victims[name]
        kill()
        kills[name] += 1
        if name == "uploader" and not kills[name] % KILLS_WITHOUT_WORK:
            _await_progress(world)
        due_s[name] = time.monotonic() + rng.uniform(*between_s)
        if kills[name] == most:
            del due_s[name]
    _await_progress(world)
    sent = sender.stop()

    assert sensor.one(worker_of("cap0")) == worker
    assert sensor.terminate()[0] == 0
    stored, books = world.stored_numbers("cap0"), sensor.books()
    repeats = len(sensor.records("sent batch", answer="200 present"))
    deaths = len(sensor.records("uploader died"))
    print(
        f"{dict(kills)}, {sent} frames sent, {len(stored)} stored, {repeats} batches twice on the wire; books {books}"
    )

    assert frames.verdict(range(sent), stored) == ""
    assert (books["received"], books["delivered"]) == (sent, sent)
    assert (kills["uploader"], kills["vsensor"], deaths) == (UPLOADER_KILLS, VSENSOR_KILLS, UPLOADER_KILLS)
    assert 1 <= repeats <= MOST_REPEATS_A_KILL * (UPLOADER_KILLS + VSENSOR_KILLS)


@pytest.mark.alone
def test_ten_kills_of_a_worker_repeat_nothing_and_count_what_its_kernel_ring_held(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    uploader = sensor.one(UPLOADER)
    sender = world.sender("cap0", per_second=PER_SECOND)
    _await_progress(world)

    for _ in range(KILLS):
        sensor.kill(worker_of("cap0"))
        _await_progress(world)
    sent = sender.stop()
    deaths = [sensor.wait_for("worker died", count=nth)["lost"] for nth in range(1, KILLS + 1)]
    lost = sum(deaths)
    proc.happened(lambda: world.holds("cap0", sent - lost), timeout_s=60)
    assert sensor.one(UPLOADER) == uploader
    assert sensor.terminate()[0] == 0
    stored, books = world.stored_numbers("cap0"), sensor.books()
    holes = _holes(stored, sent)
    print(f"{KILLS} kills, {sent} frames sent, {len(stored)} stored; lost {deaths}, holes {holes}; books {books}")

    assert len(sensor.records("worker died")) == KILLS
    assert stored == sorted(set(stored))
    # libpcap's ring is 64 blocks, each handed over after a tenth of a second however empty, so it bridges some six
    # seconds of a worker's back-off at any rate. What comes after that the kernel drops, and counts.
    assert books["received"] == len(stored) + lost + books["kernel_drops"]
    # Each missing frame is counted; those of the moment when both rings are open are counted though they are stored.
    assert sent <= books["received"] <= sent + KILLS * PER_SECOND // 5


def test_a_worker_that_somebody_else_asks_to_stop_has_a_successor_in_its_epoch(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    sender = world.sender("cap0", per_second=MANY_PER_SECOND)
    for _ in range(3):
        _await_progress(world)
        worker = sensor.one(worker_of("cap0"))
        os.kill(worker, signal.SIGTERM)
        sensor.successor(worker_of("cap0"), worker)
    _await_progress(world)
    sent = sender.stop()
    assert sensor.terminate()[0] == 0

    found = json.loads(world.collector.run(OSSENSOR, "audit", world.store, "--json"))
    assert sensor.books() == {"received": sent, "kernel_drops": 0, "delivered": sent, "in_flight": 0}
    assert frames.verdict(range(sent), world.stored_numbers("cap0")) == ""
    assert [one["verdict"] for one in found] == ["balanced"]


@pytest.mark.parametrize("why", ["the interface is deleted", "the sensor stops"])
def test_a_worker_that_is_killed_while_it_reads_the_rest_has_a_successor_that_does(world: World, why: str) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    world.send("cap0", 100)
    proc.eventually("the first frames are stored", lambda: world.holds("cap0", 100))
    worker = sensor.one(worker_of("cap0"))
    os.kill(worker, signal.SIGSTOP)
    world.send("cap0", 1000, first=100)

    if why == "the interface is deleted":
        world.remove_link("cap0")
        sensor.wait_for("interface no longer captured: deleted", interface="cap0")
        os.kill(worker, signal.SIGKILL)
        sensor.wait_for_line("books closed: ")
        sensor.terminate()
    else:
        sensor.signal(signal.SIGTERM)
        sensor.wait_for("draining")
        os.kill(worker, signal.SIGKILL)
        assert sensor.wait() == 0

    found = json.loads(world.collector.run(OSSENSOR, "audit", world.store, "--json"))
    assert sensor.books() == {"received": 1100, "kernel_drops": 0, "delivered": 1100, "in_flight": 0}
    assert frames.verdict(range(1100), world.stored_numbers("cap0")) == ""
    assert [one["verdict"] for one in found] == ["balanced"]
