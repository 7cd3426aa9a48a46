"""Who the uploader says it is, to a vSensor that has proved itself.

Invariant: nothing is said before the vSensor has proved itself, and only to the certificate that it proved. Nothing of
it holds up a batch: it has its own connection, and what fails is a complaint. What was not said is said after the next
proof, a minute later.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ossensor.transport.inquiry import Answer, Inquiry
from ossensor.transport.introduction import Introduction
from ossensor.transport.protocol import Outcome, introduction_path

from .asker import Asker
from .route import Route

# Each waits for the one before it, which may take half a minute to fail.
_WAITING_MAX: Final = 2
# A vSensor that does not know introductions says so, unsigned as all that means nothing to it.
_UNKNOWN: Final = 404
# After a signed "not now": a vSensor calls stale whatever was signed in the second of its start.
_AGAIN_S: Final = 1.0


class Liaison:
    """`me` is what an introduction says that does not change."""

    def __init__(self, route: Route, asker: Asker, sensor: str, me: Introduction) -> None:
        self._route = route
        self._asker = asker
        self._sensor = sensor
        self._me = me
        self._said: tuple[list[str], str, Mapping[str, str]] = [], "", {}
        self._again_s: float | None = None

    def introduce(self, interfaces: list[str], refused: str, epochs: Mapping[str, str]) -> None:
        """Says who this is; `refused`: why the vSensor's packet filter is not in force."""
        self._said = interfaces, refused, epochs
        if self._route.endpoint.direct.holding:
            self._again_s = 0.0  # to whom, the first attempt at the direct address decides
        elif self._route.endpoint.is_open and self._asker.waiting < _WAITING_MAX:
            body = self._me.now(interfaces, refused, epochs).body
            self._asker.ask(Inquiry(introduction_path(self._sensor), body, self._route.stamp()))

    def attend(self, now_s: float) -> None:
        """Says again what is due to be."""
        if self._again_s is not None and now_s >= self._again_s:
            self._again_s = None
            self.introduce(*self._said)

    def heard(self, answer: Answer, now_s: float) -> None:
        """Takes in what came of it."""
        if answer.outcome is Outcome.STALE:
            self._again_s = now_s + _AGAIN_S
        elif answer.outcome is not Outcome.REGISTERED and answer.status != _UNKNOWN:
            self._route.complaints.say("the vSensor did not take the introduction", why=answer.detail)
