"""Exchanges are never further apart than the period, and those of a fleet are not in step."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from ossensor.antigena.pace import Pace


@given(st.integers(1, 3600), st.integers(0, 2**32))
def test_each_exchange_is_due_within_one_period_and_at_least_four_fifths_of_it(period_s: int, seed: int) -> None:
    pace = Pace(period_s, 1000.0, random.Random(seed))
    assert 1000.0 <= pace.due_s <= 1001.0

    begun_s = 1000.0
    for _ in range(10):
        pace.begun(begun_s)
        assert begun_s + 0.8 * period_s <= pace.due_s <= begun_s + period_s
        begun_s = pace.due_s


def test_a_hundred_sensors_of_one_moment_ask_at_a_hundred_moments() -> None:
    rng = random.Random(7)
    paces = [Pace(5, 0.0, rng) for _ in range(100)]
    assert len({pace.due_s for pace in paces}) == 100

    for pace in paces:
        pace.begun(0.0)
    assert len({round(pace.due_s, 3) for pace in paces}) > 90


def test_what_a_moments_patience_mends_is_tried_again_in_a_second_or_sooner() -> None:
    slow, fast = Pace(60, 0.0, random.Random(1)), Pace(1, 0.0, random.Random(1))
    for pace in (slow, fast):
        pace.begun(100.0)
        pace.again(100.0)
    assert slow.due_s == 101.0
    assert 100.8 <= fast.due_s <= 101.0
