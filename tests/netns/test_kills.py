"""SIGKILL of each process in turn, under load: what was sent is stored once, or its loss is counted."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from harness import frames, proc
from harness.programs import UPLOADER, Sensor, worker_of
from harness.world import World

# Successors wait for back-offs that double up to 30 s, so ten kills of one process take minutes at worst.
pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

# About 0.1 MB/s: a minute without uploader or vSensor, their longest back-offs one after the other, fills a fifth of
# the 32 MiB that wait for the vSensor by default, and half a minute without a worker a fifth of the 16 MiB of ring.
PER_SECOND = 500
KILLS = 10


def _await_progress(world: World) -> None:
    before = world.stored_bytes("cap0")
    proc.eventually("the store grows again", lambda: world.stored_bytes("cap0") > before, timeout_s=60)


def _holes(stored: list[int], sent: int) -> list[int]:
    """The lengths of the runs of numbers that are missing."""
    fence = [-1, *stored, sent]
    return [after - before - 1 for before, after in pairwise(fence) if after - before > 1]


def _books(sensor: Sensor) -> dict[str, int]:
    """The sensor's last account of its one interface, from the line that it ends with."""
    (line,) = [line for line in sensor.lines if "books closed: " in line]
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}


def test_ten_kills_each_of_uploader_and_vsensor_lose_nothing_and_repeat_nothing(world: World) -> None:
    world.add_link("cap0")
    vsensor = world.start_vsensor()
    sensor = world.start_sensor("cap0")
    worker = sensor.one(worker_of("cap0"))
    sender = world.sender("cap0", per_second=PER_SECOND)
    _await_progress(world)

    for _ in range(KILLS):
        victim = sensor.strike(UPLOADER)
        vsensor.kill_server()  # meanwhile, so that the two back-offs overlap
        sensor.successor(UPLOADER, victim)
        _await_progress(world)
    sent = sender.stop()
    proc.happened(lambda: world.holds("cap0", sent), timeout_s=60)

    assert sensor.one(worker_of("cap0")) == worker
    assert sensor.terminate()[0] == 0
    stored, books = world.stored_numbers("cap0"), _books(sensor)
    print(f"{2 * KILLS} kills, {sent} frames sent, {len(stored)} stored; books {books}")

    assert frames.verdict(range(sent), stored) == ""


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
    stored, books = world.stored_numbers("cap0"), _books(sensor)
    holes = _holes(stored, sent)
    print(f"{KILLS} kills, {sent} frames sent, {len(stored)} stored; lost {deaths}, holes {holes}; books {books}")

    assert len(sensor.records("worker died")) == KILLS
    assert stored == sorted(set(stored))
    # libpcap's ring is 64 blocks, each handed over after a tenth of a second however empty, so it bridges some six
    # seconds of a worker's back-off at any rate. What comes after that the kernel drops, and counts.
    assert books["received"] == len(stored) + lost + books["kernel_drops"]
    # Each missing frame is counted; those of the moment when both rings are open are counted though they are stored.
    assert sent <= books["received"] <= sent + KILLS * PER_SECOND // 10
