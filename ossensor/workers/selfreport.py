"""What the uploader tells the supervisor of itself, for `ossensor status`: only what has changed, and not too often."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from ossensor.control import Channel
from ossensor.status.upload import Upload

from .lines import Holdings
from .overflow import Overflow
from .route import Route

_SPACING_S: Final = 1.0


class SelfReport:
    """The main thread's; an uploader that idles says nothing, and wakes nobody."""

    def __init__(self, channel: Channel, holdings: Holdings, route: Route, overflow: Overflow | None) -> None:
        self._channel = channel
        self._holdings = holdings
        self._route = route
        self._overflow = overflow
        self._said: Upload | None = None
        self._not_before_s = 0.0

    def attend(self, now_s: float) -> None:
        """Says what is new: at once what is wrong, or right again; counts, if the last word was a while ago."""
        view = self._view()
        urgent = self._said is None or view.troubles != self._said.troubles
        if view != self._said and (urgent or now_s >= self._not_before_s):
            self._said = view
            self._not_before_s = now_s + _SPACING_S
            self._channel.send("upload", **asdict(view))

    def _view(self) -> Upload:
        totals = self._holdings.totals
        return Upload(
            reachable=self._route.endpoint.is_open,
            trouble=self._route.trouble,
            waiting_batches=len(self._holdings.window),
            batches=totals.batches,
            attempts=totals.attempts,
            wire_bytes=totals.wire_bytes,
            spool_bytes=0 if self._overflow is None else self._overflow.spool.bytes,
            spool_trouble="" if self._overflow is None else self._overflow.trouble,
        )
