"""The ring engine under load: SIGKILL of its reader, and SIGTERM of everything; the books balance as integers."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import statistics
import time
from array import array
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from harness import flood, proc
from harness.programs import OSSENSOR, Sensor, worker_of
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]

PER_SECOND = 220_000
KILLS = 300
STOPS = 60
# Back-pressure is not what is tested: the two ends share two cores with the flood.
ROOM = {"OSSENSOR_BUFFER_MB": "512", "OSSENSOR_MEMORY_MB": "600"}


def books(sensor: Sensor) -> dict[str, int]:
    """The last account of the one interface, which says of itself that it balances."""
    (line,) = [line for line in sensor.lines if "books closed: " in line]
    assert "(balanced)" in line
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line.partition("books closed: ")[2])}


def audited(world: World) -> list[dict[str, Any]]:
    """What `ossensor audit` finds in the store, which is nothing bad."""
    found: list[dict[str, Any]] = json.loads(world.collector.run(OSSENSOR, "audit", world.store, "--json"))
    return found


def test_300_kills_of_the_worker_under_load_lose_nothing_but_counted_kernel_drops(world: World, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    pcap = tmp_path / "flood.pcap"
    flood.write_pcap(pcap, 160 << 16)
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=ROOM)
    sensor.wait_for("uploader ready")
    load = flood.Flood(world.generator, "cap0", pcap, per_second=PER_SECOND)
    proc.eventually("the flood", lambda: world.arrived("cap0") > PER_SECOND // 10, timeout_s=60)

    began_s, before = time.monotonic(), world.arrived("cap0")
    kills_s: list[float] = []
    worker = sensor.one(worker_of("cap0"))
    for _ in range(KILLS):
        time.sleep(rng.uniform(0.005, 0.05))  # the random moment is the test
        kills_s.append(time.monotonic())
        os.kill(worker, signal.SIGKILL)
        worker = sensor.successor(worker_of("cap0"), worker)
    took_s = time.monotonic() - began_s
    rate = (world.arrived("cap0") - before) / took_s
    assert load.running()
    load.stop()
    pcap.unlink()
    code, _ = sensor.terminate()
    arrived = world.arrived("cap0")

    stored = array("Q")
    for path in world.files("cap0"):
        stored.extend(flood.numbers_in(path))
    account = books(sensor)
    lives = [record.get("reading_s") for record in sensor.records("worker died", interface="cap0")]
    lives += [record.get("reading_s") for record in sensor.records("worker stopped", interface="cap0")]
    delays_ms = sorted(1000 * (_next_reading(lives, life) - killed_s) for life, killed_s in enumerate(kills_s))
    p99_ms = delays_ms[int(len(delays_ms) * 0.99) - 1]
    print(f"{KILLS} kills in {took_s:.1f} s under {rate:.0f} packets/s; {account}")
    print(
        f"reading again after: median {statistics.median(delays_ms):.1f} ms, p99 {p99_ms:.1f}, most {delays_ms[-1]:.1f}"
    )

    assert code == 0
    assert rate >= 200_000
    assert [(a["verdict"], a["finding"]["packets"]) for a in audited(world)] == [("balanced", len(stored))]
    assert [record["lost"] for record in sensor.records("worker died")] == [0] * KILLS
    assert account == {
        "received": arrived,
        "kernel_drops": arrived - len(stored),
        "delivered": len(stored),
        "in_flight": 0,
    }
    assert all(earlier < later for earlier, later in pairwise(stored))  # once each, in order
    assert p99_ms <= 100


def _next_reading(lives: list[float | None], life: int) -> float:
    """When the first of the successors that lived long enough to read began to."""
    return next(reading_s for reading_s in lives[life + 1 :] if reading_s is not None)


def test_60_clean_stops_under_load_leave_nothing_uncounted(world: World, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    pcap = tmp_path / "flood.pcap"
    flood.write_pcap(pcap, 1 << 16)
    world.add_link("cap0")
    world.start_vsensor()
    load = flood.Flood(world.generator, "cap0", pcap, per_second=60_000, loops=100_000)
    proc.eventually("the flood", lambda: world.arrived("cap0") > 0, timeout_s=60)

    accounts = []
    for _ in range(STOPS):
        sensor = world.start_sensor("cap0", changes=ROOM)
        sensor.wait_for("uploader ready")
        time.sleep(rng.uniform(0, 0.5))  # the random moment is the test
        assert sensor.terminate()[0] == 0
        accounts.append(books(sensor))
        sensor.close()
    assert load.running()
    load.stop()

    packets, drops = (sum(account[name] for account in accounts) for name in ("received", "kernel_drops"))
    print(f"{STOPS} stops, {packets} packets, {drops} of them kernel drops")
    assert all(account["received"] > 1000 for account in accounts)
    assert [a for a in accounts if a["received"] != a["delivered"] + a["kernel_drops"] or len(a) != 4] == []
    found = audited(world)
    assert [a["verdict"] for a in found] == ["balanced"] * STOPS
    assert sorted(a["finding"]["packets"] for a in found) == sorted(account["delivered"] for account in accounts)
