"""The key is changed under load, one end after the other: nothing is lost, and the old key is dead afterwards."""

from __future__ import annotations

import pytest
from harness import frames, proc
from harness.programs import KEY
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

NEXT = "netns-the-next-key-8f0d2c5a7e41"
PER_SECOND = 2000


def _stored_more(world: World) -> None:
    before = world.stored_bytes("cap0")
    proc.eventually("the store grows again", lambda: world.stored_bytes("cap0") > before)


def test_a_key_is_changed_without_a_gap_and_the_old_one_is_dead_afterwards(world: World) -> None:
    world.add_link("cap0")
    vsensor = world.start_vsensor()
    # The sensor knows both from its start; the vSensor is told of the new one, and then forgets the old one.
    sensor = world.start_sensor("cap0", changes={"VSENSOR_HMAC_KEY_NEXT": NEXT})
    sender = world.sender("cap0", per_second=PER_SECOND)
    _stored_more(world)
    for keys in ({"VSENSOR_HMAC_KEY": KEY, "VSENSOR_HMAC_KEY_NEXT": NEXT}, {"VSENSOR_HMAC_KEY": NEXT}):
        assert vsensor.terminate()[0] == 0
        vsensor = world.start_vsensor(**keys)
        _stored_more(world)
    sent = sender.stop()
    proc.happened(lambda: world.holds("cap0", sent), timeout_s=60)
    assert sensor.terminate()[0] == 0
    stored = world.stored_numbers("cap0")

    print(f"{sent} frames sent, {len(stored)} stored")
    assert frames.verdict(range(sent), stored) == ""

    old = world.start_sensor("cap0")  # with the old key alone
    world.send("cap0", 100, first=sent)
    old.wait_for_line("the vSensor's answer is not signed with our key: is VSENSOR_HMAC_KEY the same at both ends?")
    assert old.terminate()[0] == 0

    assert world.stored_numbers("cap0") == stored
    assert not [line for line in (*sensor.lines, *vsensor.lines) if NEXT in line]


def test_e2_a_sensor_with_a_wrong_key_is_refused_again_and_again_and_no_process_of_it_is_restarted(
    world: World,
) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"VSENSOR_HMAC_KEY": KEY[:-1], "OSSENSOR_DEBUG": "2"})
    before = proc.tree(sensor.pid)
    world.send("cap0", 100)

    def refusals() -> set[str]:
        return {record["time"] for record in sensor.records("registration") if "status 401" in record["answer"]}

    proc.eventually("refusals", lambda: len(refusals()) >= 5)
    after = proc.tree(sensor.pid)
    assert sensor.terminate()[0] == 0

    assert (len(before), after) == (3, before)
    assert world.interfaces_stored() == set()
    counts = "received=100 kernel_drops=0 delivered=0 in_flight=0 shutdown=100 (balanced)"
    assert [line for line in sensor.lines if f"books closed: {counts}" in line]
