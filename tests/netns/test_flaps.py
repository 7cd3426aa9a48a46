"""F5: links that flap, interfaces that are made anew, without a pause: cheap, quiet, and over when they are."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from harness import frames, proc
from harness.forks import ForkLog
from harness.programs import worker_of
from harness.world import World, package_environment

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(600)]

STORM_S = 60 if os.environ.get("OSSENSOR_CHAOS") else 3
PER_SECOND = 200
FLAPPING = ("cap0", "cap1", "cap2", "cap3")
STEADY = "cap4"
STEADY_PER_SECOND = 100
CONVERGED_S = 5.0
SHARE = 0.10  # of a core
LOOKS_PER_S = 20  # one look at the interfaces waits 50 ms for what else rings


def test_f5_two_hundred_flaps_a_second_cost_no_fork_a_tenth_of_a_core_at_most_and_nothing_of_another_interface(
    world: World, tmp_path: Path
) -> None:
    world.add_link(*FLAPPING, STEADY)
    world.start_vsensor()
    forks = ForkLog(tmp_path / "forks")
    sensor = world.start_sensor(*FLAPPING, STEADY, changes=forks.variables)
    sensor.wait_for("uploader ready")
    workers = {name: sensor.one(worker_of(name)) for name in FLAPPING}
    sender = world.sender(STEADY, per_second=STEADY_PER_SECOND)
    proc.eventually("it stores", lambda: world.holds(STEADY, 1))
    argv = (sys.executable, "-m", "harness.flaps", str(PER_SECOND), str(STORM_S), *FLAPPING)

    forked, storms = forks.count(), 0

    def converged_s() -> float:
        """How long after a storm all is captured again."""
        nonlocal storms
        before_s, began_s, said = proc.scheduled_s(sensor.pid), time.monotonic(), len(sensor.lines)
        flaps = int(world.sensor.run(*argv, env=package_environment(), timeout_s=STORM_S + proc.HANGS_S).split()[-1])
        took_s = time.monotonic() - began_s
        share, lines = (proc.scheduled_s(sensor.pid) - before_s) / took_s, len(sensor.lines) - said
        print(f"{flaps} flaps in {took_s:.1f} s: {share:.1%} of a core, {lines} lines")
        assert flaps == PER_SECOND * STORM_S
        assert share < SHARE
        assert lines < flaps / 4
        for name in FLAPPING:
            world.carries(name)
            world.send(name, 10, first=10 * storms)
        storms, sent_s = storms + 1, time.monotonic()
        proc.eventually("captured again", lambda: all(world.holds(name, 10 * storms) for name in FLAPPING))
        return time.monotonic() - sent_s

    assert proc.quickest(CONVERGED_S, converged_s) < CONVERGED_S
    sent = sender.stop()

    assert {name: sensor.one(worker_of(name)) for name in FLAPPING} == workers
    assert sensor.terminate()[0] == 0
    assert forks.count() == forked
    assert [frames.verdict(range(10 * storms), world.stored_numbers(name)) for name in FLAPPING] == [""] * len(FLAPPING)
    assert frames.verdict(range(sent), world.stored_numbers(STEADY)) == ""


def test_f5_an_interface_made_anew_without_a_pause_costs_a_fork_a_look_at_most_and_is_captured_when_it_stays(
    world: World, tmp_path: Path
) -> None:
    """As often as the kernel does it, some forty times a second."""
    world.add_link(STEADY)
    world.start_vsensor()
    forks = ForkLog(tmp_path / "forks")
    sensor = world.start_sensor(STEADY, changes=forks.variables)
    sensor.wait_for("uploader ready")
    sender = world.sender(STEADY, per_second=STEADY_PER_SECOND)
    storm = 'until [ -e "$0" ]; do ip link add cap0 up type veth peer name other0; ip link delete cap0; done'

    storms = 0

    def converged_s() -> float:
        """How long after a storm the interface that stays is captured, or what is sent onto it is stored."""
        nonlocal storms
        if storms:
            world.remove_link("cap0")
        over = tmp_path / f"over{storms}"
        before_s, began_s, forked = proc.scheduled_s(sensor.pid), time.monotonic(), forks.count()
        with subprocess.Popen(world.sensor.inside("sh", "-c", storm, over)):
            time.sleep(STORM_S)
            over.touch()
        took_s = time.monotonic() - began_s
        share, forked = (proc.scheduled_s(sensor.pid) - before_s) / took_s, forks.count() - forked
        world.add_link("cap0")
        index, added_s = world.sensor.links()["cap0"]["ifindex"], time.monotonic()
        print(f"index {index} after {took_s:.1f} s: {forked} forks, {share:.1%} of a core")
        assert forked <= LOOKS_PER_S * took_s
        sensor.wait_for("capturing", interface="cap0", ifindex=index)
        captured_s = time.monotonic() - added_s
        world.send("cap0", 10, first=10 * storms)
        storms, sent_s = storms + 1, time.monotonic()
        proc.eventually("it is stored", lambda: world.holds("cap0", 10 * storms))
        return max(captured_s, time.monotonic() - sent_s)

    assert proc.quickest(CONVERGED_S, converged_s) < CONVERGED_S
    sent = sender.stop()

    assert sensor.terminate()[0] == 0
    assert frames.verdict(range(sent), world.stored_numbers(STEADY)) == ""
