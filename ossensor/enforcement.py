"""Antigena's enforcer as the supervisor sees it: one child, which there is from the first order on.

Invariant: an enforcer, first or successor, knows the interfaces that are captured, the addresses of the sensor's own
upload, and the orders that came last; and it learns what is to be spared before it learns what is to be ended.

A process of its own and not part of each capture worker, for three reasons. It holds raw sockets, which can send any
packet under any address, and a capture worker, which has C code read what strangers wrote, must not. A connection is
ended within milliseconds whatever the load of the capture. And a sensor that has no orders pays nothing for it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from collections.abc import Callable, Iterable
from typing import Any

from .capture.cooked import Sockets, open_sockets
from .children import Child, Event, State, describe
from .complaints import Complaints
from .confine.policy import Role
from .control import Channel, Parts
from .errors import Exit
from .filters import Flow
from .logs import fields
from .spawn import Forge, Process
from .workers.child import Heartbeat, Signals
from .workers.enforcer import Enforcer, Plan

log = logging.getLogger(__name__)


class Enforcement:
    """`reported` is given what the enforcer has to report, for the uploader to send."""

    def __init__(self, plan: Plan, reported: Callable[[str], None]) -> None:
        self._plan = plan
        self._reported = reported
        self.child = Child("oss-antigena")
        self.process: Process | None = None
        self._heartbeat = Heartbeat()
        self._channel: Channel | None = None
        self._reports = Parts()
        self._orders: str | None = None
        self._surroundings: dict[str, Any] | None = None
        self._complaints = Complaints(log)

    def due(self, now_s: float) -> bool:
        """Whether an enforcer is to be started now: one that would have something to do, and knows what to spare."""
        return self._orders is not None and self._surroundings is not None and self.child.due(now_s)

    def order(self, text: str) -> None:
        """Takes orders, which the enforcer judges: this process parses nothing of a stranger's."""
        self._orders = text
        self._tell_orders()

    def attend(self, interfaces: Iterable[str], flows: Iterable[Flow]) -> None:
        """Passes on what has changed around the enforcer."""
        surroundings = {"interfaces": sorted(interfaces), "flows": sorted(flows)}
        if surroundings != self._surroundings:
            self._surroundings = surroundings
            self._tell_surroundings()

    def start(self, forge: Forge) -> None:
        """Forks an enforcer. OSError when there is none to be had, which backs off."""
        sockets: Sockets | None = None
        channels: tuple[Channel, Channel] | None = None
        try:
            sockets = open_sockets()
            channels = ours, theirs = Channel.pair()
            plan, heartbeat, lent = self._plan, self._heartbeat, sockets

            def work(signals: Signals) -> Exit:
                return Enforcer(plan, theirs, lent, heartbeat).run(signals)

            self.process = forge.spawn(
                self.child.name, Role.ENFORCE, heartbeat, (theirs.fileno(), *sockets.descriptors), work
            )
        except OSError:
            if channels is not None:
                channels[0].close()
            self.child.could_not_start(time.monotonic())
            raise
        finally:
            if sockets is not None:
                sockets.close()
            if channels is not None:
                channels[1].close()
        self.child.started(time.monotonic())
        self._channel = ours
        self._tell_surroundings()
        self._tell_orders()

    def fileno(self) -> int | None:
        """The channel's descriptor, to be polled; None while there is no enforcer."""
        return None if self._channel is None else self._channel.fileno()

    def listen(self) -> None:
        if self._channel is None:
            return
        for message, descriptors in self._channel.receive():
            for fd in descriptors:
                os.close(fd)  # nothing that comes this way may bring one
            if message["op"] == "report" and (text := self._reports.maybe_whole(message)) is not None:
                self._reported(text)
        if self._channel.ended and self.process is not None:
            self.process.signal(signal.SIGKILL)  # it hung up: dead already, or of no use

    def _tell_surroundings(self) -> None:
        if self._channel is not None and self._surroundings is not None:
            self._check(self._channel.send_text("surroundings", json.dumps(self._surroundings)))

    def _tell_orders(self) -> None:
        if self._channel is not None and self._orders is not None:
            self._check(self._channel.send_text("orders", self._orders))

    def _check(self, sent: bool) -> None:  # noqa: FBT001  what the line before gave
        """An enforcer that does not take a message is ended: its successor is told everything again."""
        if not sent and self.process is not None and self._channel is not None and not self._channel.ended:
            self.process.give_up()

    def ended(self, exit_code: int) -> None:
        """The process is dead. Nothing is given up for that: the sensor captures, and the next enforcer is tried."""
        process, self.process = self.process, None
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        asked = self.child.state is State.DRAINING
        struck = process is not None and process.struck(exit_code)
        struck = struck and self.child.may_hurry(worked=self._heartbeat.maybe_reading_s is not None)
        self.child.ended(exit_code, time.monotonic(), struck=struck)
        if not asked:
            log.warning("enforcer died", extra=fields(how=describe(exit_code), failures=self.child.failures))

    def stop(self) -> None:
        """Ends it. What it has ended stays ended; what is in force is so no more."""
        self.child.step(Event.STOP)
        if self.process is not None:
            self.process.signal(signal.SIGTERM)

    def end_now(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process = None
