"""The options of the chaos harness: `pytest tests/chaos --chaos-seed 7`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "netns"))  # its harness makes the networks


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seed", type=int, help="the plan of faults is drawn from it (default: a new one)")
    parser.addoption("--chaos-seconds", type=float, help="how long the load is that it is drawn for")
    parser.addoption("--chaos-plan", type=Path, help="a plan as a run has printed it, in place of one that is drawn")
