"""A9: signals in a storm, at any moment: one drain, exit 0. Floods that fill a descriptor: tests/unit/test_child.py."""

from __future__ import annotations

import os
import random
import secrets
import signal
import time

import pytest
from harness import proc
from harness.programs import Sensor
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

LIVES = 100 if os.environ.get("OSSENSOR_CHAOS") else 4
SIGNALS = 20
APART_S = 0.02  # so that most find it alive: a drain of nothing takes some 0.4 s
LATEST_S = 1.0  # by then it captures, and its children have begun
_TERM = 1 << (signal.SIGTERM - 1)


def _held_back(sensor: Sensor) -> bool:
    """True once a SIGTERM waits for the loop. Before, it ends an interpreter that has not come to our first line."""
    return bool(int(proc.status(sensor.pid).get("SigBlk", "0"), 16) & _TERM)


def _storm(sensor: Sensor, rng: random.Random) -> None:
    """Twenty signals that all mean "end", some milliseconds apart."""
    for _ in range(SIGNALS):
        sensor.signal(rng.choice([signal.SIGTERM, signal.SIGTERM, signal.SIGINT]))
        time.sleep(rng.uniform(0, APART_S))


def test_a9_twenty_signals_at_any_moment_of_its_life_are_one_drain_and_exit_0(world: World) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    world.add_link("cap0")
    world.start_vsensor()
    moments_s = [LATEST_S * (n + rng.random()) / LIVES for n in range(LIVES)]  # spread over all of its start
    found = []

    for moment_s in moments_s:
        sensor = world.start_sensor()
        while not _held_back(sensor):
            assert sensor.running()
            time.sleep(0.001)
        time.sleep(moment_s)
        _storm(sensor, rng)
        code = sensor.wait()
        found.append((code, len(sensor.records("draining")), len(sensor.records("worker died"))))

    print(
        f"{LIVES} lives, each ended by {SIGNALS} signals, the first after {moments_s[0]:.3f} to {moments_s[-1]:.3f} s"
    )
    assert found == [(0, 1, 0)] * LIVES
