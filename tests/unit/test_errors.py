"""Exit codes are an interface: units and task definitions name these numbers."""

from __future__ import annotations

import pytest

from ossensor.errors import ConfigurationError, Exit, InterfaceGoneError, PrivilegeError, TheirsError


def test_the_exit_codes_are_the_documented_numbers() -> None:
    assert {code.name: code.value for code in Exit} == {
        "DRAINED": 0,
        "INTERNAL": 70,
        "GAVE_UP": 75,
        "PRIVILEGE": 77,
        "CONFIGURATION": 78,
    }


def test_a_configuration_error_carries_every_fault_a_line_each() -> None:
    error = ConfigurationError(["A: wrong", "B: missing"])

    assert (error.faults, str(error)) == (["A: wrong", "B: missing"], "A: wrong\nB: missing")


@pytest.mark.parametrize("error", [ConfigurationError, PrivilegeError, InterfaceGoneError])
def test_what_the_world_does_is_one_family_apart_from_bugs(error: type[Exception]) -> None:
    assert issubclass(error, TheirsError)
    assert not issubclass(error, OSError | ValueError | RuntimeError | AssertionError)
