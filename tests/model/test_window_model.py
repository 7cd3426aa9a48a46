"""The window against a plain model: lists, searched from the front at every step.

The model has each stream's batches in the order of their sequences, and the streams in the order of their turns. Held
against it, after every step: which batch goes next and when, what is refused, counts and floors. Few sequences, so that
they meet; at the end of the range that the protocol has, too.
"""

from __future__ import annotations

from math import inf

import pytest
from histories import histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ossensor.transport.protocol import MAX_SEQUENCE
from ossensor.transport.window import Window

STREAMS = ("a", "b", "c")
SEQUENCES = st.integers(0, 11)  # from the first
BEYOND = st.integers(12, 20)


class Modelled:
    """One batch as the model sees it."""

    def __init__(self, sequence: int) -> None:
        self.sequence = sequence
        self.item = f"first {sequence}"
        self.on_its_way = False
        self.not_before_s = 0.0


class WindowMachine(RuleBasedStateMachine):
    """Random histories; `turns` lists the streams, the one whose turn is next in front."""

    @initialize(limit=st.integers(1, 4), first=st.sampled_from([0, MAX_SEQUENCE - 11]))
    def start(self, limit: int, first: int) -> None:
        self.window: Window[str] = Window(limit)
        self.limit = limit
        self.first = first
        self.most_on_their_way = dict.fromkeys(STREAMS, float(limit))
        self.turns: list[str] = []
        self.lines: dict[str, list[Modelled]] = {}
        self.now_s = 0.0

    def may_go(self, stream: str) -> Modelled | None:
        """The lowest that is not on its way, when that is within the limit: nothing else of a stream ever may."""
        for n, batch in enumerate(self.lines[stream]):
            if not batch.on_its_way:
                return batch if n < self.limit else None
        return None

    @rule(stream=st.sampled_from(STREAMS), numbers=st.lists(SEQUENCES, max_size=5), between=st.booleans())
    def add_some(self, stream: str, numbers: list[int], *, between: bool) -> None:
        for number in numbers:
            self.add(stream, number, between=between)

    def add(self, stream: str, number: int, *, between: bool) -> None:
        batch = Modelled(self.first + number)
        line = self.lines.get(stream, [])
        above_all = all(batch.sequence > other.sequence for other in line)
        there = any(batch.sequence == other.sequence for other in line)
        accepted = above_all or (between and not there)
        if accepted:
            if not line:
                self.turns.append(stream)
            self.lines[stream] = sorted([*line, batch], key=lambda b: b.sequence)
        if accepted and not above_all:
            self.most_on_their_way[stream] = inf  # it goes before others that may be on their way

        assert self.window.add(stream, batch.sequence, batch.item, between=between) == accepted

    @rule(limit=st.integers(1, 4))
    def another_limit(self, limit: int) -> None:
        """Holds from the next batch on."""
        self.window.limit = self.limit = limit
        for stream, most in self.most_on_their_way.items():
            if most != inf:
                # Those at places that the new limit does not have stay on their way; one before them may go again.
                places = [n + 1 for n, b in enumerate(self.lines.get(stream, [])) if b.on_its_way]
                self.most_on_their_way[stream] = max([limit, *places])

    @rule()
    def all_that_may_go(self) -> None:
        while self.next():
            pass

    @rule()
    def one(self) -> None:
        self.next()

    def next(self) -> bool:
        expected = None
        for stream in self.turns:
            batch = self.may_go(stream)
            if batch is not None and batch.not_before_s <= self.now_s:
                expected = (stream, batch.sequence, batch.item)
                batch.on_its_way = True
                self.turns.remove(stream)
                self.turns.append(stream)
                break

        assert self.window.next(self.now_s) == expected
        return expected is not None

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
            self.most_on_their_way[stream] = self.limit

        assert self.window.settle(stream, batch.sequence) == batch.item

    @rule(data=st.data())
    def replace(self, data: st.DataObject) -> None:
        """A batch that waits is somewhere else now: it keeps its place, and its time."""
        if (picked := self.pick(data, on_its_way=False)) is None:
            return
        stream, batch = picked
        batch.item = f"another {batch.sequence}"
        self.window.replace(stream, batch.sequence, batch.item)

    @rule(data=st.data())
    def refuse_what_is_not_on_its_way(self, data: st.DataObject) -> None:
        if (picked := self.pick(data, on_its_way=False)) is None:
            return
        stream, batch = picked
        with pytest.raises(KeyError):
            self.window.settle(stream, batch.sequence)
        with pytest.raises(KeyError):
            self.window.fail(stream, batch.sequence, 0.0)

    @rule(stream=st.sampled_from(STREAMS), number=BEYOND)
    def refuse_what_is_not_there(self, stream: str, number: int) -> None:
        assert not self.window.waits(stream, self.first + number)
        with pytest.raises(KeyError):
            self.window.settle(stream, self.first + number)

    @rule(passed_s=st.sampled_from([0.5, 1.0, 5.0]))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s

    @precondition(lambda self: self.lines)
    @rule()
    def due_is_when_something_may_go(self) -> None:
        """Sends, at the time that due_s names: not a moment before, and then at once."""
        due_s = self.window.due_s()
        if due_s is not None and due_s > self.now_s:
            assert self.window.next(due_s - 0.25) is None
            self.now_s = due_s
            self.next()

    @invariant()
    def the_next_is_due_when_the_first_of_a_stream_may_go(self) -> None:
        waits = [b.not_before_s for s in self.turns if (b := self.may_go(s)) is not None]
        assert self.window.due_s() == min(waits, default=None)

    @invariant()
    def counts_and_floors_agree(self) -> None:
        on_their_way = {s: [b.on_its_way for b in line].count(True) for s, line in self.lines.items()}
        assert all(count <= self.most_on_their_way[s] for s, count in on_their_way.items())
        assert self.window.in_flight == sum(on_their_way.values())
        assert len(self.window) == sum(len(line) for line in self.lines.values())
        for stream in set(STREAMS) - self.lines.keys():
            with pytest.raises(KeyError):
                self.window.floor(stream)
        for stream, line in self.lines.items():
            assert self.window.floor(stream) == line[0].sequence
            assert [self.window.waits(stream, b.sequence) for b in line] == [not b.on_its_way for b in line]


TestWindowMachine = histories(WindowMachine, 100, 40)
