"""Which batch goes next: the order of every stream, and how many of it are on their way. Pure.

Invariant: no batch of a stream is sent while a predecessor of it waits, and `floor` is the lowest that is unsettled.
The vSensor stores a stream in order and takes the floor's word that everything below it is settled. (A predecessor may
fail while its successors are on their way; the vSensor holds those, and refuses them if it does not come.)
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum, auto
from itertools import islice
from typing import Final, Generic, TypeVar

T = TypeVar("T")


class State(Enum):
    """Where a batch is between its slot and its acknowledgement."""

    QUEUED = auto()
    SENT = auto()
    RETRY = auto()


class Event(Enum):
    """What happens to a batch."""

    SEND = auto()
    FAIL = auto()
    SETTLE = auto()


# None: the batch leaves the window. A pair that is not here is a bug, and raises KeyError.
_TABLE: Final[dict[tuple[State, Event], State | None]] = {
    (State.QUEUED, Event.SEND): State.SENT,
    (State.SENT, Event.FAIL): State.RETRY,
    (State.RETRY, Event.SEND): State.SENT,
    (State.SENT, Event.SETTLE): None,
}


class _Entry(Generic[T]):
    __slots__ = ("item", "not_before_s", "state")

    def __init__(self, item: T) -> None:
        self.item = item
        self.state = State.QUEUED
        self.not_before_s = 0.0


class Window(Generic[T]):
    """Batches of many streams, by (stream, sequence). The streams take turns."""

    def __init__(self, in_flight_per_stream: int) -> None:
        self.limit = in_flight_per_stream  # of each stream; one that sinks holds from the next batch on
        self._streams: OrderedDict[str, OrderedDict[int, _Entry[T]]] = OrderedDict()
        self.in_flight = 0

    def add(self, stream: str, sequence: int, item: T, *, between: bool = False) -> bool:
        """Queues a batch. False, and nothing queued, unless its sequence is above all that its stream still holds.

        `between`: or belongs between these, and is not there yet. What a successor finds on disk, where the newest go
        first, it takes in before the slots.
        """
        line = self._streams.get(stream)
        later: list[int] = []
        if line and sequence <= next(reversed(line)):
            if not between or sequence in line:
                return False
            later = [n for n in line if n > sequence]
        line = self._streams.setdefault(stream, OrderedDict())
        line[sequence] = _Entry(item)
        for n in later:
            line.move_to_end(n)
        return True

    def next(self, now_s: float) -> tuple[str, int, T] | None:
        """The batch to send now, marked as sent; None when every stream waits or is at its limit."""
        for stream, line in self._streams.items():
            candidate = self._candidate(line)
            if candidate is None or candidate[1].not_before_s > now_s:
                continue
            sequence, entry = candidate
            self._step(entry, Event.SEND)
            self.in_flight += 1
            self._streams.move_to_end(stream)
            return stream, sequence, entry.item
        return None

    def _candidate(self, line: OrderedDict[int, _Entry[T]]) -> tuple[int, _Entry[T]] | None:
        """The lowest batch that is not on its way; nothing above it may be sent before it."""
        for sequence, entry in islice(line.items(), self.limit):
            if entry.state is not State.SENT:
                return sequence, entry
        return None

    def floor(self, stream: str) -> int:
        """The lowest sequence of the stream that is not settled."""
        return next(iter(self._streams[stream]))

    def waits(self, stream: str, sequence: int) -> bool:
        """True for a batch that is here and not on its way."""
        line = self._streams.get(stream)
        entry = None if line is None else line.get(sequence)
        return entry is not None and entry.state is not State.SENT

    def replace(self, stream: str, sequence: int, item: T) -> None:
        """Another item for a batch that waits: it is somewhere else now."""
        self._streams[stream][sequence].item = item

    def fail(self, stream: str, sequence: int, not_before_s: float) -> None:
        """The attempt came to nothing; the batch may go again from `not_before_s` on."""
        entry = self._streams[stream][sequence]
        self._step(entry, Event.FAIL)
        entry.not_before_s = not_before_s
        self.in_flight -= 1

    def settle(self, stream: str, sequence: int) -> T:
        """The batch is acknowledged or dropped: it leaves the window, and its stream's floor may rise."""
        line = self._streams[stream]
        entry = line[sequence]
        self._step(entry, Event.SETTLE)
        self.in_flight -= 1
        del line[sequence]
        if not line:
            del self._streams[stream]
        return entry.item

    def _step(self, entry: _Entry[T], event: Event) -> None:
        state = _TABLE[entry.state, event]
        if state is not None:
            entry.state = state

    def due_s(self) -> float | None:
        """When the next waiting batch may go; None when none waits for a time."""
        times = [
            candidate[1].not_before_s
            for line in self._streams.values()
            if (candidate := self._candidate(line)) is not None
        ]
        return min(times, default=None)

    def __len__(self) -> int:
        return sum(len(line) for line in self._streams.values())
