"""Batches of a stream reach the store in sequence order, whatever order their requests arrive in.

Invariant, per stream: `next` is the lowest sequence that has been handed neither to the store nor to a gap; those in
`flying` are at the store and unanswered; everything below `next` and not flying is settled. Those in `coming` are being
received, or wait for memory to be received into: nobody gets there before those below him are settled or there, too.

A successor is handed over while its predecessor is still flying, so that one disk flush serves a window of batches
(the store commits in groups). The store keeps the order itself too: when a predecessor fails there, its successors
are refused, and `next` falls back to the first that failed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from ossensor.transport.protocol import BatchId, Outcome, Stream

# Long enough for a retry of the predecessor on a healthy link, short beside the client's timeout.
PATIENCE_S: Final = 2.0
# A lane is some hundred bytes, and can be read back from the index at any time.
LANES_MAX: Final = 4096

_Answer = TypeVar("_Answer")


class Step(Enum):
    """What to do with a batch now."""

    STORE = "store"
    WAIT = "wait"  # a predecessor has not arrived
    FLYING = "flying"  # the same batch is at the store already
    PAST = "past"  # settled: stored, or given up by its sensor
    CONTRADICTION = "contradiction"  # below its own floor


class Lane:
    """The order of one stream. Pure."""

    def __init__(self, next_: int) -> None:
        self.next = next_
        self.floor = 0
        self.flying: set[int] = set()
        self.coming: Counter[int] = Counter()  # a batch may come again while its first copy is not known to be dead

    def may_come(self, sequence: int, floor: int) -> bool:
        """False while batches below this one are neither settled nor on their way."""
        if sequence < floor:
            return True  # to be told so
        self._raise(floor)
        ahead = sequence - self.next
        return ahead <= len(self.coming) + len(self.flying) and all(
            below in self.coming or below in self.flying for below in range(self.next, sequence)
        )

    def judge(self, sequence: int, floor: int) -> Step:
        """The step for this batch, whose sensor says that everything below `floor` is settled on its side."""
        if sequence < floor:
            return Step.CONTRADICTION
        self._raise(floor)
        if sequence in self.flying:
            return Step.FLYING
        if sequence < self.next:
            return Step.PAST
        return Step.STORE if sequence == self.next else Step.WAIT

    def _raise(self, floor: int) -> None:
        self.floor = max(self.floor, floor)
        self.next = max(self.next, self.floor)

    def begin(self, sequence: int) -> None:
        self.flying.add(sequence)
        self.next = sequence + 1

    def end(self, sequence: int, *, settled: bool) -> None:
        self.flying.remove(sequence)
        if not settled:
            self.next = min(self.next, sequence)


@dataclass(slots=True)
class _Queue:
    lane: Lane
    users: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Everyone who waits judges again: a window is some tens of requests, so no one needs to be picked out."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def change(self, deadline_s: float) -> bool:
        """True when somebody woke us, False when nobody did in time."""
        try:
            async with asyncio.timeout_at(deadline_s):
                await self.changed.wait()
        except TimeoutError:
            return False
        return True


class Order:
    """All lanes. For one event loop.

    `next_of` and `present` ask the index and may read the disk: one page of a B-tree, for a stream's first batch and
    for repeats, which is cheaper than a thread switch.
    """

    def __init__(
        self,
        next_of: Callable[[Stream], int],
        present: Callable[[BatchId], bool],
        patience_s: float = PATIENCE_S,
        lanes_max: int = LANES_MAX,
    ) -> None:
        self._next_of = next_of
        self._present = present
        self._patience_s = patience_s
        self._lanes_max = lanes_max
        self._queues: dict[Stream, _Queue] = {}

    @asynccontextmanager
    async def coming(self, batch: BatchId, floor: int) -> AsyncIterator[bool]:
        """True once this batch may be received; False when those below it are not on their way in time.

        Else, where memory is short, a batch could have it and wait for one that waits for memory.
        """
        queue = self._join(batch.stream)
        deadline_s = asyncio.get_running_loop().time() + self._patience_s
        try:
            while not self._noted(queue, lambda: queue.lane.may_come(batch.sequence, floor)):
                if not await queue.change(deadline_s):
                    yield False
                    return
            queue.lane.coming[batch.sequence] += 1
            queue.wake()
            try:
                yield True
            finally:
                queue.lane.coming -= Counter([batch.sequence])
        finally:
            queue.users -= 1

    async def place(self, batch: BatchId, floor: int, store: Callable[[int], Awaitable[Outcome]]) -> Outcome:
        """The outcome of `store`, called in the batch's turn with the stream's floor; or why it had no turn.

        `store` puts the batch into the store's queue *before* it returns what can be awaited.
        """
        queue = self._join(batch.stream)
        try:
            return await self._place(queue, batch, floor, store)
        finally:
            queue.users -= 1

    def heard(self, batch: BatchId) -> None:
        """The batch is stored, by somebody else: everything below it is settled."""
        queue = self._queues.get(batch.stream)
        if queue is not None and batch.sequence >= queue.lane.next:
            queue.lane.next = batch.sequence + 1
            queue.wake()

    async def _place(
        self, queue: _Queue, batch: BatchId, floor: int, store: Callable[[int], Awaitable[Outcome]]
    ) -> Outcome:
        deadline_s = asyncio.get_running_loop().time() + self._patience_s
        while True:
            match self._noted(queue, lambda: queue.lane.judge(batch.sequence, floor)):
                case Step.STORE:
                    return await self._store(queue, batch.sequence, store)
                case Step.CONTRADICTION:
                    return Outcome.MALFORMED
                case Step.PAST:
                    # "Present" promises that it is stored. What its sensor gave up is in a gap and is not; a late
                    # copy of that may not be stored either, as the sensor has counted it as dropped.
                    return Outcome.PRESENT if self._present(batch) else Outcome.MALFORMED
                case Step.WAIT | Step.FLYING:
                    if not await queue.change(deadline_s):
                        return Outcome.OUT_OF_ORDER

    @staticmethod
    def _noted(queue: _Queue, ask: Callable[[], _Answer]) -> _Answer:
        """The answer. Where the request's floor moved the lane, another may have its turn."""
        before = queue.lane.next
        answer = ask()
        if queue.lane.next != before:
            queue.wake()
        return answer

    async def _store(self, queue: _Queue, sequence: int, store: Callable[[int], Awaitable[Outcome]]) -> Outcome:
        lane = queue.lane
        lane.begin(sequence)
        settled = False
        try:
            # The store's queue is first in, first out: the call puts this batch there before the successor, which
            # wakes no earlier than our first suspension, can put itself behind it.
            pending = store(lane.floor)
            queue.wake()
            outcome = await pending
            settled = outcome.acknowledged
            return outcome
        finally:
            lane.end(sequence, settled=settled)
            queue.wake()

    def _join(self, stream: Stream) -> _Queue:
        queue = self._queues.pop(stream, None)
        if queue is None:
            queue = _Queue(Lane(self._next_of(stream)))
        self._queues[stream] = queue  # last: the dict's order is that of use
        queue.users += 1  # before the eviction: two lanes for one stream would be no order
        if len(self._queues) > self._lanes_max:
            self._evict()
        return queue

    def _evict(self) -> None:
        """Drops the least recently used lanes that nobody waits in. Requests are bounded, so the rest are few."""
        idle = [s for s, q in self._queues.items() if q.users == 0 and not q.lane.flying]
        # Half at once, so that a scan of all lanes is paid for by thousands of requests.
        for stream in idle[: self._lanes_max // 2]:
            del self._queues[stream]
