"""Who is let in to what is the operator's: two tokens, one that orders, and one that may only look.

Invariant: nothing of a request is read before its token, or the session that it opened, was good, but its head; login,
whose body is the token, reads no more than that. Whoever has none is told nothing but that, and the same whatever was
wrong with it.

Two tokens, because a monitoring system has to hold one for ever: what is taken from there must not end connections.
At paths that order, the one that may only look is as wrong as any other.

A browser shows its token once, and its session from then on (sessions.py). A session is let in even from an address
that is barred for wrong tokens: else whoever shares the address could lock the operator out, and 256 bits are not found
by trying.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from ossensor.antigena.token import Token
from ossensor.ratelimit import Bucket
from ossensor.transport.protocol import CONTROL_TYPE

from . import verify, web
from .attempts import Attempts
from .body import Body, GoneError
from .connection import body_of
from .sessions import COOKIE, CSRF_FIELD, Session, Sessions
from .trail import Who

MAX_REQUEST_BYTES: Final = 16 << 10  # an order is some hundred bytes, and 4 KiB with the longest reason
_SHOWN_CHARACTERS: Final = 256  # of a path, in the trail: ours have less than half
_LENGTHS: Final = frozenset({"content-length", "transfer-encoding"})
_READING: Final = frozenset({"GET", "HEAD"})  # what changes nothing (RFC 9110 section 9.2.1)
# Lines about wrong tokens, of all peers together: there are more addresses than disk.
_REFUSALS_PER_S: Final = 1.0
_REFUSALS_BURST: Final = 100


class Entrance:
    """For one event loop. `note` writes a line to the trail, `refused` is told of a peer and how many were left out."""

    def __init__(
        self,
        operator: Token,
        viewer: Token | None,
        clock: Callable[[], float],
        note: Callable[..., Awaitable[None]],
        refused: Callable[[str, int], None],
    ) -> None:
        self._operator = operator
        self._viewer = viewer
        self._clock = clock
        self._note = note
        self._refused = refused
        self._attempts = Attempts()
        self._refusals = Bucket(_REFUSALS_PER_S, _REFUSALS_BURST)
        self._omitted = 0
        self.sessions = Sessions()

    async def take(
        self, request: Request, act: Callable[[Who, bytes], Awaitable[Response]], *, to_look: bool = False
    ) -> Response:
        """The reply: to strangers nothing but that, to others what came of `act`, given who it is and the body.

        `to_look`: nothing is changed by it, so the token that may only look is good for it.
        """
        head = web.head(request)
        length = verify.content_bytes(head)
        if length is None and (head.method == "POST" or any(name in _LENGTHS for name, _ in head.fields)):
            return web.closing(411)
        length = length or 0
        if length > MAX_REQUEST_BYTES:
            return web.closing(413)
        body = Body(body_of(request), length)
        try:
            reply = await self._answer(request, head, body, act, to_look=to_look)
            await body.discard()  # or the reply is lost, see Collector._take
        except GoneError:
            return web.closing(408)
        return reply

    async def _answer(
        self,
        request: Request,
        head: verify.Head,
        body: Body,
        act: Callable[[Who, bytes], Awaitable[Response]],
        *,
        to_look: bool,
    ) -> Response:
        """Raises GoneError when the body does not come."""
        peer = request.client.host if request.client is not None else ""
        who = await self._admitted(head, peer, to_look=to_look)
        if isinstance(who, Response):
            return who
        if head.method == "POST" and ("content-type", CONTROL_TYPE) not in head.fields:
            return answer(415, {"faults": [f"Content-Type: {CONTROL_TYPE} only"]})
        content, _ = await body.read()
        return await act(who, bytes(content))

    async def _admitted(self, head: verify.Head, peer: str, *, to_look: bool) -> Who | Response:
        """Who it is; or what a request without the token gets."""
        shown = values(head, "authorization")
        if not shown and any(COOKIE in cookie for cookie in values(head, "cookie")):
            return self._by_session(head, peer, to_look=to_look)
        if (refusal := self.barred(peer)) is not None:
            return refusal
        return await self.by_token(head, peer, shown, to_look=to_look)

    def session(self, head: verify.Head) -> Session | None:
        """The session that a request shows, as long as it is good."""
        return self.sessions.find(values(head, "cookie"), self._clock(), active=head.method not in _READING)

    def stays(self, request: Request) -> Callable[[], bool]:
        """What tells whether who was let in with this request still would be: a reply may take for ever."""
        head = web.head(request)
        return (lambda: True) if values(head, "authorization") else (lambda: self.session(head) is not None)

    def may_order(self, who: Who) -> bool:
        return who.token == self._operator.id

    def _by_session(self, head: verify.Head, peer: str, *, to_look: bool) -> Who | Response:
        session = self.session(head)
        if session is None:  # it has ended: nobody tries tokens
            return Response(status_code=401)
        if head.method not in _READING and not session.meant(values(head, CSRF_FIELD)):
            return answer(403, {"faults": [f"{CSRF_FIELD}: not this session's"]})
        if not (to_look or session.may_order):
            return answer(403, {"faults": ["this session may only look"]})
        return Who(session.token, peer)

    def barred(self, peer: str) -> Response | None:
        """What a peer gets that has shown too many wrong tokens, whatever it shows now; None for another."""
        wait_s = self._attempts.wait_s(peer, self._clock())
        if wait_s <= 0:
            return None
        self._omitted += 1
        return Response(status_code=429, headers={"Retry-After": str(math.ceil(wait_s))})

    async def by_token(self, head: verify.Head, peer: str, shown: list[str], *, to_look: bool) -> Who | Response:
        """Who shows these values of `Authorization`, from an address that is not barred."""
        now_s = self._clock()
        for token in (self._operator, self._viewer if to_look else None):
            if token is not None and len(shown) == 1 and token.opens(shown[0].encode("latin-1")):
                return Who(token.id, peer)
        self._attempts.failed(peer, now_s)
        if self._refusals.take(now_s):
            left_out, self._omitted = self._omitted, 0
            await self._note("unauthorised", peer=peer, request=described(head), left_out=left_out)
            self._refused(peer, left_out)
        else:
            self._omitted += 1
        return Response(status_code=401, headers={"WWW-Authenticate": "Bearer"})


def values(head: verify.Head, field: str) -> list[str]:
    """All values of a field, in their order."""
    return [value for name, value in head.fields if name == field]


def described(head: verify.Head) -> str:
    """A request in a line of the trail."""
    return f"{head.method} {head.path}"[:_SHOWN_CHARACTERS]


def answer(status: int, content: object) -> Response:
    """A reply in JSON, which no cache keeps."""
    return spelled(status, json.dumps(content).encode())


def spelled(status: int, content: bytes) -> Response:
    """The same, of what is JSON already."""
    return Response(
        content + b"\n",
        status_code=status,
        headers={"Content-Type": CONTROL_TYPE, "Cache-Control": "no-store"},
    )
