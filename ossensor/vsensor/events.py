"""The live state once a second, to whoever reads it: server-sent events (WHATWG HTML, section 9.2).

Invariant: a snapshot a second is made, however many read it (and one for who joins), and none is kept for anybody: who
is slow misses some, and who has taken nothing for SLOW_S is cut off. At most READERS_MAX read at once. Nothing here
waits for a reader but the task that serves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

# A page on a wall, some people, `ossensor top`. Each costs a copy of the snapshot in TLS a second.
READERS_MAX: Final = 32
PERIOD_S: Final = 1.0
# As long as a phone may be in a tunnel; TCP's own patience is a quarter of an hour.
SLOW_S: Final = 10.0
TYPE: Final = "text/event-stream"
_HEADERS: Final = ((b"content-type", TYPE.encode()), (b"cache-control", b"no-store"))


class Events:
    """For one event loop. `snapshot` gives it, in one line of JSON.

    `cut_off` ends a connection, by the peer's address and port, without waiting for anything.
    """

    def __init__(
        self,
        snapshot: Callable[[], Awaitable[bytes]],
        cut_off: Callable[[tuple[str, int]], None],
        *,
        readers_max: int = READERS_MAX,
        slow_s: float = SLOW_S,
        period_s: float = PERIOD_S,
    ) -> None:
        self._snapshot = snapshot
        self._cut_off = cut_off
        self._readers_max = readers_max
        self._slow_s = slow_s
        self._period_s = period_s
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._latest = b""
        self._is_over = False
        self.readers = 0
        self.dropped = 0  # readers that were cut off

    def response(self, stays: Callable[[], bool]) -> Response:
        """The answer to somebody who may read: the events while `stays`, or 503 when there are enough readers."""
        return _Stream(self, stays)

    def close(self) -> None:
        """Every stream ends with its present event."""
        self._is_over = True
        self._turn()

    async def serve(self, scope: Scope, receive: Receive, send: Send, stays: Callable[[], bool]) -> None:
        """Returns when the reader has gone, was cut off, may not read any more, or all is over."""
        if scope["method"] == "HEAD":  # only the fields are wanted, and nobody will read on
            await Response(headers={"Content-Type": TYPE, "Cache-Control": "no-store"})(scope, receive, send)
            return
        if self.readers >= self._readers_max or self._is_over:
            await Response(status_code=503, headers={"Retry-After": "10"})(scope, receive, send)
            return
        self.readers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        gone, was_slow = asyncio.create_task(_gone(receive)), False
        try:
            await self._feed(send, gone, stays)
        except TimeoutError:
            was_slow = True
            self._cut_off(scope["client"])
            await gone  # uvicorn takes who returns before that for a bug
        finally:
            gone.cancel()
            self.readers -= 1
            self.dropped += was_slow
            if not self.readers and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _feed(self, send: Send, gone: asyncio.Task[None], stays: Callable[[], bool]) -> None:
        """Raises TimeoutError when the reader does not read."""

        async def say(message: dict[str, Any]) -> None:
            async with asyncio.timeout(self._slow_s):
                await send(message)

        await say({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        event = await self._event()
        while not (gone.done() or self._is_over) and stays():
            await say({"type": "http.response.body", "body": event, "more_body": True})
            news = asyncio.create_task(self._news.wait())
            await asyncio.wait({news, gone}, return_when=asyncio.FIRST_COMPLETED)
            news.cancel()
            event = self._latest
        await say({"type": "http.response.body", "body": b"", "more_body": False})

    async def _run(self) -> None:
        """The beat, for as long as anybody reads."""
        while True:
            await asyncio.sleep(self._period_s)
            self._latest = await self._event()
            self._turn()

    def _turn(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _event(self) -> bytes:
        return b"event: snapshot\ndata: " + await self._snapshot() + b"\n\n"


class _Stream(Response):
    """Starlette's own streaming response waits for a slow reader for ever."""

    def __init__(self, events: Events, stays: Callable[[], bool]) -> None:
        super().__init__()
        self._events = events
        self._stays = stays

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._events.serve(scope, receive, send, self._stays)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
