"""The life of a supervised child: every pair of state and event, and when it is started again."""

from __future__ import annotations

import signal

import pytest

from ossensor.children import RESTART_SPACING_S, TABLE, Child, Event, State, describe, verdict
from ossensor.errors import Exit

PAIRS = [(state, event) for state in State for event in Event]


@pytest.mark.parametrize("state,event", PAIRS)
def test_a_child_moves_as_the_table_says_or_raises(state: State, event: Event) -> None:
    child = Child("x")
    child.state = state
    if (state, event) in TABLE:
        assert child.step(event) is TABLE[state, event] is child.state
    else:
        with pytest.raises(KeyError):
            child.step(event)
        assert child.state is state


def test_the_table_holds_the_documented_pairs() -> None:
    missing = {(state.name, event.name) for state, event in PAIRS if (state, event) not in TABLE}

    assert missing == {
        ("IDLE", "DIED"),
        ("IDLE", "HOPELESS"),
        ("RUNNING", "START"),
        ("BACKOFF", "DIED"),
        ("BACKOFF", "HOPELESS"),
        ("DRAINING", "START"),
        ("STOPPED", "START"),
        ("STOPPED", "DIED"),
        ("STOPPED", "HOPELESS"),
        ("FAILED", "START"),
        ("FAILED", "DIED"),
        ("FAILED", "HOPELESS"),
        *((state.name, "STRUCK") for state in State if state is not State.DRAINING),
    }


@pytest.mark.parametrize("state", State)
def test_every_state_can_be_told_to_stop(state: State) -> None:
    assert TABLE[state, Event.STOP] in {State.STOPPED, State.DRAINING}


def test_only_what_is_idle_or_backing_off_can_be_started() -> None:
    assert {state for state, event in TABLE if event is Event.START} == {State.IDLE, State.BACKOFF}


@pytest.mark.parametrize(
    "exit_code,expected",
    [
        (Exit.DRAINED, Event.DIED),
        (Exit.INTERNAL, Event.DIED),
        (Exit.GAVE_UP, Event.DIED),
        (Exit.PRIVILEGE, Event.HOPELESS),
        (Exit.CONFIGURATION, Event.HOPELESS),
        (1, Event.DIED),
        (-signal.SIGKILL, Event.DIED),
        (-77, Event.DIED),
        (-78, Event.DIED),
    ],
)
def test_only_a_missing_privilege_and_a_wrong_configuration_are_hopeless(exit_code: int, expected: Event) -> None:
    assert verdict(exit_code) is expected


@pytest.mark.parametrize(
    "exit_code,expected",
    [(0, "exit 0"), (70, "exit 70"), (-9, "signal 9 (out of memory?)"), (-6, "signal 6"), (-15, "signal 15")],
)
def test_an_exit_in_words(exit_code: int, expected: str) -> None:
    assert describe(exit_code) == expected


def test_a_new_child_is_due_and_not_alive() -> None:
    child = Child("x")

    assert (child.due(0.0), child.alive, child.failures) == (True, False, 0)


def test_a_running_child_is_alive_and_not_due() -> None:
    child = Child("x")
    child.started(5.0)

    assert (child.due(1e9), child.alive) == (False, True)


def test_delays_double_from_a_tenth_to_thirty_seconds_each_at_least_three_quarters_of_it() -> None:
    child = Child("x")
    now_s = 1000.0
    for n in range(12):
        full_s = min(30.0, 0.1 * 2**n)
        child.started(now_s)
        assert child.ended(-signal.SIGKILL, now_s) is State.BACKOFF
        assert 0.75 * full_s <= child.due_s - now_s <= full_s
        assert child.failures == n + 1
        assert (child.due(child.due_s - 0.001), child.due(child.due_s)) == (False, True)
        now_s = child.due_s


@pytest.mark.parametrize("lived_s,failures", [(59.9, 6), (60.0, 1), (3600.0, 1)])
def test_failures_and_delay_are_forgotten_after_a_time_of_health(lived_s: float, failures: int) -> None:
    child = Child("x")
    now_s = 0.0
    for _ in range(5):
        child.started(now_s)
        child.ended(1, now_s)
        now_s = child.due_s
    child.started(now_s)
    child.ended(1, now_s + lived_s)

    assert child.failures == failures
    full_s = 0.1 * 2 ** (failures - 1)
    assert 0.75 * full_s <= child.due_s - (now_s + lived_s) <= full_s


def test_the_successor_of_one_that_was_struck_starts_at_once_and_nothing_is_held_against_it() -> None:
    child = Child("x")
    for started_s, died_s in ((0.0, 100.0), (100.0, 100.01)):
        child.started(started_s)
        assert child.ended(-signal.SIGKILL, died_s, struck=True) is State.BACKOFF
        assert (child.due_s, child.failures) == (max(died_s, started_s + RESTART_SPACING_S), 0)


def test_health_is_not_forgotten_because_somebody_killed_what_had_it() -> None:
    """Else failures of long ago would count among the twenty in a row that end the sensor."""
    child = Child("x")
    for _ in range(10):
        child.could_not_start(0.0)
    child.started(100.0)
    child.ended(-signal.SIGKILL, 160.0, struck=True)
    assert (child.failures, child.failing(160.0)) == (0, 0)
    child.started(160.0)
    child.ended(1, 161.0)

    assert child.failures == 1
    assert 0.05 <= child.due_s - 161.0 <= 0.1


def test_the_successor_of_one_that_was_killed_in_the_drain_is_due_at_once() -> None:
    child = Child("x")
    child.could_not_start(10.0)
    child.started(10.0)  # by the drain, which does not wait
    child.step(Event.STOP)
    child.struck_in_drain()

    assert child.due(10.0)


def test_successors_of_killed_ones_hurry_until_twenty_in_a_row_came_to_no_work() -> None:
    child = Child("x")

    assert [child.may_hurry(worked=False) for _ in range(21)] == [True] * 19 + [False] * 2
    assert [child.may_hurry(worked=worked) for worked in (True, False)] == [True, True]


def test_a_start_that_could_not_be_made_counts_like_a_death() -> None:
    child = Child("x")
    child.could_not_start(10.0)
    child.could_not_start(20.0)

    assert (child.state, child.failures, child.alive) == (State.BACKOFF, 2, False)
    assert 0.1 <= child.due_s - 20.0 <= 0.2


@pytest.mark.parametrize("exit_code", [Exit.DRAINED, Exit.INTERNAL, Exit.PRIVILEGE, -signal.SIGKILL])
def test_a_child_that_was_told_to_stop_is_stopped_however_it_ends(exit_code: int) -> None:
    child = Child("x")
    child.started(0.0)
    child.step(Event.STOP)
    assert child.alive

    assert child.ended(exit_code, 1.0) is State.STOPPED
    assert (child.due(1e9), child.alive, child.failures) == (False, False, 0)


def test_a_hopeless_child_is_never_due_again() -> None:
    child = Child("x")
    child.started(0.0)

    assert child.ended(Exit.CONFIGURATION, 1.0) is State.FAILED
    assert (child.due(1e9), child.alive) == (False, False)


def test_failures_count_until_it_has_been_healthy_for_a_minute_and_only_while_it_lives() -> None:
    child = Child("x")
    child.could_not_start(0.0, "no memory")
    child.started(child.due_s)
    healthy_s = child.due_s + 60.0

    assert [child.failing(now_s) for now_s in (healthy_s - 0.1, healthy_s)] == [1, 0]
    child.step(Event.DIED)
    assert (child.failing(healthy_s), child.trouble) == (1, "no memory")


def test_a_drain_ends_the_back_off() -> None:
    child = Child("x")
    child.could_not_start(100.0)
    assert not child.due(100.0)

    child.hurry()
    assert child.due(100.0)


def test_one_that_was_struck_in_the_drain_has_a_successor_at_once_which_is_told_to_stop() -> None:
    child = Child("x")
    child.started(0.0)
    child.step(Event.STOP)
    child.struck_in_drain()

    assert (child.due(1.0), child.restarts, child.failures) == (True, 1, 0)
    child.started(1.0)
    child.step(Event.STOP)
    assert child.ended(Exit.DRAINED, 2.0) is State.STOPPED
