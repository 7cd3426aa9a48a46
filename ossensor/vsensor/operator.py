"""The operator's door: HTTP requests that place, list, extend and clear orders. docs/protocol.md, "The operator".

Invariant: nothing is answered "done" before the audit trail and the order book hold it, in this order.

This is not the sensors' protocol: replies are not signed, the operator knows the vSensor by its certificate.
"""

from __future__ import annotations

import asyncio
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from . import orderform, web
from .antigena import Antigena
from .entrance import Entrance, answer, described
from .orderbook import Book, ConflictError, Entry, RejectedError, UnknownError
from .trail import Trail, Who

PATH: Final = "/v1/antigena/actions"


class OperatorDoor:
    """For one event loop. `acted` is told of an "order", "clear" or "extend", by whom, and of which order."""

    def __init__(
        self,
        entrance: Entrance,
        antigena: Antigena,
        trail: Trail,
        clock: Callable[[], float],
        acted: Callable[[str, Who, Entry], None],
    ) -> None:
        self._entrance = entrance
        self._antigena = antigena
        self._trail = trail
        self._clock = clock
        self._acted = acted
        self.routes = [
            Route(PATH, self.place, methods=["POST"]),
            Route(PATH, self.list, methods=["GET"]),
            Route(f"{PATH}/{{id}}", self.clear, methods=["DELETE"]),
            Route(f"{PATH}/{{id}}/extend", self.extend, methods=["POST"]),
        ]

    async def list(self, request: Request) -> Response:
        async def act(_who: Who, _given: Mapping[str, Any]) -> Response:
            book, reports, now_s = await self._antigena.current(), dict(self._antigena.reports), self._clock()
            # Megabytes, when there are many: the loop has sensors to answer.
            return await asyncio.to_thread(lambda: answer(200, orderform.listing(book, reports, now_s)))

        return await self._take(request, act, to_look=True)

    async def place(self, request: Request) -> Response:
        async def act(who: Who, given: Mapping[str, Any]) -> Response:
            now_s = self._clock()
            entry = orderform.read_order(given, int(now_s), lambda: str(uuid.uuid4()))
            return await self._change(who, "order", entry.action.id, lambda book: book.placed(entry, now_s))

        return await self._take(request, act)

    async def clear(self, request: Request) -> Response:
        async def act(who: Who, _given: Mapping[str, Any]) -> Response:
            name = request.path_params["id"]
            return await self._change(who, "clear", name, lambda book: book.cleared(name))

        return await self._take(request, act)

    async def extend(self, request: Request) -> Response:
        async def act(who: Who, given: Mapping[str, Any]) -> Response:
            name, duration_s = request.path_params["id"], orderform.read_extension(given)
            now_s = self._clock()
            return await self._change(who, "extend", name, lambda book: book.extended(name, duration_s, now_s))

        return await self._take(request, act)

    async def _take(
        self,
        request: Request,
        act: Callable[[Who, Mapping[str, Any]], Awaitable[Response]],
        *,
        to_look: bool = False,
    ) -> Response:
        """The reply: to strangers nothing but that, to the operator what came of it."""

        async def judged(who: Who, content: bytes) -> Response:
            try:
                return await act(who, orderform.read_object(content))
            except RejectedError as e:
                await self._antigena.note("refused", **who._asdict(), request=_request(request), faults=e.faults)
                return answer(_STATUS.get(type(e), 422), {"faults": e.faults})
            except (sqlite3.Error, OSError) as e:
                why = e.strerror if isinstance(e, OSError) else str(e)
                await self._antigena.note("failed", **who._asdict(), request=_request(request), why=why)
                return answer(507, {"faults": [f"the store does not take it: {why}"]})

        return await self._entrance.take(request, judged, to_look=to_look)

    async def _change(self, who: Who, what: str, name: str, edit: Callable[[Book], Book]) -> Response:
        """Raises RejectedError, sqlite3.Error or OSError: then the book is as it was."""
        await self._antigena.current()  # what has ended cannot be extended
        entries: list[Entry] = []

        def recorded(book: Book) -> Book:
            changed = edit(book)
            entry = changed.orders.get(name) or book.orders[name]  # of a cleared one: as it was
            self._trail.record(what, **who._asdict(), version=changed.version, **orderform.written(entry))
            entries.append(entry)
            return changed

        book = await self._antigena.change(recorded)
        self._acted(what, who, entries[0])
        return answer(201 if what == "order" else 200, {"version": book.version, **orderform.written(entries[0])})


_STATUS: Final[Mapping[type[RejectedError], int]] = {UnknownError: 404, ConflictError: 409}


def _request(request: Request) -> str:
    return described(web.head(request))
