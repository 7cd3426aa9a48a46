"""The record of a child against a plain model: the list of its lives, counted anew at every step.

The model knows no table and no running count: only where the child is in its life, and how each earlier one ended.
Held against that, after every step: what is legal (the rest raises and changes nothing), when the next start is due,
how many failures in a row there were, and what is said of the last end.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import NamedTuple

import pytest
from histories import histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ossensor import children
from ossensor.children import HEALTHY_S, RESTART_SPACING_S, Child, Event, State, describe
from ossensor.errors import Exit

KILLS_BEFORE_WORK = 3  # in place of twenty, which a random history does not reach
BASE_S, CAP_S = 0.1, 30.0

DEATHS = (-signal.SIGKILL, -signal.SIGSEGV, 1, Exit.DRAINED, Exit.INTERNAL, Exit.GAVE_UP)
HOPELESS = (Exit.PRIVILEGE, Exit.CONFIGURATION)

# What ends a child for good at any time is rare among the rules, or no history would get far.
RARELY = st.sampled_from([False, False, True])


class Life(NamedTuple):
    """One that ended."""

    lasted_s: float
    its_own_fault: bool  # and there is to be another


class ChildMachine(RuleBasedStateMachine):
    """Random histories of one child."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(children, "_KILLS_BEFORE_WORK", KILLS_BEFORE_WORK)
        self.now_s = 1000.0
        self.is_born()

    def teardown(self) -> None:
        self.patch.undo()

    def is_born(self) -> None:
        self.child = Child("x")
        self.child._backoff._rng = random.Random(0)  # what follows from a delay must be the same in every run
        self.state = State.IDLE
        self.started_s = 0.0
        self.lives: list[Life] = []
        self.ends = 0  # that nobody had asked for
        self.trouble = ""
        self.due_s = (0.0, 0.0)  # between these
        self.worked: list[bool] = []

    # -- the model ----------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        return self.state in {State.RUNNING, State.DRAINING}

    @property
    def startable(self) -> bool:
        return self.state in {State.IDLE, State.BACKOFF}

    def failures(self) -> int:
        """Own faults since the last life that was long enough, that one's end included."""
        count = 0
        for life in reversed(self.lives):
            count += life.its_own_fault
            if life.lasted_s >= HEALTHY_S:
                break
        return count

    def note_own_fault(self, lasted_s: float, trouble: str) -> None:
        self.lives.append(Life(lasted_s, its_own_fault=True))
        self.ends += 1
        self.trouble = trouble
        self.state = State.BACKOFF
        full_s = min(CAP_S, BASE_S * 2 ** (self.failures() - 1))
        self.due_s = self.now_s + full_s / 2, self.now_s + full_s

    # -- what happens to it -------------------------------------------------------------------------------------------

    @rule(passed_s=st.sampled_from([0.03125, 0.0625, 1.0, 40.0, 59.875, 60.0, 100.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    @precondition(lambda self: self.startable)
    @rule()
    def start(self) -> None:
        """Due or not: a drain does not wait."""
        self.child.started(self.now_s)
        self.state, self.started_s = State.RUNNING, self.now_s

    @precondition(lambda self: self.startable)
    @rule(why=st.sampled_from(["", "no memory"]))
    def cannot_start(self, why: str) -> None:
        self.child.could_not_start(self.now_s, why)
        self.started_s = self.now_s
        self.note_own_fault(0.0, why or "exit 75")

    @precondition(lambda self: self.state is State.RUNNING)
    @rule(exit_code=st.sampled_from(DEATHS))
    def dies(self, exit_code: int) -> None:
        self.child.ended(exit_code, self.now_s)
        self.note_own_fault(self.now_s - self.started_s, describe(exit_code))

    @precondition(lambda self: self.state is State.RUNNING)
    @rule()
    def is_killed_by_somebody(self) -> None:
        self.child.ended(-signal.SIGKILL, self.now_s, struck=True)
        self.lives.append(Life(self.now_s - self.started_s, its_own_fault=False))
        self.ends += 1
        self.trouble = describe(-signal.SIGKILL)
        self.state = State.BACKOFF
        at_s = max(self.now_s, self.started_s + RESTART_SPACING_S)
        self.due_s = at_s, at_s

    @precondition(lambda self: self.state is State.RUNNING)
    @rule(exit_code=st.sampled_from(HOPELESS))
    def ends_without_hope(self, exit_code: int) -> None:
        self.child.ended(exit_code, self.now_s)
        self.lives.append(Life(self.now_s - self.started_s, its_own_fault=False))
        self.ends += 1
        self.trouble = describe(exit_code)
        self.state = State.FAILED

    @rule(now=RARELY)
    def is_told_to_stop(self, *, now: bool) -> None:
        """At any time, and as often as one likes."""
        if not now:
            return
        self.child.step(Event.STOP)
        self.state = State.DRAINING if self.alive else State.STOPPED

    @precondition(lambda self: self.state is State.DRAINING)
    @rule(exit_code=st.sampled_from([*DEATHS, *HOPELESS]), struck=st.booleans())
    def finishes(self, exit_code: int, *, struck: bool) -> None:
        """However it ends: it was asked to."""
        self.child.ended(exit_code, self.now_s, struck=struck)
        self.lives.append(Life(self.now_s - self.started_s, its_own_fault=False))
        self.state = State.STOPPED

    @precondition(lambda self: self.state is State.DRAINING)
    @rule()
    def is_killed_while_it_finishes(self) -> None:
        """And its successor, which is due at once, says nothing about the reasons for which others died."""
        self.child.struck_in_drain()
        self.ends += 1
        self.state = State.BACKOFF
        self.due_s = 0.0, self.now_s

    @rule()
    def hurry(self) -> None:
        self.child.hurry()
        self.due_s = 0.0, 0.0

    @rule(worked=st.booleans())
    def may_its_successor_hurry(self, *, worked: bool) -> None:
        self.worked.append(worked)
        idle = next((n for n, one in enumerate(reversed(self.worked)) if one), len(self.worked))

        assert self.child.may_hurry(worked=worked) is (idle < KILLS_BEFORE_WORK)

    @precondition(lambda self: self.state in {State.STOPPED, State.FAILED})
    @rule()
    def another_is_born(self) -> None:
        self.is_born()

    # -- whole turns, so that histories get far, and delays as long as they become ---------------------------------

    @precondition(lambda self: self.startable)
    @rule(lasts_s=st.sampled_from([0.0, 0.03125, 59.875, 60.0]), its_own_fault=st.booleans())
    def a_whole_life(self, lasts_s: float, *, its_own_fault: bool) -> None:
        self.start()
        self.now_s += lasts_s
        if its_own_fault:
            self.dies(1)
        else:
            self.is_killed_by_somebody()

    @precondition(lambda self: self.startable)
    @rule(finishes=RARELY)
    def a_whole_drain(self, *, finishes: bool) -> None:
        self.start()
        self.is_told_to_stop(now=True)
        if finishes:
            self.finishes(Exit.DRAINED, struck=False)
        else:
            self.is_killed_while_it_finishes()

    @precondition(lambda self: self.startable)
    @rule(times=st.integers(2, 12))
    def crash_loop(self, times: int) -> None:
        for _ in range(times):
            self.now_s = max(self.now_s, self.child.due_s)
            assert self.child.due(self.now_s)
            self.start()
            self.dies(1)
            self.all_that_is_known_agrees()

    # -- what cannot happen -------------------------------------------------------------------------------------------

    def refuses(self, act: Callable[[], object]) -> None:
        with pytest.raises(KeyError):
            act()

    @rule(exit_code=st.sampled_from([*DEATHS, *HOPELESS]), struck=st.booleans())
    def what_is_illegal_raises_and_changes_nothing(self, exit_code: int, *, struck: bool) -> None:
        known = dict(vars(self.child))
        if not self.startable:
            self.refuses(lambda: self.child.started(self.now_s + 1))
            self.refuses(lambda: self.child.could_not_start(self.now_s + 1, "why"))
        if not self.alive:
            self.refuses(lambda: self.child.ended(exit_code, self.now_s + 1, struck=struck))
        if self.state is not State.DRAINING:
            self.refuses(self.child.struck_in_drain)

        assert vars(self.child) == known

    # -- what is known of it ------------------------------------------------------------------------------------------

    @invariant()
    def all_that_is_known_agrees(self) -> None:
        child, now_s = self.child, self.now_s
        healthy = self.alive and now_s - self.started_s >= HEALTHY_S

        assert (child.state, child.alive) == (self.state, self.alive)
        assert (child.failures, child.failing(now_s)) == (self.failures(), 0 if healthy else self.failures())
        assert (child.restarts, child.trouble) == (self.ends, self.trouble)
        if self.state is State.BACKOFF:
            earliest_s, latest_s = self.due_s
            assert earliest_s <= child.due_s <= latest_s
            assert child.due(child.due_s)
            assert not child.due(child.due_s - 0.001)
        else:
            assert child.due(now_s) is child.due(now_s + 1e9) is (self.state is State.IDLE)


TestChildMachine = histories(ChildMachine, 100, 40)
