"""How fast counters grow, over the last ten seconds. Pure."""

from __future__ import annotations

from collections import deque
from typing import Final

# Long enough that a batch a second does not look like bursts, short enough that a flood shows while one looks.
_SPAN_S: Final = 10.0
_SPACING_S: Final = 0.9  # a drain's loop ticks thirty times a second


class Rates:
    """Samples of counters that never fall; all samples have the same counters."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, tuple[int, ...]]] = deque()

    def add(self, now_s: float, *counts: int) -> None:
        if self._samples and now_s - self._samples[-1][0] < _SPACING_S:
            return
        self._samples.append((now_s, counts))
        while now_s - self._samples[0][0] > _SPAN_S:
            self._samples.popleft()

    def per_s(self) -> tuple[float, ...]:
        """Each counter's growth a second between the oldest and the newest sample; empty before there are two."""
        if len(self._samples) < 2:
            return ()
        (first_s, before), (last_s, now) = self._samples[0], self._samples[-1]
        return tuple((b - a) / (last_s - first_s) for a, b in zip(before, now, strict=True))
