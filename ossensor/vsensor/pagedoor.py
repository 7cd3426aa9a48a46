"""The page at `/`: its files, and the login that its sessions begin with. DESIGN.md, "The page".

Invariant: a session is opened for nothing but a good token, and closed before another is opened in the same browser.
What is shown and ordered goes by the operator's paths, as with a token (entrance.py).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ossensor.transport.protocol import CONTROL_TYPE

from . import orderform, pagefiles, verify, web
from .body import Body, GoneError
from .connection import body_of
from .entrance import Entrance, answer, values
from .orderbook import RejectedError
from .sessions import Session, forget_cookie, set_cookie
from .trail import Who

_LOGIN_BYTES_MAX: Final = 2048  # a token has 1,024 characters at most (antigena/token.py)


class PageDoor:
    """For one event loop. `note` writes a line to the trail."""

    def __init__(self, entrance: Entrance, clock: Callable[[], float], note: Callable[..., Awaitable[None]]) -> None:
        self._entrance = entrance
        self._clock = clock
        self._note = note
        self._files = pagefiles.load()
        self.routes = [
            Route("/", self.index, methods=["GET"]),
            Route("/page/login", self.log_in, methods=["POST"]),
            Route("/page/session", self.tell, methods=["GET"]),
            Route("/page/session", self.renew, methods=["POST"]),
            Route("/page/session", self.log_out, methods=["DELETE"]),
            Route("/page/{name}", self.file, methods=["GET"]),
        ]

    async def index(self, request: Request) -> Response:
        return self._file(request, pagefiles.INDEX)

    async def file(self, request: Request) -> Response:
        return self._file(request, request.path_params["name"])

    def _file(self, request: Request, name: str) -> Response:
        found = self._files.get(name)
        if found is None:
            return web.closing(404)
        if request.headers.get("if-none-match") == found.tag:
            return Response(status_code=304, headers=dict(found.headers))
        return Response(found.content, headers=dict(found.headers))

    async def log_in(self, request: Request) -> Response:
        """A session for a token; whoever shows a wrong one is counted with those who show it as `Authorization`."""
        head = web.head(request)
        peer = request.client.host if request.client is not None else ""
        length = verify.content_bytes(head)
        if length is None or length > _LOGIN_BYTES_MAX:
            return web.closing(411 if length is None else 413)
        body = Body(body_of(request), length)
        try:
            reply = await self._log_in(head, peer, body)
            await body.discard()
        except GoneError:
            return web.closing(408)
        return reply

    async def _log_in(self, head: verify.Head, peer: str, body: Body) -> Response:
        """Raises GoneError when the body does not come."""
        if (refusal := self._entrance.barred(peer)) is not None:
            return refusal
        # Another site could log somebody in, as somebody else (OWASP, "login CSRF"); browsers say where a request
        # comes from (Fetch Metadata), and a form of theirs cannot have our content type.
        if any(origin != "same-origin" for origin in values(head, "sec-fetch-site")):
            return answer(403, {"faults": ["sec-fetch-site: only the page itself logs in"]})
        if values(head, "content-type") != [CONTROL_TYPE]:
            return answer(415, {"faults": [f"Content-Type: {CONTROL_TYPE} only"]})
        content, _ = await body.read()
        try:
            token = _token(bytes(content))
        except RejectedError as e:
            return answer(422, {"faults": e.faults})
        who = await self._entrance.by_token(head, peer, [f"Bearer {token}"], to_look=True)
        if isinstance(who, Response):
            return Response(status_code=who.status_code)  # a browser has its own idea of WWW-Authenticate
        sessions = self._entrance.sessions
        sessions.close(values(head, "cookie"))
        name, session = sessions.open(who.token, self._clock(), may_order=self._entrance.may_order(who))
        await self._note("login", **who._asdict())
        reply = answer(200, _told(session))
        reply.headers["Set-Cookie"] = set_cookie(name)
        return reply

    async def tell(self, request: Request) -> Response:
        """The session that there is, or null: to have none is no fault yet, and no attempt at anything."""
        session = self._entrance.session(web.head(request))
        return answer(200, None if session is None else _told(session))

    async def renew(self, request: Request) -> Response:
        """Its person does something: the session lasts longer, by being shown."""

        async def act(_who: Who, _content: bytes) -> Response:
            return await self.tell(request)

        return await self._entrance.take(request, act, to_look=True)

    async def log_out(self, request: Request) -> Response:
        async def act(who: Who, _content: bytes) -> Response:
            self._entrance.sessions.close(values(web.head(request), "cookie"))
            await self._note("logout", **who._asdict())
            reply = answer(200, None)
            reply.headers["Set-Cookie"] = forget_cookie()
            return reply

        return await self._entrance.take(request, act, to_look=True)


def _token(content: bytes) -> str:
    """Raises RejectedError, which does not show what was given."""
    match orderform.read_object(content):
        case {"token": str(token), **rest} if not rest and token.isascii():
            return token
    raise RejectedError('not {"token": TOKEN}')


def _told(session: Session) -> Mapping[str, Any]:
    return {"csrf": session.csrf, "may_order": session.may_order, "ends_s": session.ends_s()}
