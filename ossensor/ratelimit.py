"""Bounded reporting of what may happen without bound: packets dumped, peers that fail, faults that repeat. Pure."""

from __future__ import annotations

from typing import Final

# vector's instrumentation spec takes 10 s for the same purpose: an operator sees the fault and not a flood of it.
QUIET_S: Final = 10.0


class Sparse:
    """At most one report per key in `quiet_s`; the next one says how many were left out."""

    def __init__(self, quiet_s: float = QUIET_S, most_keys: int = 256) -> None:
        self._quiet_s = quiet_s
        self._most_keys = most_keys
        self._seen: dict[str, tuple[float, int]] = {}

    def due(self, key: str, now_s: float) -> int | None:
        """How many reports of this key were left out since the last, or None when this one is to be left out too."""
        last_s, omitted = self._seen.get(key, (-self._quiet_s, 0))
        if now_s - last_s < self._quiet_s:
            self._seen[key] = (last_s, omitted + 1)
            return None
        if key not in self._seen and len(self._seen) >= self._most_keys:
            self._seen.clear()  # keys come from outside; forgetting them costs a repeated line, keeping them memory
        self._seen[key] = (now_s, 0)
        return omitted


class Bucket:
    """A token bucket that counts what it refuses."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = float(burst)
        self._tokens = float(burst)
        self._last_s: float | None = None
        self.refused = 0

    def take(self, now_s: float) -> bool:
        if self._last_s is not None:
            self._tokens = min(self._burst, self._tokens + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s
        if self._tokens < 1.0:
            self.refused += 1
            return False
        self._tokens -= 1.0
        return True
