"""The direct address of a vSensor behind a load balancer: whether it may be used, and when it is tried again. Pure.

Invariant: nobody connects to a direct address, not even to ask who is there, before the supervisor has confirmed that
every capture filter excludes it; no batch goes there before a scout, beside the deliveries, has found somebody with the
key; and one that failed is left alone until its back-off is over. A scout's answer opens nothing: the endpoint
(endpoint.py) has who is there prove himself once more before it sends, so that there is one way to be OPEN.

Why scouts: an address that swallows everything takes five seconds to find out. The first time the deliveries wait for
that (`holding`), because what went by the balancer meanwhile would be spread over whoever is behind it; later not.
"""

from __future__ import annotations

import random
from collections import deque
from enum import Enum, auto
from typing import Final

from ossensor.filters import Flow

from . import retry
from .hostport import direct_flow

# As long as a proof lasts: an address that served for a minute has made up for its failures.
_HEALTHY_S: Final = 60.0
# A vSensor that moves names one address after the other; connections to earlier ones may not be over yet.
_REMEMBERED: Final = 4


class State(Enum):
    """What the direct address is waiting for."""

    NONE = auto()  # to be named
    UNGUARDED = auto()  # wants the filters to exclude it
    GUARDING = auto()
    UNPROVEN = auto()  # wants a scout
    PROVING = auto()
    READY = auto()  # wants the endpoint to take it
    USED = auto()
    WAITING = auto()  # for its back-off to end


class Event(Enum):
    """What happens to it."""

    NAMED = auto()
    ASKED = auto()  # the wish was passed on
    GUARDED = auto()
    PROVEN = auto()
    TAKEN = auto()
    FAILED = auto()
    DUE = auto()
    FORGOTTEN = auto()  # another one, or none, is named now


_TABLE: Final = {
    (State.NONE, Event.NAMED): State.UNGUARDED,
    (State.UNGUARDED, Event.ASKED): State.GUARDING,
    (State.GUARDING, Event.GUARDED): State.UNPROVEN,
    (State.GUARDING, Event.FAILED): State.WAITING,
    (State.UNPROVEN, Event.ASKED): State.PROVING,
    (State.PROVING, Event.PROVEN): State.READY,
    (State.PROVING, Event.FAILED): State.WAITING,
    (State.READY, Event.TAKEN): State.USED,
    (State.USED, Event.FAILED): State.WAITING,
    (State.WAITING, Event.DUE): State.UNGUARDED,
    **{(state, Event.FORGOTTEN): State.NONE for state in State},
}
_UNDER_WAY: Final = {State.UNGUARDED, State.GUARDING, State.UNPROVEN, State.PROVING, State.READY}


class Direct:
    """The address that was named last, if any."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._state = State.NONE
        self._flow: Flow | None = None
        self._guarded: deque[Flow] = deque(maxlen=_REMEMBERED)
        self._failures = 0
        self._not_before_s = 0.0
        self._taken_s = 0.0
        self._hurried = False
        self.generation = 0  # of what is asked: an answer to an earlier question says nothing of this one
        self.refused = 0  # addresses named that cannot be

    def _step(self, event: Event) -> None:
        self._state = _TABLE[self._state, event]

    # -- what the vSensor says ------------------------------------------------------------------------------------

    def named(self, text: str, by: Flow) -> str:
        """Takes in what a signed reply from `by`, an address of the name, has; "" is none. Why it cannot be, if so."""
        try:
            flow = direct_flow(text) if text else None
        except ValueError as e:
            self.refused += 1
            self.forget()
            return str(e)
        if flow is None or flow == by:
            self.forget()
        elif flow != self._flow and self._state is State.WAITING:
            self._flow = flow  # two that fail by turns are not worth more attempts than one
        elif flow != self._flow:
            self.forget()
            self._flow = flow
            self._step(Event.NAMED)
        return ""

    def confirms(self, text: str) -> bool:
        """Whether a signed reply from the direct address names it, too. One that names another counts as refused.

        An address that sends on to another one could send round in a circle; only the name is asked for the way.
        """
        try:
            if text and direct_flow(text) == self._flow:
                return True
        except ValueError:
            pass
        self.refused += 1 if text else 0
        return False

    def forget(self) -> None:
        """There is none any more."""
        self.generation += 1
        self._flow = None
        self._failures = 0
        self._step(Event.FORGOTTEN)

    # -- what is to be done ---------------------------------------------------------------------------------------

    def wants(self, now_s: float) -> State:
        """UNGUARDED and UNPROVEN ask the caller to act and then call `asked`; READY may be taken."""
        if self._state is State.WAITING and now_s >= self._not_before_s:
            self._step(Event.DUE)
        return self._state

    def asked(self) -> int:
        """The wish was passed on; the generation that its answer must bear."""
        self.generation += 1
        self._step(Event.ASKED)
        return self.generation

    @property
    def flow(self) -> Flow:
        if self._flow is None:
            raise AssertionError("no direct address is named")
        return self._flow

    @property
    def flows(self) -> list[Flow]:
        """What the filters exclude for its sake: confirmed ones only, or one that cannot be would end the upload."""
        return list(self._guarded)

    def guarded(self, generation: int, now_s: float, *, ok: bool) -> None:
        """The supervisor's answer. Whether it was understood or not, the filter may name the address from now on."""
        if generation != self.generation:
            return
        if not ok:
            self.failed(now_s)
            return
        if self.flow in self._guarded:
            self._guarded.remove(self.flow)
        self._guarded.append(self.flow)
        self._step(Event.GUARDED)

    def scouted(self, generation: int, now_s: float, *, ok: bool) -> None:
        """The scout is back."""
        if generation != self.generation:
            return
        if ok:
            self._step(Event.PROVEN)
        else:
            self.failed(now_s)

    def take(self, now_s: float) -> Flow:
        """The endpoint goes there now."""
        self._taken_s = now_s
        self._step(Event.TAKEN)
        return self.flow

    def failed(self, now_s: float, retry_after_s: float = 0.0) -> None:
        """It came to nothing: there is a wait before the next attempt."""
        if self._state is State.USED and now_s - self._taken_s >= _HEALTHY_S:
            self._failures = 0
        self._not_before_s = now_s + retry.direct_s(self._failures, retry_after_s, self._rng)
        self._failures += 1
        self._step(Event.FAILED)

    @property
    def holding(self) -> bool:
        """True while the deliveries should wait for what the first attempt comes to."""
        return self._state in _UNDER_WAY and not self._failures and not self._hurried

    def hurry(self) -> None:
        """The drain has begun: nothing waits for an attempt that may take longer than what is left."""
        self._hurried = True
