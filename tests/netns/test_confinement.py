"""Filters of system calls and Landlock around the processes of a running sensor, seen from outside."""

from __future__ import annotations

import os
import platform
import signal
from pathlib import Path

import pytest
from harness import proc
from harness.programs import UPLOADER, Sensor, worker_of
from harness.world import World

pytestmark = [
    pytest.mark.netns,
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="filters kill where they were tested: x86_64"),
]

ASTRAY = {"PYTHONPATH": str(Path(__file__).parent / "harness/astray"), "PYTHONDONTWRITEBYTECODE": "1"}


def modes(pid: int) -> set[str]:
    """`Seccomp` of every thread: 0 none, 2 a filter."""
    texts = [(thread / "status").read_text() for thread in Path(f"/proc/{pid}/task").iterdir()]
    return {line.split()[1] for text in texts for line in text.splitlines() if line.startswith("Seccomp:")}


def working(world: World, **changes: str) -> Sensor:
    """A sensor all of whose processes have done their work once."""
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=changes)
    world.send("cap0", 10)
    proc.eventually("stored", lambda: world.holds("cap0", 10), timeout_s=60)
    return sensor


@pytest.mark.parametrize("setting,mode", [("auto", "2"), ("kill", "2"), ("log", "2"), ("off", "0")])
def test_every_thread_of_worker_and_uploader_has_the_filter_that_is_wanted(
    world: World, setting: str, mode: str
) -> None:
    sensor = working(world, OSSENSOR_SECCOMP=setting)
    worker, uploader = sensor.one(worker_of("cap0")), sensor.one(UPLOADER)

    assert len(list(Path(f"/proc/{uploader}/task").iterdir())) > 2
    assert (modes(worker), modes(uploader)) == ({mode}, {mode})
    assert sensor.terminate()[0] == 0


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
