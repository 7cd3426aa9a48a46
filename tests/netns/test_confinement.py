"""Filters of system calls and Landlock around the processes of a running sensor, seen from outside."""

from __future__ import annotations

import os
import platform
import re
import signal
from pathlib import Path

import pytest
from harness import proc, programs
from harness.programs import UPLOADER, Sensor, worker_of
from harness.world import World

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="filters kill where they were tested: x86_64"),
]

ASTRAY = {"PYTHONPATH": str(Path(__file__).parent / "harness/astray"), "PYTHONDONTWRITEBYTECODE": "1"}


def working(world: World, **changes: str) -> Sensor:
    """A sensor all of whose processes have done their work once."""
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=changes)
    world.send("cap0", 10)
    proc.eventually("stored", lambda: world.holds("cap0", 10), timeout_s=60)
    return sensor


@pytest.mark.parametrize("setting,more", [("auto", 1), ("kill", 1), ("log", 1), ("off", 0)])
def test_every_thread_of_worker_and_uploader_has_the_filter_that_is_wanted(
    world: World, setting: str, more: int
) -> None:
    sensor = working(world, OSSENSOR_SECCOMP=setting)
    worker, uploader = sensor.one(worker_of("cap0")), sensor.one(UPLOADER)

    assert len(list(Path(f"/proc/{uploader}/task").iterdir())) > 2
    wanted = {number + more for number in proc.filters(sensor.pid)}
    assert (proc.filters(worker), proc.filters(uploader)) == (wanted, wanted)
    assert sensor.terminate()[0] == 0


def test_the_filters_of_every_sensor_that_a_test_starts_are_looked_at_when_it_ends(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In harness/programs.py. Here it finds none, because of a setting that it knows nothing of."""
    world.config.write_text("OSSENSOR_SECCOMP=off\n")
    sensor = working(world)
    monkeypatch.setattr(programs, "SHUT_IN_S", 0)

    with pytest.raises(AssertionError, match=r"filters of system calls: .*'oss-cap-cap0"):
        sensor.terminate()
    sensor.expects_filters = False


def test_only_where_strace_injects_errors_a_sensor_does_without_filters() -> None:
    """They are asked about the call that it puts in place of the one that fails: see test_surroundings.py."""
    texts = {path.name: path.read_text() for path in Path(__file__).parents[1].rglob("*.py")}
    without = {name for name, text in texts.items() if 'SECCOMP": "off"' in text} - {Path(__file__).name}

    assert "test_surroundings.py" in without
    assert [name for name in without if not re.search("strace|tracer", texts[name])] == []


@pytest.mark.parametrize("name", [worker_of("cap0"), UPLOADER])
def test_a_process_that_goes_astray_is_ended_and_named_and_replaced_and_nothing_is_lost(
    world: World, name: str
) -> None:
    sensor = working(world, **ASTRAY)
    sensor.expects_violations = True
    victim = sensor.one(name)
    os.kill(victim, signal.SIGUSR1)
    told = sensor.wait_for(f"{name} was ended for a system call that it may not make", call="execve")
    died = sensor.wait_for("uploader died" if name == UPLOADER else "worker died")
    sensor.successor(name, victim)
    world.send("cap0", 10, first=10)
    proc.eventually("stored", lambda: world.holds("cap0", 20), timeout_s=60)

    assert (told["level"], died["how"]) == ("CRITICAL", "signal 31 (a forbidden system call)")
    assert sensor.terminate()[0] == 0
    assert world.stored_numbers("cap0") == list(range(20))
