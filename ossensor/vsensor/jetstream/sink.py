"""Where a vSensor that keeps no batch puts it: into the stream, in its turn, once.

Invariant: a batch is answered STORED or PRESENT only after the stream's leader said, of this batch's id, that a quorum
has it; and sequence n of a stream is published only when everything below it is known to be there, or to be below the
floor. So the stream holds each capture stream's batches in order, whichever vSensors they came through.

That is known from this vSensor's own answers, and from what the others tell (heads): hints without a promise. Where one
is lost, a batch waits for its predecessor, is answered "out of order", and comes again with a higher floor. Nothing is
kept beyond a restart: a sensor sends again whatever was not acknowledged, and names in its floor what was.

The de-duplication of the stream lasts for its window. What comes again after that is published again, behind its turn,
and the consumer's index knows it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from nats.aio.msg import Msg
from nats.js.api import PubAck
from nats.js.errors import APIError

from ossensor.transport.protocol import BatchId, MalformedError, Outcome, Stream
from ossensor.vsensor.order import LANES_MAX
from ossensor.vsensor.store import Append, Total

from . import message
from .link import TROUBLE, Link

# Under the sensor's own 30 s, so that it hears "store failed" instead of nothing.
_PUBLISH_S: Final = 10.0
# More streams than lanes (order.py), so that one with a lane is remembered here, too.
_HEADS_MAX: Final = 4 * LANES_MAX
# A condition that nothing meets, so that nothing is stored; of those that there are, servers of a cluster look at this
# one after they have looked for the message's own id (processJetStreamMsg), and answer that first.
_NEVER: Final = {"Nats-Expected-Last-Msg-Id": "never"}
_NOT_MET: Final = 10070  # JSStreamWrongLastMsgIDErrF (server/errors.json)


class _Head(NamedTuple):
    next: int = 0  # everything below is in the stream, or below the floor
    floor: int = 0


class _Flying(NamedTuple):
    sequence: int
    task: asyncio.Task[Outcome]


class Sink:
    """For one event loop."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._heads: OrderedDict[Stream, _Head] = OrderedDict()
        self._flying: dict[Stream, _Flying] = {}
        self._totals: dict[tuple[str, str], Total] = {}
        self.heard: Callable[[BatchId], None] = lambda _: None

    def next(self, stream: Stream) -> int:
        return self._heads.get(stream, _Head()).next

    def has(self, _: BatchId) -> bool:
        """Left to `repeat`, which may ask."""
        return True

    def totals(self) -> dict[tuple[str, str], Total]:
        return dict(self._totals)

    def failed_within(self, _seconds: float) -> bool:
        """Whether there is no connection to publish on. It is made again by itself, so nothing need be remembered."""
        return not self._link.ready

    def append(self, append: Append) -> asyncio.Future[Outcome]:
        """STORED, PRESENT, OUT_OF_ORDER, BUSY or STORE_FAILED, later; in the order of the calls, for each stream."""
        stream = append.batch.stream
        task = asyncio.create_task(self._in_turn(append, self._flying.get(stream)))
        flying = self._flying[stream] = _Flying(append.batch.sequence, task)

        def landed(_: object) -> None:
            if self._flying.get(stream) is flying:
                del self._flying[stream]

        task.add_done_callback(landed)
        return task

    def repeat(self, batch: BatchId) -> asyncio.Future[Outcome]:
        """What to say of a batch whose turn is over: PRESENT, or MALFORMED when its sensor had given it up."""
        return asyncio.create_task(self._settled(batch))

    async def listen(self) -> None:
        """Hears of what other vSensors published. Again for each connection."""
        await self._link.client.subscribe(message.HEADS_SUBJECT, cb=self._hear)

    async def _in_turn(self, append: Append, before: _Flying | None) -> Outcome:
        if before is not None:
            # Not published side by side, though the sensor sends so: a predecessor that is lost on its way to the
            # leader would leave its successor in front of it.
            await asyncio.wait([before.task])
            good = not before.task.cancelled() and before.task.exception() is None
            if not (good and before.task.result().acknowledged) and before.sequence >= append.floor:
                return Outcome.OUT_OF_ORDER
        # Into one piece: a section that lies in what the body was read into is of the same length, and copied once.
        data = bytes(append.section if append.packed is None else append.packed)
        answer = await self._publish(append.batch, message.headers(append), data)
        outcome = _outcome(answer)
        if outcome is Outcome.STORED:
            key = (append.batch.stream.sensor, append.batch.stream.interface)
            before_that = self._totals.get(key, Total(0, 0, ""))
            self._totals[key] = Total(before_that.packets + append.packets, before_that.bytes + len(append.section), "")
        if outcome.acknowledged:  # counted by now: others act on what they are told, and a stop may cancel the telling
            self._advance(append.batch, append.floor)
            await self._tell(append.batch)
        return outcome

    async def _publish(self, batch: BatchId, headers: dict[str, str], data: bytes) -> PubAck | APIError | None:
        """The leader's answer; None when there was none, and nobody knows."""
        if not self._link.ready:
            return None
        subject = message.subject(message.partition(batch.stream))
        try:
            return await self._link.jetstream.publish(
                subject, data, timeout=_PUBLISH_S, stream=message.STREAM, headers=headers
            )
        except APIError as e:
            if e.err_code != _NOT_MET:
                self._link.complain(e)
            return e
        except TROUBLE as e:
            self._link.complain(e)
            return None

    async def _settled(self, batch: BatchId) -> Outcome:
        # At or above the floor, below what the stream has: there it is, since it was published in its turn.
        if batch.sequence >= self._heads.get(batch.stream, _Head()).floor:
            return Outcome.PRESENT
        # A late copy of what its sensor has settled; it hardly waits for this answer. Only the stream's memory of ids
        # tells what was stored from what was given up, and it is asked without adding to the stream.
        answer = await self._publish(batch, {message.ID: batch.path, **_NEVER}, b"")
        if isinstance(answer, APIError) and answer.err_code == _NOT_MET:
            return Outcome.MALFORMED
        return _outcome(answer)

    def _advance(self, batch: BatchId, floor: int) -> None:
        head = self._heads.pop(batch.stream, _Head())
        self._heads[batch.stream] = _Head(max(head.next, batch.sequence + 1), max(head.floor, floor))
        if len(self._heads) > _HEADS_MAX:
            self._heads.popitem(last=False)

    async def _tell(self, batch: BatchId) -> None:
        # A hint: when it does not get out, the batch is stored all the same, and its sensor is told so.
        with contextlib.suppress(*TROUBLE):
            if self._link.ready:
                await self._link.client.publish(message.HEADS_SUBJECT, batch.path.encode())

    async def _hear(self, told: Msg) -> None:
        try:
            batch = BatchId.from_path(told.data.decode())
        except (MalformedError, UnicodeDecodeError):
            return
        self._advance(batch, 0)
        self.heard(batch)


def _outcome(answer: PubAck | APIError | None) -> Outcome:
    if not isinstance(answer, PubAck):
        return Outcome.STORE_FAILED
    if answer.duplicate:
        # Servers before 2.10 answer so, with sequence 0, while the first copy is still on its way to a quorum
        # (processClusteredInboundMsg: "we stage with zero"): that is no promise yet.
        return Outcome.PRESENT if answer.seq else Outcome.BUSY
    return Outcome.STORED
