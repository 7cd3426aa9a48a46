"""How long to wait before a failed thing is started again. Pure: clock readings and a random source come in.

Without it, a child that dies at once is restarted a thousand times a second and takes the host's CPU with it.
"""

from __future__ import annotations

import random


class Backoff:
    """Doubling delays with jitter, forgotten after a time of health."""

    def __init__(
        self, base_s: float = 0.1, cap_s: float = 30.0, healthy_s: float = 60.0, rng: random.Random | None = None
    ) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._healthy_s = healthy_s
        # SystemRandom where no source is given: many sensors started by one deployment must not share a seed.
        self._rng = rng or random.SystemRandom()
        self._next_s = base_s

    def forget(self) -> None:
        """What was started has been healthy; the next delay is the first again."""
        self._next_s = self._base_s

    def failed(self, now: float, started: float) -> float:
        """The seconds to wait after a failure at `now` of what was started at `started` (one monotonic clock).

        A quarter of the delay is drawn: full jitter would sometimes give a delay near zero, which for a local restart
        loop is no delay at all. With a quarter, what dies at once starts ten times in its first minute, at most.
        """
        if now - started >= self._healthy_s:
            self.forget()
        delay_s = self._next_s
        self._next_s = min(self._cap_s, delay_s * 2)
        return delay_s * (0.75 + self._rng.random() / 4)
