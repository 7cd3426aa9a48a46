"""The memory of nonces against a plain model: every nonce that was ever used, and when.

Two things are held against each answer. What the memory should have said, by a dict and lists that are searched. And,
knowing nothing of windows and runs, what the memory is for: of all requests that a thief has recorded, none is taken a
second time while its signature can be believed. Windows are of a few entries and few runs are remembered, so that
counters leave them; counters lie at both ends of the range that the protocol has.
"""

from __future__ import annotations

from typing import NamedTuple

from histories import histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ossensor.transport.protocol import WINDOW_S, Outcome
from ossensor.transport.signing import Nonce
from ossensor.vsensor.replay import Replay

LAST = 10**19 - 1  # the longest counter that a nonce can be spelled with
SENSORS = ("a", "b")
RUNS = ("0" * 32, "1" * 32)
COUNTS = st.integers(0, 12) | st.integers(LAST - 6, LAST) | st.sampled_from([2**63 - 1, 2**63, 2**64 - 1, 2**64])


class Recorded(NamedTuple):
    """A request that was taken."""

    sensor: str
    nonce: Nonce
    created_s: float


class Run:
    """What the model keeps of one."""

    def __init__(self) -> None:
        self.used: list[int] = []
        self.last_s = 0.0


class ReplayMachine(RuleBasedStateMachine):
    """Random histories of one vSensor's memory."""

    @initialize(runs_max=st.integers(1, 3), window=st.integers(1, 5))
    def start(self, runs_max: int, window: int) -> None:
        self.replay = Replay(runs_max, window)
        self.runs_max, self.window = runs_max, window
        self.now_s = 0.0
        self.runs: dict[tuple[str, str], Run] = {}
        self.recorded: list[Recorded] = []

    def expected(self, sensor: str, nonce: Nonce) -> Outcome | None:
        self.runs = {key: run for key, run in self.runs.items() if self.now_s - run.last_s <= 2 * WINDOW_S}
        run = self.runs.get((sensor, nonce.run))
        if run is None:
            return Outcome.BUSY if len(self.runs) == self.runs_max else None
        too_old = nonce.count <= max(run.used) - self.window
        return Outcome.REPLAYED if too_old or nonce.count in run.used else None

    def ask(self, sensor: str, nonce: Nonce) -> Outcome | None:
        expected = self.expected(sensor, nonce)
        outcome = self.replay.check_and_mark(sensor, nonce, self.now_s)
        assert outcome == expected
        if outcome is None:
            run = self.runs.setdefault((sensor, nonce.run), Run())
            run.used.append(nonce.count)
            run.last_s = self.now_s
        assert len(self.replay) == len(self.runs)
        return outcome

    @rule(
        sensor=st.sampled_from(SENSORS),
        run=st.sampled_from(RUNS),
        count=COUNTS,
        clock_s=st.sampled_from([-WINDOW_S, -1, 0, 1, WINDOW_S]),
    )
    def request(self, sensor: str, run: str, count: int, clock_s: float) -> None:
        """By a sensor whose clock is as far off as is tolerated."""
        nonce = Nonce(run, count)
        if self.ask(sensor, nonce) is None:
            self.recorded.append(Recorded(sensor, nonce, self.now_s + clock_s))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), off=st.integers(-6, 6) | st.just(1))
    def request_near_the_last(self, data: st.DataObject, off: int) -> None:
        """The next one, and around the window's edges."""
        sensor, run = data.draw(st.sampled_from(sorted(self.runs)))
        count = min(LAST, max(0, max(self.runs[sensor, run].used) + off))
        self.request(sensor, run, count, data.draw(st.sampled_from([-WINDOW_S, 0, WINDOW_S])))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), first=st.integers(1, 8), numbers=st.lists(st.integers(0, 4), min_size=2, max_size=8))
    def requests_that_overtake_each_other(self, data: st.DataObject, first: int, numbers: list[int]) -> None:
        sensor, run = data.draw(st.sampled_from(sorted(self.runs)))
        after = max(self.runs[sensor, run].used)
        for number in numbers:
            self.request(sensor, run, min(LAST, after + first + number), 0)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), pauses_s=st.lists(st.sampled_from([WINDOW_S, WINDOW_S + 1]), min_size=2, max_size=3))
    def one_run_outlives_the_others(self, data: st.DataObject, pauses_s: list[float]) -> None:
        sensor, run = data.draw(st.sampled_from(sorted(self.runs)))
        count = max(self.runs[sensor, run].used)
        for number, pause_s in enumerate(pauses_s, start=1):
            self.now_s += pause_s
            self.request(sensor, run, min(LAST, count + number), 0)

    @precondition(lambda self: self.recorded)
    @rule(data=st.data())
    def replay_of_what_was_recorded(self, data: st.DataObject) -> None:
        """The thief needs no key, and the gate asks the clock first."""
        request = data.draw(st.sampled_from(self.recorded))
        if abs(self.now_s - request.created_s) <= WINDOW_S:
            assert self.ask(request.sensor, request.nonce) is not None

    @rule(passed_s=st.sampled_from([1, WINDOW_S - 1, WINDOW_S, WINDOW_S + 1, 2 * WINDOW_S, 2 * WINDOW_S + 1]))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    @invariant()
    def memory_is_bounded(self) -> None:
        for run in self.replay._runs.values():
            assert run.seen < 1 << self.window


TestReplayMachine = histories(ReplayMachine, 120, 40)
