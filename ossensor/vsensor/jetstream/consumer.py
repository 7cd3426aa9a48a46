"""From the stream into the store: one durable pull consumer for each partition.

Invariant: a message is acknowledged only after its batch is in the store as durably as the store promises, or after it
was counted why it never will be. The store's index knows each batch, so one that is delivered again is stored once.

What a kill -9 leaves, after each step:

1. messages are fetched               -> unacknowledged; delivered again after ACK_WAIT_S
2. their batches are committed        -> the same, and then "present"
3. they are acknowledged              -> nothing; one acknowledgement that is lost is the line above
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import APIError

from ossensor.errors import ConfigurationError
from ossensor.transport.protocol import BatchId, MalformedError, Outcome
from ossensor.vsensor import section
from ossensor.vsensor.index import Index
from ossensor.vsensor.store import Append, Store

from . import message
from .link import TROUBLE, Link
from .pending import PutBack

# A flush of a group takes a tenth of a second on a slow disk. What takes longer is delivered again, and is "present".
ACK_WAIT_S: Final = 10.0
# At most so many in memory for each partition: 64 in all, of 1 to 4 MiB as our sensors make them.
_FETCH: Final = 4
# Those in hand, and those put back after a death: a death leaves no more than _FETCH, their successors are the rest.
_UNACKNOWLEDGED_MAX: Final = 64
_FETCH_S: Final = 2.0
_PAUSE_S: Final = 1.0
# JSConsumerWQConsumerNotUniqueErr, JSConsumerWQMultipleUnfilteredErr (server/errors.json).
_TAKEN: Final = frozenset({10099, 10100})


class Consumer:
    """The consumer of one partition. For the event loop; `store` has been started, `index` is read only."""

    def __init__(self, link: Link, store: Store, index: Index, name: str, partition: int, tally: Counter[str]) -> None:
        self._link = link
        self._store = store
        self._index = index
        self._durable = f"{name}-{partition}"
        self._subject = message.subject(partition)
        self._tally = tally
        self._put_back = PutBack()

    async def run(self, stopping: Callable[[], bool]) -> None:
        """Until it is to stop, with everything in hand stored and acknowledged.

        Raises ConfigurationError when another consumer has the partition.
        """
        while not stopping():
            try:
                async with asyncio.timeout(_FETCH_S):
                    await self._link.until_good()
                pull = await self._subscribe()
                # Of a stream that was made anew, places begin anew; of the same one, what was put back comes again.
                self._put_back = PutBack()
                while not stopping():
                    await self._turn(pull)
            except TROUBLE as e:
                if self._link.ready:
                    self._link.complain(e)
                await asyncio.sleep(_PAUSE_S)

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        config = ConsumerConfig(
            ack_policy=AckPolicy.EXPLICIT, ack_wait=ACK_WAIT_S, max_ack_pending=_UNACKNOWLEDGED_MAX, max_deliver=-1
        )
        try:
            return await self._link.jetstream.pull_subscribe(
                self._subject, self._durable, stream=message.STREAM, config=config
            )
        except APIError as e:
            if e.err_code in _TAKEN:
                raise ConfigurationError([f"{self._subject} has a consumer of another --name than this one"]) from e
            raise

    async def _turn(self, pull: JetStreamContext.PullSubscription) -> None:
        if self._put_back:
            info = await pull.consumer_info()
            if info.num_ack_pending is not None and info.delivered is not None:
                self._put_back.ask(info.num_ack_pending, info.delivered.stream_seq)
        try:
            messages = await pull.fetch(_FETCH, timeout=_FETCH_S)
        except TimeoutError:  # nothing there
            messages = []
        if not messages:
            # Or there is no consumer any more, and nobody to say so: somebody removed it, or its stream was made anew.
            await pull.consumer_info()
        await self._take(messages)

    async def _take(self, messages: Sequence[Msg]) -> None:
        going: list[tuple[Msg, Append, asyncio.Future[Outcome]]] = []
        for each in messages:
            try:
                append = message.parse(each.headers or {}, each.data)
            except (MalformedError, section.SectionError):
                # Nobody of ours published it, and it will not get better.
                self._tally["malformed"] += 1
                await each.term()
                continue
            orphan = self._put_back.is_orphan(each.metadata.sequence.stream)
            append = replace(append, floor=append.batch.sequence if orphan else 0)
            going.append((each, append, asyncio.wrap_future(self._store.append(append))))
        for each, append, done in going:
            await self._settle(each, append.batch, await done)

    async def _settle(self, each: Msg, batch: BatchId, outcome: Outcome) -> None:
        place = each.metadata.sequence.stream
        if outcome is Outcome.OUT_OF_ORDER and batch.sequence < self._index.next(batch.stream):
            # Overtaken: it was twice in hand, or its sensor has given it up, and counted it.
            outcome = Outcome.PRESENT if self._index.has(batch) else Outcome.MALFORMED
        if outcome is Outcome.PRESENT:
            await asyncio.wrap_future(self._store.repeat(batch))
        self._tally[outcome.value] += 1
        match outcome:
            case Outcome.STORED | Outcome.PRESENT:
                self._put_back.done(place)
                await each.ack()
            case Outcome.OUT_OF_ORDER:
                self._put_back.put(place, batch)
                await each.nak(delay=_PAUSE_S)
            case Outcome.STORE_FAILED:
                await each.nak(delay=_PAUSE_S)
            case _:
                self._put_back.done(place)
                await each.term()
