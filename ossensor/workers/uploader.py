"""The uploader: takes ready slots of every interface, has them sent, and settles them.

Invariant: a slot is settled only when the vSensor acknowledged its batch, or refused it for good, in a signed reply;
when the batch is on disk to stay (spool.py); or when its header cannot be true. Until then it stays READY in shared
memory, so this process may die at any instruction: its successor finds every batch again, and the vSensor recognises
those that had arrived.

No batch leaves before the vSensor has proved to hold the key (transport/registration.py), again after each failure.

The main thread decides everything (window, endpoint, slots); sender threads make one attempt each and report.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import ssl
import time
from typing import TYPE_CHECKING, Any, Final

from ossensor.accounting import Reason
from ossensor.control import Channel
from ossensor.errors import Exit
from ossensor.logs import SEND, fields
from ossensor.region import Region
from ossensor.slots import Consumer
from ossensor.spoolfile import Spooled
from ossensor.transport import retry
from ossensor.transport.client import Client, Job, Proof, Result
from ossensor.transport.compression import Advice
from ossensor.transport.protocol import BatchId, Outcome, Stream
from ossensor.transport.retry import Next
from ossensor.transport.window import Window

from .child import HEARTBEAT_S, Heartbeat, Signals
from .inbox import Inbox
from .lines import InSlot, Item, Line, OnDisk, Plan, Totals, stream_of
from .overflow import Overflow
from .route import Addresses, Route
from .senders import Senders
from .spool import Damaged, Written

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .metrics import Exporter, Scrape

    News = Result | Proof | Addresses | Written | Damaged | Scrape

log = logging.getLogger(__name__)

SENDERS: Final = 4
# What a section in the spool is taken for, before it is read: whether a batch of that size is worth compressing.
SECTION_BYTES: Final = 1 << 20
# The vSensor holds a batch that overtook its predecessor for two seconds; a line of four never waits on itself.
_IN_FLIGHT_PER_STREAM: Final = 4
# The drain ends early when nothing moved for this long: a vSensor that is not there keeps nobody waiting, and with the
# workers' drain before it the whole stop stays under five seconds.
_DRAIN_PATIENCE_S: Final = 2.5
# What a slow line must get across for that to be a move; more than a handshake or two.
_DRAIN_MOVE_BYTES: Final = 64 << 10
_DRAIN_LOOK_S: Final = 0.25  # how often it is looked whether anything moves
# Attempts that are under way when the drain is over keep their slots until they fail: connecting takes 5 s to do so.
_RESCUE_S: Final = 4.0
_STATS_EVERY_S: Final = 10.0
# Well above what the client's limits add up to on a slow line, twice: a proof may try two keys.
_STUCK_S: Final = 240.0


class Uploader:
    """The main thread's state."""

    def __init__(
        self,
        plan: Plan,
        channel: Channel,
        context: ssl.SSLContext,
        heartbeat: Heartbeat,
        metrics: socket.socket | None,
    ) -> None:
        self._plan = plan
        self._channel = channel
        self._heartbeat = heartbeat
        self._lines: dict[int, Line] = {}
        self._window: Window[Item] = Window(_IN_FLIGHT_PER_STREAM)
        self._answered = False
        self._totals = Totals()
        self._stats_at_s = time.monotonic() + _STATS_EVERY_S
        self._drain_since_s: float | None = None
        self._inbox: Inbox[News] = Inbox()
        self._items: dict[BatchId, tuple[str, Item]] = {}
        self._rescuing = False  # the drain is over, and what is left goes to the disk
        to = self._plan.to
        self._route = Route(to, context, self._report, lambda flows: channel.send("guard", flows=flows))
        self._endpoint = self._route.endpoint
        self._exporter = self._exported(metrics)
        self._moved_bytes = 0
        self._overflow: Overflow | None = None
        if plan.spool_folder:
            complaints = self._route.complaints
            self._overflow = Overflow(plan, self._lines, self._window, self._totals, complaints, self._report)
        read = None if self._overflow is None else self._overflow.spool.read
        clients = [Client(to.host, to.port, context, to.application, plan.compression) for _ in range(SENDERS)]
        self._senders = Senders(clients, read, self._report)

    def _exported(self, listener: socket.socket | None) -> Exporter | None:
        if listener is None:
            return None
        from .metrics import Exporter, of_uploader, per_interface  # noqa: PLC0415  loaded when it is wanted

        def collected() -> list[Metric]:
            regions = [(line.interface, line.consumer.region) for line in self._lines.values()]
            own = of_uploader(vars(self._totals), len(self._window), reachable=self._endpoint.reachable)
            return [*per_interface(regions), *own]

        return Exporter(listener, self._report, collected)

    def _report(self, news: News) -> None:
        """From any thread."""
        self._inbox.put(news, can_wait=isinstance(news, Result) and news.acknowledged)

    def run(self, signals: Signals) -> Exit:
        """Uploads until told to drain; then until all is settled, or nothing has been for a while."""
        log.info("uploader ready")
        self._channel.send("ready")
        while True:
            self._heartbeat.beat()
            self._wait(signals)
            signals.take()  # SIGTERM alone means nothing here: the supervisor says "drain" when the workers are done
            for message, fds in self._channel.receive():
                self._obey(message, fds)
            self._hear_threads()
            for queue_id, line in self._lines.items():
                self._take_in(queue_id, line)
            # With nothing to send it rests, once it has failed.
            if len(self._window) or self._endpoint.due_s() is None:
                self._route.attend(time.monotonic())
            self._send_due()
            if self._overflow is not None:
                self._overflow.relieve(rescue=self._rescuing)
            self._retire_idle()
            self._print_stats()
            if self._drained():
                return Exit.DRAINED
            if self._stuck() or self._channel.ended:
                return Exit.GAVE_UP

    def _wait(self, signals: Signals) -> None:
        poll = select.poll()
        for fd in (signals.fileno(), self._channel.fileno(), self._inbox.fileno()):
            poll.register(fd, select.POLLIN)
        for line in self._lines.values():
            poll.register(line.consumer.ready_read, select.POLLIN)
        now_s = time.monotonic()
        until_s = now_s + (HEARTBEAT_S if self._drain_since_s is None else _DRAIN_LOOK_S)
        if (due_s := self._endpoint.due_s()) is not None and len(self._window):
            until_s = min(until_s, due_s)
        if self._may_send() and (due_s := self._window.due_s()) is not None:
            until_s = min(until_s, due_s)
        patience_s = self._inbox.patience_s(hurried=self._drain_since_s is not None or self._pressed())
        if self._window.in_flight:
            until_s = min(until_s, now_s + patience_s)
        poll.poll(max(0.0, (until_s - now_s) * 1000))

    def _pressed(self) -> bool:
        """True when batches wait for their turn, or slots are short: the next acknowledgement changes something."""
        return len(self._window) > self._window.in_flight or any(
            2 * line.consumer.held > line.consumer.region.count for line in self._lines.values()
        )

    def _obey(self, message: dict[str, Any], fds: list[int]) -> None:
        match message["op"]:
            case "add":
                memory, ready_read, free_write = fds
                consumer = Consumer(Region(memory), ready_read, free_write)
                self._lines[message["queue"]] = Line(
                    message["interface"], consumer, fds, Advice(self._plan.compression)
                )
            case "retire":
                if message["queue"] in self._lines:
                    self._lines[message["queue"]].retiring = True
            case "guarded":
                self._endpoint.guarded(time.monotonic(), ok=message["ok"])
            case "drain":
                self._drain_since_s = time.monotonic()
                self._endpoint.hurry()
            case unknown:
                raise AssertionError(f"the supervisor said {unknown}")

    def _take_in(self, queue_id: int, line: Line) -> None:
        for batch in line.consumer.listen():
            section = line.consumer.section(batch)
            # A worker reads packets from anywhere: what it publishes is checked like a stranger's.
            name = BatchId(Stream(self._plan.to.sensor, batch.epoch, line.interface), batch.sequence)
            if self._overflow is not None and self._overflow.has(name):
                line.consumer.settle(batch, spooled=True)
                continue
            item = None if section is None else InSlot(queue_id, batch, section)
            between = self._overflow is not None and self._overflow.inherited(stream_of(name))
            if item is None or not self._window.add(stream_of(name), batch.sequence, item, between=between):
                line.consumer.settle(batch, Reason.CORRUPT)
                log.error("a worker published an impossible slot", extra=fields(interface=line.interface))
            else:
                line.in_slots[name] = item

    def _may_send(self) -> bool:
        return self._window.in_flight < self._endpoint.concurrency(SENDERS)

    def _send_due(self) -> None:
        while self._may_send():
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

    def _hear_threads(self) -> None:
        for news in self._inbox.take():
            match news:
                case Result():
                    self._conclude(news)
                case Proof():
                    self._route.proved(news, time.monotonic())
                    if news.key is not None:
                        self._moved()
                        self._channel.send("narrow", packet_filter=news.welcome.packet_filter)
                case Addresses():
                    self._route.resolved(news, time.monotonic())
                case Written():
                    if self._overflow is not None and self._overflow.written(news):
                        self._moved()
                case Damaged():
                    self._damaged(news)
                case _ if self._exporter is not None:
                    self._exporter.answer(news)

    def _conclude(self, result: Result) -> None:
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
            self._answered = False
            self._endpoint.failed(job.stamp.generation, now_s, result.retry_after_s)
            self._window.fail(stream, job.batch.sequence, now_s)
            return
        if not self._answered:
            self._answered = True
            log.info("the vSensor answers", extra=fields(host=self._plan.to.host, address=job.stamp.address))
        self._endpoint.succeeded(job.stamp.generation)
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
            self._route.learn_time(result.vsensor_time_s)
        if trouble:
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
            self._totals.batches += 1
            if self._exporter is not None:
                self._exporter.acknowledged(result.elapsed_s)
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

    def _moved(self) -> None:
        """A drain goes on while something moves."""
        if self._drain_since_s is not None:
            self._drain_since_s = time.monotonic()

    def _damaged(self, damaged: Damaged) -> None:
        name = damaged.spooled.batch
        stream, _ = self._items.pop(name)
        self._senders.concluded(name)
        self._window.settle(stream, name.sequence)
        if self._overflow is not None:
            self._overflow.damaged(damaged)

    def _retire_idle(self) -> None:
        for queue_id, line in list(self._lines.items()):
            if line.retiring and not line.consumer.held and line.consumer.idle():
                del self._lines[queue_id]
                line.consumer.region.close()
                for fd in line.fds:
                    os.close(fd)
                self._channel.send("retired", queue=queue_id)

    def _print_stats(self) -> None:
        now_s = time.monotonic()
        if now_s < self._stats_at_s:
            return
        self._stats_at_s = now_s + _STATS_EVERY_S
        totals = fields(**vars(self._totals), waiting=len(self._window), reachable=self._endpoint.reachable)
        log.log(SEND, "sent packets", extra=totals)

    def _stuck(self) -> bool:
        """True when an attempt has outlived every time limit: a peer that sends headers a byte at a time can do that.

        A thread cannot be ended, a process can: the slots keep everything, and a successor starts with fresh threads.
        """
        since_s = [self._senders.oldest_s, self._route.proving_since_s]
        oldest_s = min((s for s in since_s if s is not None), default=None)
        if oldest_s is None or time.monotonic() - oldest_s < _STUCK_S:
            return False
        log.error("an attempt does not end; starting afresh", extra=fields(after_s=_STUCK_S))
        return True

    def _drained(self) -> bool:
        if self._drain_since_s is None:
            return False
        if all(line.consumer.idle() for line in self._lines.values()):
            return True
        moved_bytes = self._senders.acknowledged_bytes()
        if moved_bytes >= self._moved_bytes + _DRAIN_MOVE_BYTES:
            self._moved_bytes = moved_bytes
            self._drain_since_s = time.monotonic()
        # A connection that was replaced begins at nothing again.
        self._moved_bytes = min(self._moved_bytes, moved_bytes)
        if time.monotonic() - self._drain_since_s <= _DRAIN_PATIENCE_S:
            return False
        if self._rescuing or self._overflow is None or self._overflow.spool.broken:
            return True
        self._rescuing = True
        self._drain_since_s = time.monotonic() + _RESCUE_S
        return False
