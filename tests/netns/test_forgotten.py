"""B6: the vSensor comes back with nothing that it had: another disk, another machine, a store that was deleted."""

from __future__ import annotations

import subprocess

import pytest
from harness import frames, proc
from harness.programs import OSSENSOR
from harness.world import World, unread_for

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PER_SECOND = 5_000


def test_b6_a_vsensor_that_forgot_everything_gets_what_it_had_not_acknowledged_and_the_hole_is_told(
    world: World,
) -> None:
    world.add_link("cap0")
    vsensor = world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=unread_for(20))
    sender = world.sender("cap0", per_second=PER_SECOND)
    proc.eventually("it stores for a while", lambda: world.holds("cap0", PER_SECOND))

    vsensor.close()  # SIGKILL of all of it
    before = world.stored_numbers("cap0", finished=False)
    world.store.rename(world.folder / "before")
    world.start_vsensor()
    proc.eventually("the new one stores for a while", lambda: world.holds("cap0", PER_SECOND))
    sent = sender.stop()
    assert sensor.terminate()[0] == 0
    after = world.stored_numbers("cap0")
    audit = subprocess.run([OSSENSOR, "audit", world.store], capture_output=True, text=True, check=False)
    print(f"{sent} sent, {len(before)} stored before and {len(after)} after, {len(before) + len(after) - sent} twice")
    print(audit.stdout)

    # Each store for itself has nothing twice, in order; together they have everything. What both have was stored, and
    # its acknowledgement did not arrive any more.
    assert frames.verdict(range(len(before)), before) == ""
    assert frames.verdict(range(after[0], sent), after) == ""
    assert 0 < after[0] <= len(before)
    assert (audit.returncode, f"are not stored; packets: {after[0]}\n" in audit.stdout) == (1, True)
