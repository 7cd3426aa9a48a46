"""What deploy/ecs holds is valid, and is what `ossensor ecs add-sidecar` makes."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode.cfn_yaml import load as load_yaml
from documented import PAGES, commands
from model import faults

FOLDER = Path(__file__).parents[2] / "deploy/ecs"
BIN = Path(sys.executable).parent


def add_sidecar(document: Any, *arguments: str) -> Any:
    command = [BIN / "ossensor", "ecs", "add-sidecar", *arguments]
    return json.loads(
        subprocess.run(command, input=json.dumps(document).encode(), check=True, capture_output=True).stdout
    )


def without_sensor(containers: list[Any], name: str) -> list[Any]:
    return [c for c in containers if c[name] != "ossensor"]


def as_the_page_says() -> list[str]:
    """What README.md has people give to the command, up to the files."""
    beginning = ["ossensor", "ecs", "add-sidecar"]
    (words,) = [w for c in commands(PAGES["deploy/ecs/README.md"]) if (w := shlex.split(c))[:3] == beginning]
    return words[3 : words.index("<")]


@pytest.mark.slow
def test_the_task_definition_is_valid_and_what_the_page_s_command_makes_of_the_application_alone() -> None:
    definition = json.loads((FOLDER / "task-definition.json").read_text())
    alone = {**definition, "containerDefinitions": without_sensor(definition["containerDefinitions"], "name")}

    assert faults(definition) == []
    assert definition == add_sidecar(alone, *as_the_page_says())


@pytest.mark.slow
def test_the_template_is_clean_to_cfn_lint() -> None:
    lint = subprocess.run([BIN / "cfn-lint", FOLDER / "template.yaml"], capture_output=True, text=True, check=False)

    assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


@pytest.mark.slow
def test_the_templates_sensor_is_what_the_command_makes() -> None:
    template = json.loads(json.dumps(load_yaml(str(FOLDER / "template.yaml"))))
    alone = json.loads(json.dumps(template))
    task = alone["Resources"]["ApplicationTask"]["Properties"]
    task["ContainerDefinitions"] = without_sensor(task["ContainerDefinitions"], "Name")

    made = add_sidecar(
        alone,
        *("--image", '{"Ref": "SensorImage"}', "--key-secret", '{"Ref": "Key"}', "--resource", "ApplicationTask"),
        *("--vsensor", "vsensor.ossensor.internal", "--env", "VSENSOR_PORT=8443"),
    )

    assert made == template
