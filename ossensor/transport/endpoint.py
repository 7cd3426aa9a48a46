"""Which address of the vSensor is used, and when it is tried again. Pure: a clock and events in, one wish out.

Invariant: no address is connected to before the supervisor has confirmed that every capture socket's filter excludes
it; none is OPEN before who is there has proved to be the vSensor; and after a failure nothing is sent until the
back-off is over, and then one request, not all. That holds for the direct address too (direct.py), which takes the
place of the name's, and gives it back when it fails.
"""

from __future__ import annotations

import random
from collections import deque
from enum import Enum, auto
from typing import Final

from ossensor.filters import Flow

from . import retry
from .direct import Direct
from .direct import State as DirectState

# A vSensor that was restarted, or another one behind the name, may ask for something else (protocol.Welcome), and
# connections that are replaced in silence tell nobody. A minute of an old filter does no harm, nor a small request.
_PROOF_LASTS_S: Final = 60.0
# Addresses whose connections may not be over yet; excluded from capture still.
_REMEMBERED: Final = 16


class State(Enum):
    """What the endpoint is waiting for."""

    UNRESOLVED = auto()  # wants the name looked up
    RESOLVING = auto()
    UNGUARDED = auto()  # wants the filters to exclude the addresses
    GUARDING = auto()
    UNPROVEN = auto()  # wants the vSensor to prove itself
    PROVING = auto()
    OPEN = auto()
    WAITING = auto()  # for the back-off to end


class Event(Enum):
    """What happens to it."""

    ASKED = auto()  # the wish was passed on
    RESOLVED = auto()
    GUARDED = auto()
    PROVEN = auto()
    FAILED = auto()  # this address; another is left
    EXHAUSTED = auto()  # every address failed, or the lookup or the guard did
    DUE = auto()
    AGED = auto()  # the last proof is old
    DIVERTED = auto()  # to the direct address, where a scout found the vSensor
    RETURNED = auto()  # from there to the name: it failed, or is not named any more


_TABLE: Final = {
    (State.UNRESOLVED, Event.ASKED): State.RESOLVING,
    (State.RESOLVING, Event.RESOLVED): State.UNGUARDED,
    (State.RESOLVING, Event.EXHAUSTED): State.WAITING,
    (State.UNGUARDED, Event.ASKED): State.GUARDING,
    (State.GUARDING, Event.GUARDED): State.UNPROVEN,
    (State.GUARDING, Event.EXHAUSTED): State.WAITING,
    (State.UNPROVEN, Event.ASKED): State.PROVING,
    (State.PROVING, Event.PROVEN): State.OPEN,
    (State.PROVING, Event.FAILED): State.UNPROVEN,
    (State.PROVING, Event.EXHAUSTED): State.WAITING,
    (State.OPEN, Event.AGED): State.UNPROVEN,
    (State.OPEN, Event.FAILED): State.UNPROVEN,
    (State.OPEN, Event.EXHAUSTED): State.WAITING,
    (State.OPEN, Event.DIVERTED): State.UNPROVEN,
    (State.WAITING, Event.DIVERTED): State.UNPROVEN,
    (State.PROVING, Event.RETURNED): State.UNRESOLVED,
    (State.OPEN, Event.RETURNED): State.UNRESOLVED,
    (State.WAITING, Event.DUE): State.UNRESOLVED,
}


class Endpoint:
    """The vSensor's name, port and present address: one that the name stands for, or the direct one."""

    def __init__(self, host: str, port: int, rng: random.Random) -> None:
        self.host = host
        self.port = port
        self._rng = rng
        self._state = State.UNRESOLVED
        self._addresses: list[str] = []
        self._remembered: deque[str] = deque(maxlen=_REMEMBERED)
        self._failures = 0
        self._not_before_s = 0.0
        self._proven_until_s = 0.0
        self._diverted: Flow | None = None
        self.direct = Direct(rng)
        self.generation = 0  # of the address in use: what was sent to an older one says nothing of this one

    def _step(self, event: Event) -> None:
        self._state = _TABLE[self._state, event]

    def wants(self, now_s: float) -> State:
        """UNRESOLVED, UNGUARDED and UNPROVEN ask the caller to act and then call `asked`; OPEN allows sending."""
        if self._state is State.WAITING and now_s >= self._not_before_s:
            self._step(Event.DUE)
        elif self._state is State.OPEN and now_s >= self._proven_until_s:
            self._step(Event.AGED)
        return self._state

    def asked(self) -> None:
        self._step(Event.ASKED)

    def resolved(self, addresses: list[str], now_s: float) -> None:
        """The lookup's answer; an empty one is a failure."""
        if not addresses:
            self._exhausted(now_s, 0.0)
            return
        # More than are remembered would be connected to without being excluded.
        self._addresses = addresses[:_REMEMBERED]
        for address in self._addresses:
            if address in self._remembered:
                self._remembered.remove(address)
            self._remembered.append(address)
        self._step(Event.RESOLVED)

    @property
    def flows(self) -> list[Flow]:
        """What every capture filter must exclude before anything is sent: these addresses and recent ones."""
        return [*(Flow(address, self.port) for address in self._remembered), *self.direct.flows]

    def guarded(self, now_s: float, *, ok: bool) -> None:
        if ok:
            self.generation += 1
            self._step(Event.GUARDED)
        else:
            self._exhausted(now_s, 0.0)

    def proven(self, now_s: float) -> None:
        """The key was proven at the present address. What failed before is not forgotten for that: see `succeeded`."""
        self._proven_until_s = now_s + _PROOF_LASTS_S
        self._step(Event.PROVEN)

    @property
    def where(self) -> Flow:
        """The address in use, and its port."""
        return self._diverted or Flow(self._addresses[0], self.port)

    @property
    def address(self) -> str:
        return self.where.address

    @property
    def diverted(self) -> bool:
        """True while the address in use is the direct one."""
        return self._diverted is not None

    def told(self, direct: str, now_s: float) -> str:
        """Takes in what direct address the present one named when it was proven; why that is refused, if it is."""
        if self._diverted is None:
            return self.direct.named(direct, self.where)
        if self.direct.confirms(direct):
            return ""
        # Also one that is taken back, by a reply without one: the name says whether it is, and may not know it yet.
        self.direct.failed(now_s)
        self._return()
        return "it comes from a direct address, and is another one" if direct else ""

    def maybe_divert(self, now_s: float) -> bool:
        """Goes to the direct address if a scout has found the vSensor there, and no answer is waited for here.

        What is on its way to the address before it still comes, and is settled as any.
        """
        if self.direct.wants(now_s) is not DirectState.READY or self._state not in {State.OPEN, State.WAITING}:
            return False
        self._diverted = self.direct.take(now_s)
        self.generation += 1
        self._step(Event.DIVERTED)
        return True

    def _return(self) -> None:
        """To the name, which may stand for other addresses by now."""
        self._diverted = None
        self.generation += 1
        self._step(Event.RETURNED)

    def concurrency(self, most: int) -> int:
        """Requests that may be under way: one after a failure, until it is answered, then all."""
        if not self.is_open:
            return 0
        return 1 if self._failures else most

    def succeeded(self, generation: int) -> None:
        """Something signed by the vSensor came back from the address of that generation."""
        if generation == self.generation:
            self._failures = 0

    def failed(self, generation: int, now_s: float, retry_after_s: float = 0.0) -> None:
        """A request to the address of that generation got no answer that counts; stale news is ignored."""
        if generation != self.generation or self._state not in {State.PROVING, State.OPEN}:
            return
        if self._diverted is not None:
            self.direct.failed(now_s, retry_after_s)
            self._failures = max(self._failures, 1)
            self._return()
            return
        self.generation += 1
        if len(self._addresses) > 1:
            self._addresses.pop(0)
            self._failures = max(self._failures, 1)
            self._step(Event.FAILED)
        else:
            self._exhausted(now_s, retry_after_s)

    def _exhausted(self, now_s: float, retry_after_s: float) -> None:
        self._not_before_s = now_s + retry.elsewhere_s(self._failures, retry_after_s, self._rng)
        self._failures += 1
        self._step(Event.EXHAUSTED)

    def hurry(self) -> None:
        """The drain has begun: do not sit out a back-off that may be longer than what is left."""
        self._not_before_s = 0.0
        self.direct.hurry()

    def due_s(self) -> float | None:
        return self._not_before_s if self._state is State.WAITING else None

    @property
    def is_open(self) -> bool:
        """Whether anything may be said here now: whom to, the first attempt at a direct address decides."""
        return self._state is State.OPEN and not self.direct.holding

    @property
    def reachable(self) -> bool:
        return self._state is State.OPEN and not self._failures
