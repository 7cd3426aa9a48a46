"""The vSensor says what it wants: it narrows what the user's filter lets in, on every interface, from then on."""

from __future__ import annotations

import json
import signal

import pytest
from harness import proc
from harness.programs import UPLOADER
from harness.world import SENSOR_NAME, World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

IN_FORCE = "the vSensor's packet filter is in force"
# A frame's number is the end of its source address (harness/frames.py), so filters choose by its lowest bits.
EVEN, NO_TWO = "ether[11] & 1 = 0", "ether[11] & 2 = 0"


def test_a_vsensors_filter_is_in_force_after_a_registration_and_gone_after_the_next(world: World) -> None:
    world.add_link("cap0")
    world.config.write_text(f"BPF='{NO_TWO}'\n")
    vsensor = world.start_vsensor(options=("--packet-filter", EVEN))
    sensor = world.start_sensor("cap0")
    sensor.wait_for(IN_FORCE, packet_filter=EVEN)

    world.send("cap0", 1000)
    sensor.kill(UPLOADER)  # the supervisor keeps the filter, whoever uploads
    world.send("cap0", 1000, first=1000)
    sensor.signal(signal.SIGHUP)
    sensor.wait_for("settings read again")
    world.send("cap0", 1000, first=2000)
    narrow = [n for n in range(3000) if not n & 3]
    proc.eventually("they are stored", lambda: world.holds("cap0", len(narrow)))
    assert vsensor.terminate()[0] == 0

    world.send("cap0", 1000, first=3000)  # what fails to be sent has it register again
    proc.eventually("it has failed", lambda: sensor.records("the vSensor cannot be reached"))
    world.start_vsensor()
    sensor.wait_for(IN_FORCE, packet_filter="none")
    world.send("cap0", 1000, first=4000)
    assert sensor.terminate()[0] == 0

    wide = [n for n in range(4000, 5000) if not n & 2]
    assert world.stored_numbers("cap0") == [*(n for n in range(4000) if not n & 3), *wide]


def test_a_filter_that_would_shift_the_users_is_refused_and_the_user_keeps_what_was(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor(options=("--packet-filter", "not vlan 7"))
    sensor = world.start_sensor("cap0", changes={"BPF": NO_TWO})
    sensor.wait_for("the vSensor's packet filter cannot be; the one before it stays")
    told = world.store / SENSOR_NAME / "introduction.json"

    def why() -> str:
        """The file is replaced whole, by each introduction."""
        return str(json.loads(told.read_text()).get("packet_filter_refused", "")) if told.exists() else ""

    refused = proc.eventually("the vSensor is told", why)

    world.send("cap0", 1000)
    assert sensor.terminate()[0] == 0

    assert world.stored_numbers("cap0") == [n for n in range(1000) if not n & 2]
    assert refused == "BPF: the vSensor's filter has a word that shifts what the user's refers to"
