"""Fixtures of the tests that build the images and run them. Their own target: `make containers`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "netns"))  # its harness makes the networks

from fargate import Task
from podman import SENSOR, VSENSOR, Podman, UnavailableError


@pytest.fixture(scope="session")
def podman() -> Podman:
    """Podman with both images built."""
    try:
        made = Podman()
        made.make_base()
    except UnavailableError as e:
        pytest.skip(str(e))
    made.build("sensor", SENSOR)
    made.build("vsensor", VSENSOR)
    return made


@pytest.fixture
def task(podman: Podman) -> Iterator[Task]:
    with Task(podman) as running:
        yield running
