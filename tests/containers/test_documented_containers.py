"""What README.md and SECURITY.md have people type for containers, typed here, with the images under test."""

from __future__ import annotations

import json
import secrets
import shlex
from pathlib import Path

import pytest
from documented import PAGES, commands
from fargate import OUTSIDE, Task
from podman import SENSOR, Podman

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def _typed(page: str, beginning: str, **instead: str) -> list[str]:
    """The words of the page's one command that begins so, less the program, some replaced."""
    (command,) = (command for command in commands(PAGES[page]) if command.startswith(beginning))
    return [instead.get(word, word) for word in shlex.split(command)[1:]]


def test_the_sensor_runs_beside_an_application_as_the_readme_says(task: Task, tmp_path: Path) -> None:
    secret = f"key-{secrets.token_hex(4)}"
    (tmp_path / "hmac.key").write_text(f"{task.key}\n")
    task.podman(*_typed("README.md", "podman secret", **{"key": secret, "hmac.key": str(tmp_path / "hmac.key")}))
    try:
        instead = {
            "container:APPLICATION": f"container:{task.application}",
            "VSENSOR_HOSTNAME=vsensor.example": f"VSENSOR_HOSTNAME={OUTSIDE}",
            "key": f"{secret},target=key",
            "ossensor": SENSOR,
        }
        run, *options = _typed("README.md", "podman run", **instead)
        task.podman(run, "--detach", "--name", task.sensor, "--log-driver", "k8s-file", *options)
        task.wait_for("capturing interface=eth1")
        task.wait_for("the vSensor has proved to hold the key")

        assert task.podman.stop(task.sensor, at_most_s=40)[0] == 0
        assert "(balanced) interface=eth1" in task.podman.says(task.sensor)
    finally:
        task.podman("rm", "--force", "--ignore", task.sensor)
        task.podman("secret", "rm", secret)


def test_the_bill_of_materials_is_copied_as_security_md_says(podman: Podman, tmp_path: Path) -> None:
    container = podman("create", SENSOR)
    instead = {
        "$(podman create ossensor):/usr/share/ossensor/sbom.cdx.json": f"{container}:/usr/share/ossensor/sbom.cdx.json"
    }
    try:
        podman(*_typed("SECURITY.md", "podman cp", **instead)[:-1], tmp_path)
    finally:
        podman("rm", container)

    assert json.loads((tmp_path / "sbom.cdx.json").read_text())["bomFormat"] == "CycloneDX"
