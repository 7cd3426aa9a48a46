"""Delays between restarts."""

from __future__ import annotations

import random

from ossensor.backoff import Backoff


class _Always(random.Random):
    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def random(self) -> float:
        return self.value


def test_delays_double_to_the_cap() -> None:
    backoff = Backoff(rng=_Always(1.0))

    assert [round(backoff.failed(1.0, 0.0), 3) for _ in range(11)] == [
        0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0
    ]  # fmt: skip


def test_a_quarter_of_a_delay_is_jitter() -> None:
    assert [round(Backoff(rng=_Always(v)).failed(0.0, 0.0), 6) for v in (0.0, 0.5, 1.0)] == [0.075, 0.0875, 0.1]


def test_a_minute_of_health_is_forgiven_and_a_moment_less_is_not() -> None:
    backoff = Backoff(rng=_Always(1.0))
    for _ in range(5):
        backoff.failed(1.0, 0.0)

    assert [backoff.failed(159.999, 100.0), backoff.failed(260.0, 200.0)] == [3.2, 0.1]


def test_a_crash_loop_starts_ten_times_at_most_in_its_first_minute() -> None:
    sources = [_Always(0.0), _Always(1.0), *(random.Random(seed) for seed in range(200))]
    starts = []
    for rng in sources:
        backoff, now_s, count = Backoff(rng=rng), 0.0, 0
        while now_s < 60:
            count += 1
            now_s += backoff.failed(now_s, now_s)
        starts.append(count)

    assert (min(starts), max(starts)) == (10, 10)
