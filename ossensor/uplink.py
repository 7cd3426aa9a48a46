"""The uploader as the supervisor sees it: one child, one channel, and the queues that it was handed.

Invariant: an uploader, first or successor, knows every queue that is not closed, and which of them are to be emptied
for good; what it was told is told again to its successor.
"""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from .children import Child
from .confine.policy import Role
from .control import Channel, Parts
from .errors import Exit
from .port import Port
from .slots import ring_for_dead
from .spawn import Forge, Process
from .status.upload import Upload
from .workers.child import Heartbeat, Signals
from .workers.lines import Plan
from .workers.uploader import Uploader

# An uploader that dies this often in a row, never healthy for a minute, has tried for some eight minutes.
_GIVE_UP_AFTER: Final = 20


def _settled(ports: Iterable[Port]) -> int:
    """How many packets left the slots, by uploaders' own count.

    Not that one is up tells that it works: memory may run short at each first batch.
    """
    regions = [port.region for port in ports]
    return sum(region.delivered() + region.spooled() + sum(region.dropped().values()) for region in regions)


class Uplink:
    """`guard` is asked to leave addresses out of the capture before the uploader may connect to them.

    `heed` is given what the vSensor asks for, and returns what there is to tell it. `order` is given orders.
    """

    def __init__(
        self,
        plan: Plan,
        context: ssl.SSLContext,
        metrics: socket.socket | None,
        guard: Callable[[Any], bool],
        heed: Callable[[Mapping[str, Any]], Mapping[str, Any]],
        order: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._context = context
        self._metrics = metrics  # the port that scrapers connect to, whichever uploader serves it
        if metrics is not None:
            # Loaded here, when it is wanted: the uploader is another user, who may not be able to read where we lie.
            from .workers import metrics as _  # noqa: F401, PLC0415
        self._guard = guard
        self._heed = heed
        self._order = order
        self._orders = Parts()
        self._ordered = False  # whether orders ever came
        self._report: str | None = None
        self.child = Child("oss-upload")
        self.process: Process | None = None
        self.said: Upload | None = None  # the present uploader's last word on itself
        self._heartbeat = Heartbeat()
        self._channel: Channel | None = None
        self._draining = False
        self._settled = 0  # packets, when the present uploader started

    def start(self, forge: Forge, ports: Iterable[Port]) -> None:
        """Forks an uploader and tells it everything. OSError when there is no process to be had, which backs off."""
        self.said = None
        try:
            ours, theirs = Channel.pair()
        except OSError as e:
            self.child.could_not_start(time.monotonic(), str(e))
            raise
        plan, context, heartbeat, metrics = self._plan, self._context, self._heartbeat, self._metrics
        ordered = self._ordered

        def work(signals: Signals) -> Exit:
            return Uploader(plan, theirs, context, heartbeat, metrics, ordered=ordered).run(signals)

        keep = (theirs.fileno(), *(() if metrics is None else (metrics.fileno(),)))
        try:
            self.process = forge.spawn(self.child.name, Role.UPLOAD, heartbeat, keep, work, folder=plan.spool_folder)
        except OSError as e:
            ours.close()
            self.child.could_not_start(time.monotonic(), str(e))
            raise
        finally:
            theirs.close()
        self.child.started(time.monotonic())
        self._channel = ours
        self._settled = _settled(ports)
        for port in ports:
            self.hand_over(port)
            if port.retiring is not None and not port.child.alive:
                self.retire(port)
        if self._report is not None:
            self.report(self._report)
        if self._draining:
            self._tell("drain")

    def fileno(self) -> int | None:
        """The channel's descriptor, to be polled; None while there is no uploader."""
        return None if self._channel is None else self._channel.fileno()

    def hand_over(self, port: Port) -> None:
        """Lends the port's slots and the uploader's ends of its doorbells."""
        descriptors = (port.region.fd, port.pipes.ready_read, port.pipes.free_write)
        self._tell("add", descriptors, queue=port.queue_id, interface=port.label)

    def retire(self, port: Port) -> None:
        """No worker will fill this queue again: let go of it once it is empty."""
        self._tell("retire", queue=port.queue_id)

    def drain(self) -> None:
        """All workers are done: empty the slots and leave."""
        self._draining = True
        self.child.hurry()
        self._tell("drain")

    def listen(self) -> list[int]:
        """Answers what the uploader asks; returns the queues that it has emptied and let go of."""
        emptied: list[int] = []
        if self._channel is None:
            return emptied
        for message, descriptors in self._channel.receive():
            for fd in descriptors:
                os.close(fd)  # nothing that comes this way may bring one
            if message["op"] == "retired" and isinstance(message.get("queue"), int):
                emptied.append(message["queue"])
            self._hear(message)
        if self._channel.ended and self.process is not None:
            self.process.signal(signal.SIGKILL)  # it hung up: dead already, or of no use
        return emptied

    def _hear(self, message: dict[str, Any]) -> None:
        match message["op"]:
            case "guard":
                self._tell("guarded", ok=self._guard(message.get("flows")))
            case "heed":
                self._tell("heeded", **self._heed(message))
            case "orders":
                if (text := self._orders.maybe_whole(message)) is not None:
                    self._ordered = True
                    self._order(text)
            case "upload":
                self.said = Upload.maybe(message) or self.said

    @property
    def last_report(self) -> str | None:
        """The enforcer's, as it is; None before the first."""
        return self._report

    def report(self, text: str) -> None:
        """What the enforcer has to say to the vSensor."""
        self._report = text
        if self._channel is not None:
            self._check(self._channel.send_text("report", text))

    def _tell(self, op: str, descriptors: tuple[int, ...] = (), **values: Any) -> None:
        if self._channel is not None:
            self._check(self._channel.send(op, descriptors, **values))

    def _check(self, sent: bool) -> None:  # noqa: FBT001  what the line before gave
        """An uploader that does not take a message is ended: its successor is told everything again."""
        if not sent and self.process is not None and self._channel is not None and not self._channel.ended:
            self.process.give_up()

    def ended(self, exit_code: int, ports: Iterable[Port]) -> None:
        """The process is dead: its successor will look at all slots."""
        process, self.process = self.process, None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        struck = process is not None and process.struck(exit_code)
        struck = struck and self.child.may_hurry(worked=_settled(ports) != self._settled)
        self.child.ended(exit_code, time.monotonic(), struck=struck)
        for port in ports:
            ring_for_dead(port.pipes)

    @property
    def hopeless(self) -> bool:
        return self.child.failures >= _GIVE_UP_AFTER

    def end_now(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None
