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
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from ossensor.accounting import Reason
from ossensor.control import Channel, Parts
from ossensor.errors import Exit
from ossensor.logs import SEND, fields
from ossensor.region import Region
from ossensor.slots import Consumer
from ossensor.transport.client import Client, Proof, Result
from ossensor.transport.compression import Advice
from ossensor.transport.inquiry import Answer
from ossensor.transport.protocol import TAG_ORDER, BatchId, Stream
from ossensor.transport.window import Window

from .asker import Asker
from .child import HEARTBEAT_S, Heartbeat, Signals
from .delivery import SENDERS, Delivery
from .drain import LOOK_S, Drain
from .inbox import Inbox
from .liaison import Liaison
from .lines import Holdings, InSlot, Line, Plan, stream_of
from .overflow import Overflow
from .route import Addresses, Route
from .scheduler import Scheduler
from .selfreport import SelfReport
from .senders import Senders
from .spool import Damaged, Unread, Written

if TYPE_CHECKING:
    from prometheus_client.core import Metric

    from .metrics import Exporter, Scrape

    News = Result | Proof | Addresses | Written | Damaged | Unread | Answer | Scrape

log = logging.getLogger(__name__)

# The vSensor holds a batch that overtook its predecessor for two seconds; a line of four never waits on itself.
_IN_FLIGHT_PER_STREAM: Final = 4
_STATS_EVERY_S: Final = 10.0
# Well above what the client's limits add up to on a slow line, twice: a proof may try two keys.
_STUCK_S: Final = 240.0
# For a section that is being written when the drain is over. Short of the heartbeat's limit, and of a stop's patience.
_LAST_FILE_S: Final = 2.0


class Uploader:
    """The main thread's state."""

    def __init__(
        self,
        plan: Plan,
        channel: Channel,
        context: ssl.SSLContext,
        heartbeat: Heartbeat,
        metrics: socket.socket | None,
        *,
        ordered: bool,
    ) -> None:
        """`ordered`: a predecessor passed Antigena's orders on."""
        self._plan = plan
        self._channel = channel
        self._heartbeat = heartbeat
        holdings = Holdings(Window(_IN_FLIGHT_PER_STREAM))
        self._lines, self._window, self._totals = holdings.lines, holdings.window, holdings.totals
        self._stats_at_s = time.monotonic() + _STATS_EVERY_S
        self._drain: Drain | None = None
        self._inbox: Inbox[News] = Inbox()
        self._reports = Parts()
        to = self._plan.to
        self._route = Route(to, context, self._report, lambda flows: channel.send("guard", flows=flows))
        self._endpoint = self._route.endpoint
        self._overflow: Overflow | None = None
        if plan.spool_folder:
            complaints = self._route.complaints
            self._overflow = Overflow(plan, holdings, complaints, self._report)
        read = None if self._overflow is None else self._overflow.spool.read
        spokesman = Client(to.host, to.port, context, to.application)
        asker = Asker("liaison", spokesman, self._report, keep_connection=False)  # the next is a minute away
        self._liaison = Liaison(self._route, asker, to.sensor, plan.introduction)
        self._scheduler = self._scheduled(context, ordered=ordered)
        clients = [Client(to.host, to.port, context, to.application, plan.compression) for _ in range(SENDERS)]
        self._senders = Senders(clients, read, self._report)
        self._exporter = self._exported(metrics)
        acknowledged = (lambda _: None) if self._exporter is None else self._exporter.acknowledged
        self._delivery = Delivery(plan, holdings, self._route, self._overflow, self._senders, self._moved, acknowledged)
        self._self_report = SelfReport(channel, holdings, self._route, self._overflow)

    def _scheduled(self, context: ssl.SSLContext, *, ordered: bool) -> Scheduler | None:
        to, plan = self._plan.to, self._plan.antigena
        if plan is None:
            return None
        client = Client(to.host, to.port, context, to.application)
        asker = Asker("antigena", client, self._report, keep_connection=True)
        tell = partial(self._channel.send_text, "orders")
        return Scheduler(self._route, asker, to.sensor, plan, tell, time.monotonic(), ordered=ordered)

    def _exported(self, listener: socket.socket | None) -> Exporter | None:
        if listener is None:
            return None
        from .metrics import Exporter, of_uploader, per_interface  # noqa: PLC0415  loaded when it is wanted, by uplink.py

        def collected() -> list[Metric]:
            regions = [(line.interface, line.consumer.region) for line in self._lines.values()]
            where = {"reachable": self._endpoint.reachable, "direct": self._endpoint.diverted}
            own = of_uploader(vars(self._totals), len(self._window), **where)
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
            # With nothing to say it rests, once it has failed.
            if len(self._window) or self._scheduler is not None or self._endpoint.due_s() is None:
                self._route.attend(time.monotonic())
            self._delivery.send_due()
            self._liaison.attend(time.monotonic())
            if self._scheduler is not None and self._drain is None:
                self._scheduler.attend(time.monotonic())
            if self._overflow is not None:
                self._overflow.relieve(rescue=self._drain is not None and self._drain.rescuing)
            self._retire_idle()
            self._self_report.attend(time.monotonic())
            self._print_stats()
            if self._drained():
                if self._overflow is not None:
                    self._hear_disk(self._overflow)
                    self._overflow.leave()
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
        until_s = now_s + (HEARTBEAT_S if self._drain is None else LOOK_S)
        if (due_s := self._endpoint.due_s()) is not None and (len(self._window) or self._scheduler is not None):
            until_s = min(until_s, due_s)
        if self._scheduler is not None and (due_s := self._scheduler.due_s) is not None:
            until_s = min(until_s, due_s)
        if self._delivery.may_send() and (due_s := self._window.due_s()) is not None:
            until_s = min(until_s, due_s)
        patience_s = self._inbox.patience_s(hurried=self._drain is not None or self._pressed())
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
                self._route.guarded(time.monotonic(), ok=message["ok"])
            case "report" if self._scheduler is not None:
                if (text := self._reports.maybe_whole(message)) is not None:
                    self._scheduler.reported(text)
            case "heeded":
                names = [line.interface for line in self._lines.values()]
                self._liaison.introduce(names, message["refused"], message["epochs"])
            case "drain":
                self._drain = Drain(time.monotonic())
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

    def _hear_threads(self) -> None:
        for news in self._inbox.take():
            match news:
                case Result():
                    self._delivery.conclude(news)
                case Proof():
                    self._proved(news)
                case Addresses():
                    self._route.resolved(news, time.monotonic())
                case Written():
                    if self._overflow is not None and self._overflow.written(news):
                        self._moved()
                case Damaged() | Unread():
                    self._delivery.unsent(news)
                case Answer():
                    self._answered(news)
                case _ if self._exporter is not None:
                    self._exporter.answer(news)

    def _hear_disk(self, overflow: Overflow) -> None:
        """Before the end: a file that has its name is another life's to send; its packets must not be lost here, too.

        Only a disk that hangs is not waited for to its end: then the next life may send what was counted as lost.
        """
        overflow.spool.withdraw()
        poll = select.poll()
        poll.register(self._inbox.fileno(), select.POLLIN)
        until_s = time.monotonic() + _LAST_FILE_S
        while overflow.spool.pending and (left_s := until_s - time.monotonic()) > 0:
            poll.poll(left_s * 1000)
            self._hear_threads()

    def _answered(self, answer: Answer) -> None:
        if answer.inquiry.tag != TAG_ORDER:
            self._liaison.heard(answer, time.monotonic())
        elif self._scheduler is not None:
            self._scheduler.heard(answer, time.monotonic())

    def _proved(self, proof: Proof) -> None:
        self._route.proved(proof, time.monotonic())
        self._totals.direct_refused = self._endpoint.direct.refused
        if proof.key is not None and not proof.question.scout:
            self._moved()
            asked = proof.welcome
            self._window.limit = min(_IN_FLIGHT_PER_STREAM, asked.limits.window or _IN_FLIGHT_PER_STREAM)
            # The supervisor says "heeded": then there is something to say to the vSensor, too.
            limit = asked.limits.batch_bytes
            self._channel.send("heed", packet_filter=asked.packet_filter, section_bytes=limit)

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
        since_s = [self._senders.oldest_s, self._route.proving_since_s, self._route.scouting_since_s]
        oldest_s = min((s for s in since_s if s is not None), default=None)
        if oldest_s is None or time.monotonic() - oldest_s < _STUCK_S:
            return False
        log.error("an attempt does not end; starting afresh", extra=fields(after_s=_STUCK_S))
        return True

    def _moved(self) -> None:
        """A drain goes on while something moves."""
        if self._drain is not None:
            self._drain.moved(time.monotonic())

    def _drained(self) -> bool:
        if self._drain is None:
            return False
        if all(line.consumer.idle() for line in self._lines.values()):
            return True
        if self._drain.rescuing and self._overflow is not None and self._overflow.has_all:
            return True
        can_rescue = self._overflow is not None and not self._overflow.spool.broken
        moved_bytes = self._senders.acknowledged_bytes()
        return self._drain.over(time.monotonic(), moved_bytes, can_rescue=can_rescue)
