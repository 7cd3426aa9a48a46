"""How many random histories a machine is tried with, and how long they are."""

from __future__ import annotations

import os
import unittest

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine

# `make chaos`, which has the time.
LONG = bool(os.environ.get("OSSENSOR_CHAOS"))
LONG_EXAMPLES = 1_000


def histories(machine: type[RuleBasedStateMachine], examples: int, steps: int) -> type[unittest.TestCase]:
    """The machine's test. The same histories in every run, so that a failure needs no seed.

    How long they take says nothing about the code, so hypothesis is not asked to complain about it.
    """
    case = machine.TestCase
    case.settings = settings(
        derandomize=True,
        database=None,
        max_examples=LONG_EXAMPLES if LONG else examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )
    return pytest.mark.slow(case)
