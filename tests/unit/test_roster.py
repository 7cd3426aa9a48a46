"""When the interfaces are looked at again."""

from __future__ import annotations

import time

import pytest

from ossensor.roster import Roster


@pytest.mark.parametrize(
    "due_in_s, looks_in_s",
    [
        (None, 0.05),  # a burst of doorbells is one look
        (0.01, 0.01),  # which another doorbell does not put off
        (5.0, 0.05),  # what is tried again later, for want of memory, hides no change until then
    ],
)
def test_a_doorbell_brings_a_look_soon_and_puts_none_off(due_in_s: float | None, looks_in_s: float) -> None:
    roster = Roster.__new__(Roster)  # all that a doorbell touches
    now_s = time.monotonic()
    roster.look_at_s = None if due_in_s is None else now_s + due_in_s
    roster.look_soon()

    assert roster.look_at_s is not None
    late_s = roster.look_at_s - now_s - looks_in_s
    assert 0 <= late_s + 1e-9 < 1
