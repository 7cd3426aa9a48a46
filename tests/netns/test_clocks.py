"""E3: a sensor whose clock is wrong, or is set while it sends, delivers by the vSensor's."""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter
from pathlib import Path

import pytest
from harness import frames, proc
from harness.programs import Sensor
from harness.wallclock import WallClock
from harness.world import World, unread_for

pytestmark = [pytest.mark.netns, pytest.mark.slow]

LINKS = ("cap0", "cap1", "cap2", "cap3")
HOUR_S = 3600
JUMPS_S = (0, HOUR_S, -HOUR_S, 61, -301)  # against the true time, one after the other
SEND_LEVEL = "2"
CAP_SYS_TIME = 25


def _answers(sensor: Sensor) -> Counter[str]:
    return Counter(record["answer"] for record in sensor.records("sent batch"))


def _await_batches(sensor: Sensor, more: int) -> None:
    """Until so many more batches of each link were stored."""

    def stored() -> Counter[str]:
        return Counter(record["interface"] for record in sensor.records("sent batch", answer="201 stored"))

    before = stored()
    proc.eventually("batches", lambda: all(stored()[link] >= before[link] + more for link in LINKS))


def _own_clock_off_s(sensor: Sensor) -> float:
    """How far the sensor's newest log line is from now, by its own account."""
    newest = dt.datetime.fromisoformat(sensor.records("sent batch")[-1]["time"])
    return newest.timestamp() - time.time()


def _about(seconds: float) -> int:
    """To the nearest half minute: lines that wait to be read are seconds old."""
    return round(seconds / 30) * 30


def test_e3_a_clock_that_is_an_hour_off_and_then_set_again_and_again_costs_no_batch_and_stays_as_it_was_set(
    world: World, tmp_path: Path
) -> None:
    """The catalogue allows two failed requests; four links at once have four under way, so it has to be none."""
    clock = WallClock(tmp_path / "clock")
    clock.set(HOUR_S)
    world.start_vsensor().wait_until_well()
    serves_s = int(time.time())
    world.add_link(*LINKS)
    # It believes nothing that was signed in the second of its start or before, and a sensor may be one behind: both
    # tell the time in whole seconds.
    proc.eventually("its start is two seconds ago", lambda: int(time.time()) > serves_s + 1)
    changes = {**clock.variables, "OSSENSOR_DEBUG": SEND_LEVEL, **unread_for(40)}
    sensor = world.start_sensor(*LINKS, changes=changes)
    senders = [world.sender(link, per_second=1000) for link in LINKS]
    _await_batches(sensor, 5)
    off_s = [_own_clock_off_s(sensor)]
    for jump_s in JUMPS_S:
        clock.set(jump_s)
        proc.eventually("the log follows", lambda: _about(_own_clock_off_s(sensor)) == _about(jump_s))  # noqa: B023
        _await_batches(sensor, 5)
        off_s.append(_own_clock_off_s(sensor))
    capabilities = [int(proc.status(pid)["CapEff"], 16) >> CAP_SYS_TIME & 1 for pid in proc.tree(sensor.pid)]
    sent = [sender.stop() for sender in senders]
    assert sensor.terminate()[0] == 0
    (differ,) = sensor.records("the clocks differ; signing by the vSensor's")

    print(f"{_answers(sensor)}; own clock off by {[round(s, 1) for s in off_s]} s; told {differ['offset_s']} s")
    assert _answers(sensor).keys() == {"201 stored"}
    assert abs(differ["offset_s"] + HOUR_S) <= 1
    # Its own clock stays what it was set to, and nobody in it could set the machine's.
    assert list(map(_about, off_s)) == list(map(_about, (HOUR_S, *JUMPS_S)))
    assert capabilities == [0] * (2 + len(LINKS))
    for link, count in zip(LINKS, sent, strict=True):
        assert frames.verdict(range(count), world.stored_numbers(link)) == ""
