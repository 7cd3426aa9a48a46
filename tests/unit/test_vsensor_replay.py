"""The window of nonces, against a plain set of everything seen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ossensor.transport.protocol import WINDOW_S, Outcome
from ossensor.transport.signing import Nonce
from ossensor.vsensor.replay import FORGET_S, WINDOW, Replay

RUN = "0" * 32
NEW = None


def test_a_counter_is_admitted_once() -> None:
    replay = Replay()

    assert [replay.check_and_mark("s", Nonce(RUN, n), 0) for n in (0, 0, 1, 0, 1, 2)] == [
        NEW,
        Outcome.REPLAYED,
        NEW,
        Outcome.REPLAYED,
        Outcome.REPLAYED,
        NEW,
    ]


def test_counters_that_come_late_are_admitted_within_the_window_and_not_below_it() -> None:
    replay = Replay()
    replay.check_and_mark("s", Nonce(RUN, 5000), 0)
    late = [5000 - WINDOW + 1, 5000 - WINDOW, 0, 4999]

    assert [replay.check_and_mark("s", Nonce(RUN, n), 0) for n in late] == [
        NEW,
        Outcome.REPLAYED,
        Outcome.REPLAYED,
        NEW,
    ]


def test_the_largest_possible_jump_costs_no_memory() -> None:
    replay = Replay()
    replay.check_and_mark("s", Nonce(RUN, 0), 0)

    assert replay.check_and_mark("s", Nonce(RUN, 10**19 - 1), 0) is NEW
    assert replay._runs["s", RUN].seen == 1
    assert replay.check_and_mark("s", Nonce(RUN, 10**19 - 1), 0) == Outcome.REPLAYED


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=60))
def test_nothing_is_admitted_twice_and_nothing_within_the_window_is_refused_once(counts: list[int]) -> None:
    replay = Replay()
    seen: set[int] = set()
    for count in counts:
        too_old = bool(seen) and count <= max(seen) - WINDOW
        expected = Outcome.REPLAYED if count in seen or too_old else NEW

        assert replay.check_and_mark("s", Nonce(RUN, count), 0) == expected

        seen |= {count} if expected is NEW else set()
        assert replay._runs["s", RUN].seen < 1 << WINDOW


def test_sensors_and_runs_are_kept_apart() -> None:
    replay = Replay()
    nonces = [("a", Nonce(RUN, 1)), ("b", Nonce(RUN, 1)), ("a", Nonce("1" * 32, 1))]

    assert [replay.check_and_mark(sensor, nonce, 0) for sensor, nonce in nonces] == [NEW] * 3
    assert [replay.check_and_mark(sensor, nonce, 0) for sensor, nonce in nonces] == [Outcome.REPLAYED] * 3


def test_a_run_is_remembered_for_as_long_as_anything_signed_with_it_can_be_believed() -> None:
    replay = Replay()
    nonce = Nonce(RUN, 1)
    replay.check_and_mark("s", nonce, 0)  # signed, at the latest, WINDOW_S from now, and good for WINDOW_S after that

    assert FORGET_S == 2 * WINDOW_S
    assert replay.check_and_mark("s", nonce, 2 * WINDOW_S) == Outcome.REPLAYED
    replay.check_and_mark("s", Nonce(RUN, 2), 2 * WINDOW_S)
    replay.check_and_mark("other", nonce, 4 * WINDOW_S)
    assert len(replay) == 2
    replay.check_and_mark("other", Nonce(RUN, 2), 4 * WINDOW_S + 0.001)
    assert len(replay) == 1


def test_a_full_memory_refuses_new_runs_and_keeps_the_old_ones() -> None:
    replay = Replay(runs_max=2)
    runs = [Nonce(str(i) * 32, 0) for i in range(3)]
    admitted = [replay.check_and_mark("s", nonce, 0) for nonce in runs]
    replayed = [replay.check_and_mark("s", nonce, FORGET_S) for nonce in runs]
    later = [replay.check_and_mark("s", nonce, FORGET_S + 1) for nonce in runs]

    assert admitted == [NEW, NEW, Outcome.BUSY]
    assert replayed == [Outcome.REPLAYED, Outcome.REPLAYED, Outcome.BUSY]
    assert later == [NEW, NEW, Outcome.BUSY]
