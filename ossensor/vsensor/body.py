"""The body of one request, read piece by piece within time and size."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from starlette.types import Receive

# Between two pieces, and for the whole: a peer may be slow, not stuck, and not slow for ever.
PAUSE_S: Final = 30.0
TOTAL_S: Final = 300.0


class GoneError(Exception):
    """The peer closed the connection or took too long: there is no one to answer."""


class Body:
    """`length` bytes that are still to come, says the request's head."""

    def __init__(self, receive: Receive, length: int, pause_s: float = PAUSE_S) -> None:
        self._receive = receive
        self._length = length
        self._pause_s = pause_s
        self._deadline_s = asyncio.get_running_loop().time() + TOTAL_S
        self._ended = False

    async def read(self) -> tuple[bytearray, bytes]:
        """All of it, and its SHA-256. Raises GoneError."""
        # Of the announced size at once: growing would copy, and the caller has the whole in its budget already.
        data = bytearray(self._length)
        hasher = hashlib.sha256()
        end = 0
        while not self._ended:
            piece = await self._piece()
            hasher.update(piece)  # piece by piece, while the rest is on its way; hashlib lets other threads run
            data[end : end + len(piece)] = piece
            end += len(piece)
        return data, hasher.digest()

    async def discard(self) -> None:
        """Reads and drops what has not been read. Raises GoneError."""
        while not self._ended:
            await self._piece()

    async def _piece(self) -> bytes:
        now_s = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout_at(min(now_s + self._pause_s, self._deadline_s)):
                message = await self._receive()
        except TimeoutError:
            raise GoneError from None
        if message["type"] != "http.request":
            raise GoneError
        self._ended = not message.get("more_body", False)
        return bytes(message.get("body", b""))
