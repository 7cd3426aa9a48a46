"""Bounded reporting: exact counts of what is said and what is left out."""

from __future__ import annotations

from ossensor.ratelimit import QUIET_S, Bucket, Sparse


def test_the_first_report_of_a_key_is_due_at_any_clock_reading() -> None:
    assert [Sparse().due("x", now_s) for now_s in (0.0, 1e-9, 12345.6)] == [0, 0, 0]


def test_one_report_a_period_says_how_many_were_left_out() -> None:
    sparse = Sparse(quiet_s=10.0)
    said = [sparse.due("x", now_s / 4) for now_s in range(4 * 25)]

    assert [n for n in said if n is not None] == [0, 39, 39]
    assert said.index(39) == 40


def test_the_default_period_is_ten_seconds() -> None:
    sparse = Sparse()
    sparse.due("x", 100.0)

    assert QUIET_S == 10.0
    assert [sparse.due("x", 109.75), sparse.due("x", 110.0)] == [None, 1]


def test_keys_do_not_silence_each_other() -> None:
    sparse = Sparse()

    assert [sparse.due(key, 0.0) for key in "abcabc"] == [0, 0, 0, None, None, None]


def test_the_keys_remembered_are_bounded() -> None:
    sparse = Sparse(most_keys=4)
    for n in range(1000):
        assert sparse.due(f"key {n}", 0.0) == 0

    assert len(sparse._seen) <= 4


def test_a_full_memory_forgets_no_key_because_an_old_one_speaks_again() -> None:
    sparse = Sparse(quiet_s=10.0, most_keys=2)
    sparse.due("a", 0.0)
    sparse.due("b", 5.0)

    assert sparse.due("a", 10.0) == 0
    assert sparse.due("b", 11.0) is None


def test_a_bucket_gives_its_burst_and_counts_what_it_refuses() -> None:
    bucket = Bucket(per_s=4.0, burst=10)

    assert [bucket.take(50.0) for _ in range(25)] == [True] * 10 + [False] * 15
    assert bucket.refused == 15


def test_a_bucket_refills_at_its_rate() -> None:
    bucket = Bucket(per_s=4.0, burst=10)
    for _ in range(10):
        bucket.take(0.0)

    assert [bucket.take(now_s / 8) for now_s in range(1, 9)] == [False, True] * 4
    assert bucket.refused == 4


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(per_s=100.0, burst=3)
    bucket.take(0.0)

    assert [bucket.take(1e6) for _ in range(5)] == [True] * 3 + [False] * 2


def test_time_before_the_first_packet_counts_for_nothing() -> None:
    bucket = Bucket(per_s=1000.0, burst=1)

    assert [bucket.take(1e9), bucket.take(1e9)] == [True, False]
