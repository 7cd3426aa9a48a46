"""The body of one request, read within time and size, into memory that was asked for before.

Invariant: of a body whose reader has not asked for it, no more is in memory than what came with its head and what TLS
holds back (connection.py).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Final, Protocol

# Between two pieces, and for the whole: a peer may be slow, not stuck, and not slow for ever.
PAUSE_S: Final = 30.0
TOTAL_S: Final = 300.0
# Where all that is thrown away goes, and nobody reads: one for each request would be 256 MiB for as many strangers
# as there may be connections, outside of any budget.
_THROWN: Final = memoryview(bytearray(64 << 10))


class GoneError(Exception):
    """The peer closed the connection or took too long: there is no one to answer."""


class Source(Protocol):
    """Where a body comes from."""

    def fill(self, view: memoryview, took: Callable[[int], None], /) -> asyncio.Future[bool]:
        """True once the view is full, False when no more will come; `took` is told how many bytes came, in order."""

    def stop(self) -> None:
        """Nothing is written to the view any more, and nobody told."""


class Body:
    """`length` bytes that are still to come, says the request's head. Without a source there are none."""

    def __init__(self, source: Source | None, length: int, pause_s: float = PAUSE_S) -> None:
        self._source = source
        self._left = length
        self._pause_s = pause_s
        self._clock = asyncio.get_running_loop().time
        self._heard_s = self._clock()
        self._deadline_s = self._heard_s + TOTAL_S

    async def read(self) -> tuple[bytearray, bytes]:
        """All of it, and its SHA-256. Raises GoneError."""
        # Of the announced size at once: growing would copy, and the caller has the whole in its budget already.
        data = bytearray(self._left)
        hasher = hashlib.sha256()
        view, at = memoryview(data), 0

        def took(count: int) -> None:
            # Piece by piece: it is in the processor's cache now, and the rest is on its way meanwhile.
            nonlocal at
            hasher.update(view[at : at + count])
            at += count

        await self._fill(view, took)
        return data, hasher.digest()

    async def discard(self) -> None:
        """Reads and drops what has not been read. Raises GoneError."""
        while self._left:
            await self._fill(_THROWN[: self._left], lambda _: None)

    async def _fill(self, view: memoryview, took: Callable[[int], None]) -> None:
        if not view:
            return
        if self._source is None:
            raise GoneError

        def heard(count: int) -> None:
            self._left -= count
            self._heard_s = self._clock()
            took(count)

        filled = self._source.fill(view, heard)
        try:
            # One timer for many pieces: at its end it is seen whether any has come meanwhile.
            while not filled.done():
                patience_s = min(self._heard_s + self._pause_s, self._deadline_s) - self._clock()
                if patience_s <= 0:
                    raise GoneError
                await asyncio.wait({filled}, timeout=patience_s)
        finally:
            self._source.stop()
        if not filled.result():
            raise GoneError
