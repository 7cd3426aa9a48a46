"""Interfaces that go and come back, many times and many at once: captured in a second, outages told as time."""

from __future__ import annotations

import itertools
import time
from datetime import datetime
from pathlib import Path

import pytest
from harness import frames, proc
from harness.programs import Sensor, worker_of
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(300)]

READDED = 50
FLAPS = 100
AT_ONCE = 50
WITHIN_S = 1.0


def _again(sensor: Sensor, count: int) -> float:
    """How long it was not captured, by the sensor's own account, once it is captured again for the `count`th time."""
    return float(sensor.wait_for("captured again", interface="cap0", count=count)["outage_s"])


def _told(delays_s: list[float], outages_s: list[float]) -> float:
    """The longest delay."""
    slowest_s = max(delays_s)
    print(f"captured again at most {slowest_s:.3f} s after it was up; outages {min(outages_s)} to {max(outages_s)} s")
    return slowest_s


def test_deleted_and_added_again_fifty_times_it_is_captured_each_time(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    rounds = 0

    def slowest_s() -> float:
        """Of fifty. All of them again when one was late: what is so once in fifty is so in the next fifty, too."""
        nonlocal rounds
        delays_s, outages_s = [], []
        for _ in range(READDED):
            world.remove_link("cap0")
            sensor.wait_for("interface no longer captured: deleted", interface="cap0", count=rounds + 1)
            world.add_link("cap0")
            there_s = time.monotonic()
            outages_s.append(_again(sensor, rounds + 1))
            delays_s.append(time.monotonic() - there_s)
            world.send("cap0", 1, first=rounds)
            rounds += 1
        return _told(delays_s, outages_s)

    assert proc.quickest(WITHIN_S, slowest_s) < WITHIN_S
    assert sensor.terminate()[0] == 0
    # Each time is an epoch of its own, and only within one is there an order.
    assert sorted(world.stored_numbers("cap0")) == list(range(rounds))


def test_down_and_up_a_hundred_times_is_the_same_worker_and_the_same_epoch(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    worker = sensor.one(worker_of("cap0"))
    flaps = 0

    def slowest_s() -> float:
        """Of a hundred in a row, as above."""
        nonlocal flaps
        delays_s, outages_s = [], []
        for _ in range(FLAPS):
            world.sensor.run("ip", "link", "set", "cap0", "down")
            sensor.wait_for("interface is down", interface="cap0", count=flaps + 1)
            world.sensor.run("ip", "link", "set", "cap0", "up")
            there_s = time.monotonic()
            outages_s.append(_again(sensor, flaps + 1))
            delays_s.append(time.monotonic() - there_s)
            if flaps % 10 == 0:
                world.carries("cap0")
                world.send("cap0", 10, first=flaps)
            flaps += 1
        return _told(delays_s, outages_s)

    assert proc.quickest(WITHIN_S, slowest_s) < WITHIN_S
    assert sensor.one(worker_of("cap0")) == worker
    assert sensor.terminate()[0] == 0
    assert len(sensor.records("capturing", interface="cap0")) == 1
    assert frames.verdict(range(flaps), world.stored_numbers("cap0")) == ""


def test_renamed_it_is_captured_on_and_renamed_out_of_the_rules_it_is_left(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    worker = sensor.one(worker_of("cap0"))

    world.sensor.run("ip", "link", "set", "cap0", "name", "cap7")
    world.send("cap0", 100)
    proc.eventually("frames are stored under the old name", lambda: world.holds("cap0", 100))
    assert sensor.one(worker_of("cap0")) == worker
    name, rounds = "cap7", itertools.count()

    def renamed(to: str) -> None:
        nonlocal name
        world.sensor.run("ip", "link", "set", name, "name", to)
        name = to

    def left_s() -> float:
        """How long the worker stays when the interface is named out of the rules."""
        nonlocal worker
        if number := next(rounds):
            renamed(f"cap{7 + number}")
            sensor.wait_for("capturing", interface=name)
            worker = sensor.one(worker_of(name))
        return proc.gone_after_s([worker], lambda: renamed(f"other{number}"))

    assert proc.quickest(WITHIN_S, left_s) < WITHIN_S
    assert sensor.terminate()[0] == 0
    assert sensor.records("worker died") == []
    assert frames.verdict(range(100), world.stored_numbers("cap0")) == ""


def test_fifty_interfaces_at_once_are_captured_within_a_second(world: World, tmp_path: Path) -> None:
    world.start_vsensor()
    sensor = world.start_sensor()
    sensor.wait_for("uploader ready")
    rounds = itertools.count()

    def captured_s() -> float:
        """From when the last of them, new ones each time, was up; by the log's own times, which nothing slows down."""
        number = next(rounds)
        names = [f"cap{number}x{n}" for n in range(AT_ONCE)]
        batch, other, away = (tmp_path / name for name in ("batch", "other", "away"))
        links = [f"link add {name} up type veth peer name {name} netns {world.generator.pid}\n" for name in names]
        batch.write_text("".join(links))
        other.write_text("".join(f"link set {name} up\n" for name in names))
        away.write_text("".join(f"link delete {name}\n" for name in names))

        world.sensor.run("ip", "-batch", batch)
        world.generator.run("ip", "-batch", other)
        there_s = time.time()
        all_of_them = AT_ONCE * (number + 1)
        proc.eventually(
            "all are captured", lambda: sum("capturing" in line for line in list(sensor.lines)) == all_of_them
        )
        captured = {record["interface"]: record["time"] for record in sensor.records("capturing")}
        world.sensor.run("ip", "-batch", away)
        proc.eventually("their workers have ended", lambda: not any(map(sensor.named, map(worker_of, names))))
        return datetime.fromisoformat(max(captured[name] for name in names)).timestamp() - there_s

    assert proc.quickest(WITHIN_S, captured_s) < WITHIN_S
    assert sensor.terminate()[0] == 0
