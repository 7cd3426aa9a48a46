"""Attempts under way, and what becomes of each: the batch is settled, or goes again.

Invariant: a batch that is on its way is in `_items` and marked as sent in the window, and leaves both together when its
attempt is concluded. What is concluded is decided by the retry table (transport/retry.py) and by nothing else.

The uploader's main thread only; senders make the attempts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final

from ossensor.accounting import Reason
from ossensor.logs import SEND, fields
from ossensor.spoolfile import Spooled
from ossensor.transport import retry
from ossensor.transport.client import Job, Result
from ossensor.transport.compression import Advice
from ossensor.transport.protocol import BatchId, Outcome, Stream
from ossensor.transport.retry import Next

from .lines import Holdings, InSlot, Item, OnDisk, Plan
from .overflow import Overflow
from .route import Route
from .senders import Senders
from .spool import Damaged, Unread

log = logging.getLogger(__name__)

SENDERS: Final = 4
# What a section in the spool is taken for, before it is read: whether a batch of that size is worth compressing.
SECTION_BYTES: Final = 1 << 20


class Delivery:
    """`moved` is called when something came of an attempt; `acknowledged` with the seconds that one took."""

    def __init__(
        self,
        plan: Plan,
        holdings: Holdings,
        route: Route,
        overflow: Overflow | None,
        senders: Senders,
        moved: Callable[[], None],
        acknowledged: Callable[[float], None],
    ) -> None:
        self._plan = plan
        self._lines = holdings.lines
        self._window = holdings.window
        self._totals = holdings.totals
        self._route = route
        self._endpoint = route.endpoint
        self._overflow = overflow
        self._senders = senders
        self._moved = moved
        self._acknowledged = acknowledged
        self._items: dict[BatchId, tuple[str, Item]] = {}

    def may_send(self) -> bool:
        """True when one more attempt may begin."""
        return self._window.in_flight < self._endpoint.concurrency(SENDERS)

    def send_due(self) -> None:
        """Begins every attempt that may begin now."""
        while self.may_send():
            chosen = self._window.next(time.monotonic())
            if chosen is None:
                return
            stream, sequence, item = chosen
            self._totals.attempts += 1
            job, spooled = self._job(stream, sequence, item)
            self._items[job.batch] = (stream, item)
            self._senders.send(job, spooled)

    def _job(self, stream: str, sequence: int, item: Item) -> tuple[Job, Spooled | None]:
        """An attempt, and the file that the sender is to read its section from, if it is in one."""
        floor, stamp = self._window.floor(stream), self._route.stamp()
        if isinstance(item, OnDisk):
            compress = self._advice(item).worth_trying(SECTION_BYTES)
            name = item.spooled.batch
            return Job(name, memoryview(b""), item.packets, floor, compress=compress, stamp=stamp), item.spooled
        line = self._lines[item.queue_id]
        name = BatchId(Stream(self._plan.to.sensor, item.batch.epoch, line.interface), sequence)
        compress = line.advice.worth_trying(len(item.section))
        account = line.account(item.batch)
        return Job(name, item.section, item.packets, floor, compress=compress, stamp=stamp, account=account), None

    def conclude(self, result: Result) -> None:
        """Takes in what came of an attempt."""
        job = result.job
        stream, item = self._items.pop(job.batch)
        self._senders.concluded(job.batch)
        log.log(
            SEND,
            "sent batch",
            extra=fields(
                interface=job.batch.stream.interface,
                sequence=job.batch.sequence,
                packets=job.packets,
                bytes=len(job.section),
                wire_bytes=result.wire_bytes,
                answer=result.detail,
                ms=round(result.elapsed_s * 1000, 1),
            ),
        )
        now_s = time.monotonic()
        follows = retry.rule(result.outcome)
        if follows.next is Next.ELSEWHERE:
            where = {"host": self._plan.to.host, "address": job.stamp.address}
            self._route.complaints.say(result.trouble, **where, why=result.detail)
            trouble = f"{result.trouble} ({result.detail})"
            self._route.failed(job.stamp.generation, now_s, result.retry_after_s, trouble=trouble)
            self._window.fail(stream, job.batch.sequence, now_s)
            return
        self._route.delivered(job.stamp.generation, job.stamp.address)
        if follows.next is Next.AGAIN:
            self._again(result, follows.trouble, stream, now_s)
            return
        if job.compress and result.wire_bytes:
            self._advice(item).learn(len(job.section), result.wire_bytes)
        self._settle(result, follows.reason, stream, item)

    def _again(self, result: Result, trouble: str, stream: str, now_s: float) -> None:
        self._moved()  # it is there, and speaks
        if result.outcome is Outcome.STALE and result.vsensor_time_s is not None:
            # A vSensor that has just started calls everything signed before that stale, with no offset at all.
            self._route.learn_time(result.vsensor_time_s, result.job.stamp.created_s)
        if trouble:
            self._route.trouble = f"{trouble} ({result.detail})"
            self._route.complaints.say(trouble, answer=result.detail)
        self._window.fail(stream, result.job.batch.sequence, now_s + retry.again_s(result.retry_after_s))

    def _settle(self, result: Result, reason: Reason | None, stream: str, item: Item) -> None:
        name = result.job.batch
        if reason is not None:
            log.error(
                "the vSensor refused a batch for good",
                extra=fields(
                    interface=name.stream.interface,
                    sequence=name.sequence,
                    packets=item.packets,
                    reason=reason.value,
                    answer=result.detail,
                ),
            )
        else:
            self._route.trouble = ""
            self._totals.batches += 1
            self._acknowledged(result.elapsed_s)
            self._totals.packets += item.packets
            self._totals.wire_bytes += result.wire_bytes
        self._window.settle(stream, name.sequence)
        if isinstance(item, InSlot):
            line = self._lines[item.queue_id]
            del line.in_slots[name]
            line.consumer.settle(item.batch, reason)
        elif self._overflow is not None:
            self._overflow.settled(item, refused=reason is not None)
        self._moved()

    def _advice(self, item: Item) -> Advice:
        if isinstance(item, InSlot):
            return self._lines[item.queue_id].advice
        if self._overflow is None:
            raise AssertionError("what is on disk is in a spool")
        return self._overflow.advice

    def unsent(self, news: Damaged | Unread) -> None:
        """A batch that was to be sent could not be read: it is lost, or it alone waits."""
        name = news.spooled.batch
        stream, _ = self._items.pop(name)
        self._senders.concluded(name)
        if isinstance(news, Unread):
            self._route.complaints.say("OSSENSOR_SPOOL_DIR: a batch cannot be read now", why=news.why)
            self._window.fail(stream, name.sequence, time.monotonic() + news.retry_s)
            return
        self._window.settle(stream, name.sequence)
        if self._overflow is not None:
            self._overflow.damaged(news)
