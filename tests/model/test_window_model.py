"""The window against a plain model: lists, searched from the front at every step."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ossensor.transport.window import Window

STREAMS = ("a", "b", "c")


class Modelled:
    """One batch as the model sees it."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.on_its_way = False
        self.not_before_s = 0.0


class WindowMachine(RuleBasedStateMachine):
    """Random histories; `turns` lists the streams, the one whose turn is next in front."""

    @initialize(limit=st.integers(1, 4))
    def start(self, limit: int) -> None:
        self.window: Window[tuple[str, int]] = Window(limit)
        self.limit = limit
        self.turns: list[str] = []
        self.lines: dict[str, list[Modelled]] = {}
        self.now_s = 0.0

    def may_go(self, stream: str) -> Modelled | None:
        """The lowest that is not on its way, when that is within the limit: nothing else of a stream ever may."""
        for n, batch in enumerate(self.lines[stream]):
            if not batch.on_its_way:
                return batch if n < self.limit else None
        return None

    @rule(stream=st.sampled_from(STREAMS), sequence=st.integers(0, 30))
    def add(self, stream: str, sequence: int) -> None:
        line = self.lines.get(stream, [])
        accepted = not line or sequence > line[-1].sequence
        if accepted:
            if not line:
                self.turns.append(stream)
            self.lines.setdefault(stream, []).append(Modelled(sequence))

        assert self.window.add(stream, sequence, (stream, sequence)) == accepted

    @rule()
    def next(self) -> None:
        expected = None
        for stream in self.turns:
            batch = self.may_go(stream)
            if batch is not None and batch.not_before_s <= self.now_s:
                expected = (stream, batch.sequence, (stream, batch.sequence))
                batch.on_its_way = True
                self.turns.remove(stream)
                self.turns.append(stream)
                break

        assert self.window.next(self.now_s) == expected

    def pick(self, data: st.DataObject, *, on_its_way: bool) -> tuple[str, Modelled] | None:
        found = [(s, b) for s, line in self.lines.items() for b in line if b.on_its_way is on_its_way]
        return data.draw(st.sampled_from(found)) if found else None

    @rule(data=st.data(), wait_s=st.sampled_from([0.0, 1.0, 5.0]))
    def fail(self, data: st.DataObject, wait_s: float) -> None:
        if (picked := self.pick(data, on_its_way=True)) is None:
            return
        stream, batch = picked
        batch.on_its_way = False
        batch.not_before_s = self.now_s + wait_s
        self.window.fail(stream, batch.sequence, batch.not_before_s)

    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        if (picked := self.pick(data, on_its_way=True)) is None:
            return
        stream, batch = picked
        self.lines[stream].remove(batch)
        if not self.lines[stream]:
            del self.lines[stream]
            self.turns.remove(stream)

        assert self.window.settle(stream, batch.sequence) == (stream, batch.sequence)

    @rule(data=st.data())
    def refuse_what_is_not_on_its_way(self, data: st.DataObject) -> None:
        if (picked := self.pick(data, on_its_way=False)) is None:
            return
        stream, batch = picked
        with pytest.raises(KeyError):
            self.window.settle(stream, batch.sequence)
        with pytest.raises(KeyError):
            self.window.fail(stream, batch.sequence, 0.0)

    @rule(stream=st.sampled_from(STREAMS), sequence=st.integers(31, 40))
    def refuse_what_is_not_there(self, stream: str, sequence: int) -> None:
        with pytest.raises(KeyError):
            self.window.settle(stream, sequence)

    @rule(passed_s=st.sampled_from([0.5, 1.0, 5.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    @precondition(lambda self: self.lines)
    @rule()
    def due_is_when_something_may_go(self) -> None:
        """Sends, at the time that due_s names: not a moment before, and then at once."""
        waits = [b.not_before_s for s in self.turns if (b := self.may_go(s)) is not None]
        due_s = self.window.due_s()
        assert due_s == min(waits, default=None)
        if due_s is not None and due_s > self.now_s:
            assert self.window.next(due_s - 0.25) is None
            self.now_s = due_s
            self.next()

    @invariant()
    def counts_and_floors_agree(self) -> None:
        on_their_way = {s: [b.on_its_way for b in line].count(True) for s, line in self.lines.items()}
        assert all(count <= self.limit for count in on_their_way.values())
        assert self.window.in_flight == sum(on_their_way.values())
        assert len(self.window) == sum(len(line) for line in self.lines.values())
        for stream, line in self.lines.items():
            assert self.window.floor(stream) == line[0].sequence


WindowMachine.TestCase.settings = settings(derandomize=True, max_examples=120, stateful_step_count=40, deadline=None)
TestWindowMachine = pytest.mark.slow(WindowMachine.TestCase)
