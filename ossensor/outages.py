"""How long an interface was not captured: an outage is reported as time, when it is over. Pure."""

from __future__ import annotations

from typing import Final

# Names that come once and never again (a container's veth) must not pile up; the oldest is forgotten.
_MOST: Final = 4096


class Outages:
    """By name: a name's next interface ends the outage of the one before."""

    def __init__(self) -> None:
        self._since_s: dict[str, float] = {}

    def begin(self, name: str, now_s: float) -> None:
        """The name is not captured any more; if it was not already, nothing changes."""
        self._since_s.setdefault(name, now_s)
        if len(self._since_s) > _MOST:
            del self._since_s[next(iter(self._since_s))]

    def maybe_end_s(self, name: str, now_s: float) -> float | None:
        """The outage's length, now that the name is captured again; None when there was none."""
        since_s = self._since_s.pop(name, None)
        return None if since_s is None else now_s - since_s
