"""The operator's door: HTTP requests that place, list, extend and clear orders. docs/protocol.md, "The operator".

Invariant: nothing of a request is read before its token was good, but its head; and nothing is answered "done" before
the audit trail and the order book hold it, in this order.

This is not the sensors' protocol: replies are not signed, the operator knows the vSensor by its certificate.
"""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossensor.antigena.token import Token
from ossensor.ratelimit import Bucket
from ossensor.transport.protocol import CONTROL_TYPE

from . import orderform, verify, web
from .antigena import Antigena
from .attempts import Attempts
from .body import Body, GoneError
from .orderbook import Book, ConflictError, Entry, RejectedError, UnknownError
from .trail import Trail, Who

PATH: Final = "/v1/antigena/actions"
MAX_REQUEST_BYTES: Final = 16 << 10  # an order is some hundred bytes, and 4 KiB with the longest reason
_SHOWN_CHARACTERS: Final = 256  # of a path, in the trail: ours have less than half
_LENGTHS: Final = frozenset({"content-length", "transfer-encoding"})
# Lines about wrong tokens, of all peers together: there are more addresses than disk.
_REFUSALS_PER_S: Final = 1.0
_REFUSALS_BURST: Final = 100


class Teller(NamedTuple):
    """Where the operator's doings are told besides the trail."""

    acted: Callable[[str, Who, Entry], None]  # "order", "clear" or "extend"; by whom; of which order
    refused: Callable[[str, int], None]  # a wrong token of this peer; how many were left out since the last


class OperatorDoor:
    """For one event loop."""

    def __init__(
        self, token: Token, antigena: Antigena, trail: Trail, clock: Callable[[], float], teller: Teller
    ) -> None:
        self._token = token
        self._antigena = antigena
        self._trail = trail
        self._clock = clock
        self._teller = teller
        self._attempts = Attempts()
        self._refusals = Bucket(_REFUSALS_PER_S, _REFUSALS_BURST)
        self._omitted = 0
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
            return await asyncio.to_thread(lambda: _json(200, orderform.listing(book, reports, now_s)))

        return await self._take(request, act)

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

    async def _take(self, request: Request, act: Callable[[Who, Mapping[str, Any]], Awaitable[Response]]) -> Response:
        """The reply: to strangers nothing but that, to the operator what came of it."""
        head = web.head(request)
        length = verify.content_bytes(head)
        if length is None and (head.method == "POST" or any(name in _LENGTHS for name, _ in head.fields)):
            return web.closing(411)
        length = length or 0
        if length > MAX_REQUEST_BYTES:
            return web.closing(413)
        body = Body(request.receive, length)
        try:
            reply = await self._answer(request, head, body, act)
            await body.discard()  # or the reply is lost, see Collector._take
        except GoneError:
            return web.closing(408)
        return reply

    async def _answer(
        self,
        request: Request,
        head: verify.Head,
        body: Body,
        act: Callable[[Who, Mapping[str, Any]], Awaitable[Response]],
    ) -> Response:
        """Raises GoneError when the body does not come."""
        peer = request.client.host if request.client is not None else ""
        if (refusal := await self._refusal(head, peer)) is not None:
            return refusal
        who = Who(self._token.id, peer)
        if head.method == "POST" and ("content-type", CONTROL_TYPE) not in head.fields:
            return _json(415, {"faults": [f"Content-Type: {CONTROL_TYPE} only"]})
        content, _ = await body.read()
        try:
            return await act(who, orderform.read_object(bytes(content)))
        except RejectedError as e:
            await self._antigena.note("refused", **who._asdict(), request=_request(head), faults=e.faults)
            return _json(_STATUS.get(type(e), 422), {"faults": e.faults})
        except (sqlite3.Error, OSError) as e:
            why = e.strerror if isinstance(e, OSError) else str(e)
            await self._antigena.note("failed", **who._asdict(), request=_request(head), why=why)
            return _json(507, {"faults": [f"the store does not take it: {why}"]})

    async def _refusal(self, head: verify.Head, peer: str) -> Response | None:
        """What a request without the token gets; None for one that has it."""
        now_s = self._clock()
        wait_s = self._attempts.wait_s(peer, now_s)
        shown = [value for name, value in head.fields if name == "authorization"]
        if wait_s <= 0 and len(shown) == 1 and self._token.opens(shown[0].encode("latin-1")):
            return None
        if wait_s > 0:
            self._omitted += 1
            return Response(status_code=429, headers={"Retry-After": str(math.ceil(wait_s))})
        self._attempts.failed(peer, now_s)
        if self._refusals.take(now_s):
            left_out, self._omitted = self._omitted, 0
            await self._antigena.note("unauthorised", peer=peer, request=_request(head), left_out=left_out)
            self._teller.refused(peer, left_out)
        else:
            self._omitted += 1
        return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})

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
        self._teller.acted(what, who, entries[0])
        return _json(201 if what == "order" else 200, {"version": book.version, **orderform.written(entries[0])})


_STATUS: Final[Mapping[type[RejectedError], int]] = {UnknownError: 404, ConflictError: 409}


def _request(head: verify.Head) -> str:
    return f"{head.method} {head.path}"[:_SHOWN_CHARACTERS]


def _json(status: int, content: object) -> Response:
    return Response(
        json.dumps(content).encode() + b"\n",
        status_code=status,
        headers={"Content-Type": CONTROL_TYPE, "Cache-Control": "no-store"},
    )
