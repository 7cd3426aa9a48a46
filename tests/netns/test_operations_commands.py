"""Every command of docs/operations.md, in its order, beside a sensor and a vSensor that run."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import proc
from harness.programs import OSSENSOR
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

_PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
COMMANDS = [
    line for block in re.findall(r"^```\n(.*?)^```", _PAGE, re.MULTILINE | re.DOTALL) for line in block.splitlines()
]


def test_the_commands_of_the_page_do_what_it_says(world: World, tmp_path: Path) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    world.send("cap0", 1000)
    proc.eventually("the frames are stored", lambda: world.holds("cap0", 1000))
    variables = world.settings({"PATH": f"{OSSENSOR.parent}:{os.environ['PATH']}"})

    def told_bytes() -> int:
        told = json.loads(world.sensor.run(OSSENSOR, "status", "--json", env=variables))
        return int(told["uploader"]["said"]["wire_bytes"])

    proc.eventually("the uploader has said what it sent", told_bytes)

    def restart() -> None:
        nonlocal sensor
        assert sensor.terminate()[0] == 0
        sensor = world.start_sensor("cap0")

    # There is no systemd here: what it would do to the sensor, the test does.
    systemd: dict[str, Callable[[], object]] = {
        "systemctl restart ossensor": restart,
        "systemctl reload ossensor": lambda: sensor.signal(signal.SIGHUP),
        "systemctl status ossensor": lambda: None,
    }
    said = {}
    for command in COMMANDS:
        if command.startswith("systemctl"):
            systemd[command]()
        else:
            said[command] = world.sensor.run("sh", "-ec", f"cd {tmp_path} && {command}", env=variables)

    assert len(said) > 10
    assert said["ossensor health"] == "healthy\n"
    assert "cap0" in said["ossensor status"]
    assert [one["verdict"] for one in json.loads(said["ossensor audit store --deep --json"])] == ["open"]
    status = json.loads((tmp_path / "status.json").read_text())
    stored_bytes = int(said["du --apparent-size --block-size=1 --summarize store"].split()[0])
    assert 0 < status["uploader"]["said"]["wire_bytes"] < stored_bytes
    assert (tmp_path / "next.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "sample.pcapng").stat().st_size > 0
