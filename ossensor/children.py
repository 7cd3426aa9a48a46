"""The life of a supervised child, as a table; the record that the supervisor keeps of one. Pure.

Invariant: a child's state changes by `Child.step` only, and a pair that the table does not hold raises: the supervisor
never guesses what an event means to a child in a state where it cannot happen.
"""

from __future__ import annotations

import signal
from enum import Enum, auto
from typing import Final

from .backoff import Backoff
from .errors import Exit

# A fork and what follows it cost some ten milliseconds of processor time.
RESTART_SPACING_S: Final = 0.05
_KILLS_BEFORE_WORK: Final = 20
HEALTHY_S: Final = 60.0


class State(Enum):
    """Where a child is in its life."""

    IDLE = auto()  # not started yet
    RUNNING = auto()
    BACKOFF = auto()  # dead; to be started again when its time comes
    DRAINING = auto()  # asked to finish
    STOPPED = auto()  # finished, or ended while asked to
    FAILED = auto()  # ended with a code that says that starting it again cannot help


class Event(Enum):
    """What happens to a child."""

    START = auto()
    DIED = auto()  # by a signal, by a bug, or unasked
    HOPELESS = auto()  # exit 77 or 78
    STOP = auto()
    STRUCK = auto()  # killed by somebody else while it finished, and what it was at can be gone on with


TABLE: Final = {
    (State.IDLE, Event.START): State.RUNNING,
    (State.IDLE, Event.STOP): State.STOPPED,
    (State.RUNNING, Event.DIED): State.BACKOFF,
    (State.RUNNING, Event.HOPELESS): State.FAILED,
    (State.RUNNING, Event.STOP): State.DRAINING,
    (State.BACKOFF, Event.START): State.RUNNING,
    (State.BACKOFF, Event.STOP): State.STOPPED,
    (State.DRAINING, Event.DIED): State.STOPPED,
    (State.DRAINING, Event.HOPELESS): State.STOPPED,
    (State.DRAINING, Event.STOP): State.DRAINING,
    (State.DRAINING, Event.STRUCK): State.BACKOFF,
    (State.STOPPED, Event.STOP): State.STOPPED,
    (State.FAILED, Event.STOP): State.STOPPED,
}


def verdict(exit_code: int) -> Event:
    """What an exit code (negative: a signal) says about starting the child again."""
    return Event.HOPELESS if exit_code in {Exit.CONFIGURATION, Exit.PRIVILEGE} else Event.DIED


_MEANINGS: Final[dict[int, str]] = {signal.SIGKILL: " (out of memory?)", signal.SIGSYS: " (a forbidden system call)"}


def describe(exit_code: int) -> str:
    """An exit in words. A SIGKILL that nobody sent is most often the kernel short of memory."""
    if exit_code >= 0:
        return f"exit {exit_code}"
    return f"signal {-exit_code}" + _MEANINGS.get(-exit_code, "")


class Child:
    """One child across its restarts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state = State.IDLE
        self.failures = 0  # in a row, without a time of health between
        self.restarts = 0
        self.trouble = ""  # how it ended last, unless it was asked to
        self.due_s = 0.0
        self._started_s = 0.0
        self._backoff = Backoff()
        self._killed_before_work = 0

    def step(self, event: Event) -> State:
        self.state = TABLE[self.state, event]
        return self.state

    def started(self, now_s: float) -> None:
        self.step(Event.START)
        self._started_s = now_s

    def ended(self, exit_code: int, now_s: float, *, struck: bool = False) -> State:
        """Takes in an exit, and sets the time of the next start where there is to be one.

        `struck`: it was at work, and somebody killed it. Nothing says that its successor would fail, so that one
        starts at once, but for a short rest that keeps the cost of dying without end below a fork's share of a core.
        """
        state = self.step(verdict(exit_code))
        if state is not State.STOPPED:
            self.trouble = describe(exit_code)
            self.restarts += 1
        if now_s - self._started_s >= HEALTHY_S:  # whoever ended it: what was before is forgotten
            self.failures = 0
            self._backoff.forget()
        if state is State.BACKOFF and struck:
            self.due_s = max(now_s, self._started_s + RESTART_SPACING_S)
        elif state is State.BACKOFF:
            self.failures += 1
            self.due_s = now_s + self._backoff.failed(now_s, self._started_s)
        return state

    def struck_in_drain(self) -> None:
        """There is to be one more, at once, which is asked to finish in its turn."""
        self.step(Event.STRUCK)
        self.restarts += 1
        self.hurry()

    def may_hurry(self, *, worked: bool) -> bool:
        """Whether the successor of one that was killed starts at once: not for ever, if none comes as far as working.

        Memory that runs short kills, too, and each fork makes it shorter.
        """
        self._killed_before_work = 0 if worked else self._killed_before_work + 1
        return self._killed_before_work < _KILLS_BEFORE_WORK

    def could_not_start(self, now_s: float, why: str = "") -> None:
        """The attempt failed before there was a process; it counts like a death."""
        self.started(now_s)
        self.ended(Exit.GAVE_UP, now_s)
        self.trouble = why or self.trouble

    def failing(self, now_s: float) -> int:
        """Failures in a row up to now: none once it has been healthy for a while."""
        return 0 if self.alive and now_s - self._started_s >= HEALTHY_S else self.failures

    def hurry(self) -> None:
        """Ends the back-off: a drain waits for nothing."""
        self.due_s = 0.0

    def due(self, now_s: float) -> bool:
        return self.state is State.IDLE or (self.state is State.BACKOFF and now_s >= self.due_s)

    @property
    def alive(self) -> bool:
        return self.state in {State.RUNNING, State.DRAINING}
