"""The uploader's exchange with the vSensor about Antigena: a report there, the orders in force back.

Invariant: orders are passed on only from a reply that bears the signature of the vSensor that proved itself, over the
very request that was made; and all of them or none. What is passed on is what the vSensor said, read but not judged:
whether an action may be enforced is decided where it would be (antigena/).

An exchange that fails costs nothing but time: the report is of everything since the orders came, and the orders are all
that are in force, so the next one makes good. What is in force goes on and ends by its own expiry meanwhile.
"""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from ossensor.antigena.pace import Pace
from ossensor.logs import ANTIGENA, fields
from ossensor.transport.inquiry import Answer, Inquiry
from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import MAX_ORDERS_BYTES, TAG_ORDER, MalformedError, Outcome, antigena_path

from .asker import Asker
from .route import Route

log = logging.getLogger(__name__)

# A vSensor that does not know Antigena says so, unsigned as all that means nothing to it.
_UNKNOWN: Final = 404


@dataclass(frozen=True)
class AntigenaPlan:
    """What the sensor's owner allows."""

    mode: str  # enforce or observe
    period_s: float


class Scheduler:
    """`tell` passes orders on: Orders' JSON, with how far the vSensor's clock is ahead of the time since boot.

    `ordered`: some were passed on in an earlier life, and may be in force. Until the first, no orders are no news.
    """

    def __init__(
        self,
        route: Route,
        asker: Asker,
        sensor: str,
        plan: AntigenaPlan,
        tell: Callable[[str], bool],
        now_s: float,
        *,
        ordered: bool,
    ) -> None:
        self._route = route
        self._asker = asker
        self._path = antigena_path(sensor)
        self._tell = tell
        self._pace = Pace(plan.period_s, now_s, random.Random())  # noqa: S311  when, not what
        self._idle = Report(plan.mode)  # while there is nobody who would have anything to report
        self._report = self._idle.body
        self._trouble = ""
        self._asked = False
        self._ordered = ordered
        self._told: tuple[str, int] | None = None

    @property
    def due_s(self) -> float | None:
        """When the next exchange is to begin; None while one is under way, or nobody is there to be asked."""
        return None if self._asked or not self._route.endpoint.is_open else self._pace.due_s

    def attend(self, now_s: float) -> None:
        """Begins an exchange that is due, where there is a way to the vSensor."""
        if self.due_s is None or now_s < self.due_s:
            return
        self._asked = True
        self._pace.begun(now_s)
        body = replace(self._idle, trouble=self._trouble).body if self._trouble else self._report
        self._asker.ask(Inquiry(self._path, body, self._route.stamp(), TAG_ORDER, MAX_ORDERS_BYTES))

    def reported(self, text: str) -> None:
        """What is to be said next: a Report's JSON."""
        self._report = text.encode()

    def heard(self, answer: Answer, now_s: float) -> None:
        """Takes in what came of an exchange."""
        self._asked = False
        generation = answer.inquiry.stamp.generation
        if answer.outcome is None:
            known = answer.status != _UNKNOWN
            what = "no orders from the vSensor" if known else "the vSensor knows nothing of Antigena"
            self._route.complaints.say(what, why=answer.detail)
            if not answer.status:
                # Nobody there, which concerns batches as well. A reply that is no good concerns Antigena alone: a
                # vSensor that fails at it must not keep packets from being delivered.
                self._route.failed(generation, now_s, trouble=answer.detail)
            return
        self._route.endpoint.succeeded(generation)
        if answer.vsensor_time_s is not None:
            self._route.learn_time(answer.vsensor_time_s, answer.inquiry.stamp.created_s)
        if answer.outcome is Outcome.REGISTERED:
            self._take(answer)
        else:
            self._pace.again(now_s)

    def _take(self, answer: Answer) -> None:
        try:
            orders = Orders.parse(answer.content)
            body = orders.body
            if len(body) > MAX_ORDERS_BYTES:  # what came was not, but our spelling is the longer one
                raise MalformedError(f"{len(body)} bytes, where {MAX_ORDERS_BYTES} are the most")  # noqa: TRY301
        except (MalformedError, RecursionError) as e:
            # Those in force stay: to take broken orders for none would end them all at the whim of a bug.
            self._trouble = f"orders that cannot be read: {e}"
            self._route.complaints.say(self._trouble)
            return
        self._trouble = ""
        if (orders.book, orders.version) == self._told or not (self._ordered or orders.actions):
            return  # nothing new, or nothing yet
        ahead_s = self._route.vsensor_time_s() - time.clock_gettime(time.CLOCK_BOOTTIME)
        # Put together as text: what is nested as deeply as JSON's reader takes would be too deep by one level more.
        if self._tell(f'{{"ahead_s": {json.dumps(ahead_s)}, "orders": {body.decode()}}}'):
            self._told, self._ordered = (orders.book, orders.version), True
            log.log(ANTIGENA, "orders", extra=fields(version=orders.version, actions=len(orders.actions)))
