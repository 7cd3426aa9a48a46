"""A6: a worker that dies of itself at once, again and again, as long as the cause lasts."""

from __future__ import annotations

import os
import sys
import time
from datetime import datetime

import pytest
from harness import frames, proc
from harness.programs import Program
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

LASTS_S = 60.0 if os.environ.get("OSSENSOR_CHAOS") else 2.0
STARTS = 10 if LASTS_S >= 60 else 5
SHARE = 0.02  # of a core, in a minute: in the first two seconds come half of all starts
RECOVERED_S = 60.0
PER_SECOND = 1_000
_DYING = """
import os, sys
from ossensor import cli, spawn

spawned = spawn.Forge.spawn

def spawn_one(self, name, role, heartbeat, keep_fds, work, **more):
    dies = name == "oss-cap-cap0" and os.path.exists(sys.argv[1])
    return spawned(self, name, role, heartbeat, keep_fds, (lambda _: 1) if dies else work, **more)

spawn.Forge.spawn = spawn_one
cli.main(["run"])
"""


def _own_s(program: Program) -> float:
    """Processor seconds of the supervisor alone."""
    return proc.scheduled_s(program.pid) - sum(map(proc.scheduled_s, proc.children(program.pid)))


def test_a6_a_worker_that_dies_at_once_costs_few_forks_and_nothing_of_another_interface_and_works_when_it_can(
    world: World,
) -> None:
    cause = world.folder / "cause"
    cause.touch()
    world.add_link("cap0", "cap1")
    world.start_vsensor()
    sensor = Program(world.sensor.inside(sys.executable, "-c", _DYING, cause), world.settings({}))
    try:
        sensor.wait_for("capturing", interface="cap1")
        sender = world.sender("cap1", per_second=PER_SECOND)
        cpu_s, since_s = _own_s(sensor), time.monotonic()
        sensor.wait_for("worker died", count=2)
        time.sleep(LASTS_S)  # the time that is looked at
        share = (_own_s(sensor) - cpu_s) / (time.monotonic() - since_s)
        deaths = [datetime.fromisoformat(one["time"]).timestamp() for one in sensor.records("worker died")]
        cause.unlink()
        ended_s = time.monotonic()
        sensor.wait_for("capturing", interface="cap0", timeout_s=RECOVERED_S)
        recovered_s = time.monotonic() - ended_s
        world.send("cap0", 100)
        sent = sender.stop()
        assert sensor.terminate()[0] == 0
    finally:
        sensor.close()

    print(
        f"{len(deaths)} deaths in {LASTS_S} s, {share:.2%} of a core; captured again {recovered_s:.2f} s after its end"
    )
    assert {one["how"] for one in sensor.records("worker died")} == {"exit 1"}
    assert 2 <= sum(at < deaths[0] + LASTS_S for at in deaths) <= STARTS
    if LASTS_S >= 60:  # in two seconds the share is the starts', whatever their spacing
        assert share < SHARE
    assert frames.verdict(range(sent), world.stored_numbers("cap1")) == ""
    assert frames.verdict(range(100), world.stored_numbers("cap0")) == ""
