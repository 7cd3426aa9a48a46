"""The waits before a failed thing is started again."""

from __future__ import annotations

import random

from ossensor.backoff import Backoff


def test_the_waits_double_to_the_longest_and_a_time_of_health_makes_them_short_again() -> None:
    backoff = Backoff(base_s=1.0, cap_s=5.0, healthy_s=60.0, rng=random.Random(7))
    jitter = random.Random(7)
    lived_s = [0.0, 59.9, 10.0, 0.0, 60.0, 0.0]

    waits_s = [backoff.failed(1000.0 + s, 1000.0) for s in lived_s]

    assert waits_s == [full_s * (0.75 + jitter.random() / 4) for full_s in (1.0, 2.0, 4.0, 5.0, 1.0, 2.0)]


def test_two_without_a_source_of_their_own_do_not_wait_alike() -> None:
    assert len({Backoff().failed(0.0, 0.0) for _ in range(20)}) == 20
