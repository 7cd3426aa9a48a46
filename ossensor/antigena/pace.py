"""When the next exchange about Antigena is due. Pure: clock readings and a random source come in.

A fleet that was started by one deployment must not ask in step: each sensor's first exchange is at a moment of its own,
and each later one a little sooner than the period says, by a share that is drawn anew. Never later: what an operator
orders arrives within one period.
"""

from __future__ import annotations

import random
from typing import Final

_SOONER_AT_MOST: Final = 0.2
_FIRST_WITHIN_S: Final = 1.0
# After a signed "not now": a vSensor calls stale whatever was signed in the second of its start.
_AGAIN_S: Final = 1.0


class Pace:
    """One sensor's. `due_s` is a reading of the clock that it was given readings of."""

    def __init__(self, period_s: float, now_s: float, rng: random.Random) -> None:
        self._period_s = period_s
        self._rng = rng
        self.due_s = now_s + rng.random() * min(_FIRST_WITHIN_S, period_s)

    def begun(self, now_s: float) -> None:
        """An exchange began at this moment, however it ends."""
        self.due_s = now_s + self._period_s * (1 - _SOONER_AT_MOST * self._rng.random())

    def again(self, now_s: float) -> None:
        """It came to nothing that a moment's patience does not mend."""
        self.due_s = min(self.due_s, now_s + _AGAIN_S)
