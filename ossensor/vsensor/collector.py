"""What a request meets: an ASGI endpoint. A shell: verify, order, section and store decide.

Invariant: every reply to a request whose signature is good is signed and names an Outcome; every reply to any other is
unsigned and empty, and the same whatever was wrong with it. A body is held in memory only inside a loan of the budget.

A bug in here ends one request (uvicorn logs the stack and replies 500), not the process: peers without the key reach
this code, and a crash at their command would be worse than the bug. The store, which they do not reach, does crash.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import (
    FIELD_CERTIFICATE,
    FIELD_OUTCOME,
    FIELD_TIME,
    MAX_BODY_BYTES,
    MAX_CONTROL_BYTES,
    MAX_REPORT_BYTES,
    MAX_SECTION_BYTES,
    TAG_CONTROL,
    TAG_CONTROL_REPLY,
    TAG_DATA_REPLY,
    TAG_ORDER,
    TAG_ORDER_REPLY,
    BatchId,
    MalformedError,
    Outcome,
    Stream,
    Welcome,
    control_sensor,
)
from ossensor.transport.signing import Key, RefusedError, Reply, body_matches, sign_reply

from . import section, verify, web
from .antigena import Antigena
from .body import PAUSE_S, Body, GoneError
from .budget import Budget, Loan
from .connection import body_of
from .introductions import Introductions
from .live import Live
from .order import Order
from .store import Append

# 256 MiB: eight streams with their whole window of 4 MiB sections in flight, or some hundreds with the usual 1 MiB.
BUDGET_BYTES: Final = 256 << 20

# A batch for which there is no room waits before its body is read: TCP holds its sensor back, and what it sends costs
# nothing. Told `busy` at once, it would send all of it to be thrown away, and again. Under the 2.5 s in which a sensor
# that drains wants to see something move, an answer or acknowledged bytes.
ROOM_S: Final = 2.0

# As long as a sensor's own back-off (30 s) at most, so that one that goes on trying keeps us out of the balancer.
_UNWELL_S: Final = 30.0

_REGISTRATION: Final = "/v1/sensors/{sensor}/registration"
_INTRODUCTION: Final = "/v1/sensors/{sensor}/introduction"
_ANTIGENA: Final = "/v1/sensors/{sensor}/antigena"
_PATH: Final = "/v1/sensors/{sensor}/epochs/{epoch}/interfaces/{interface}/batches/{sequence}"


class Limits(NamedTuple):
    """What peers may take of us."""

    budget_bytes: int = BUDGET_BYTES  # of memory, for bodies in hand
    body_pause_s: float = PAUSE_S  # between two pieces of a body
    room_s: float = ROOM_S  # for a body, until others are out of hand


class Besides(NamedTuple):
    """What is talked about with sensors besides batches."""

    welcome: Welcome = Welcome()
    introductions: Introductions | None = None
    antigena: Antigena | None = None  # None: nothing is ever ordered


_LIMITS: Final = Limits()
_NOTHING_BESIDES: Final = Besides()


class _BusyError(Exception):
    """The budget has no room for this body now."""


def _bare(request: Request, error: Exception) -> Response:
    """The reply to what is not ours: no body, no signature, and the connection ends with its unread body."""
    reply = web.closing(error.status_code if isinstance(error, HTTPException) else 400)
    if reply.status_code == 405:
        # RFC 9110 section 15.5.6. Starlette names the methods of one route, and several have the same path.
        routes = (route for route in request.app.routes if route.matches(request.scope)[0] is not Match.NONE)
        reply.headers["Allow"] = ", ".join(sorted({method for route in routes for method in route.methods}))
    return reply


class _Matter(NamedTuple):
    """What a control request is about."""

    tag: str
    reply_tag: str
    act: Callable[[str, bytes], Awaitable[bytes]]  # given the sensor and a body that is whole and in time; the answer
    otherwise: bytes = b""  # the answer when it does not come to that
    named: Mapping[str, str] = MappingProxyType({})  # fields of every reply


class Keeps(Protocol):
    """Where batches go; an append is queued when the call returns."""

    def append(self, append: Append, /) -> Future[Outcome] | asyncio.Future[Outcome]: ...
    def repeat(self, batch: BatchId, /) -> Future[Outcome] | asyncio.Future[Outcome]: ...
    def failed_within(self, seconds: float, /) -> bool: ...


class Knows(Protocol):
    """What is there already."""

    def next(self, stream: Stream, /) -> int: ...
    def has(self, batch: BatchId, /) -> bool: ...


class Collector:
    """What a request meets. For one event loop; `store` has been started."""

    def __init__(
        self,
        keys: Mapping[str, Key],
        store: Keeps,
        index: Knows,
        clock: Callable[[], float],
        certificate_sha256: str,
        limits: Limits = _LIMITS,
        besides: Besides = _NOTHING_BESIDES,
    ) -> None:
        self._keys = keys
        self._store = store
        self._clock = clock
        self._certificate_sha256 = certificate_sha256
        self._body_pause_s, self._room_s = limits.body_pause_s, limits.room_s
        self._welcome, self._introductions, self._antigena = besides
        self._section_bytes = besides.welcome.limits.batch_bytes or MAX_SECTION_BYTES
        self._gate = verify.Gate(clock())
        self._order = Order(index.next, index.has)
        self.budget = Budget(limits.budget_bytes)
        self.reading = 0  # batches whose bodies are on their way
        self.live = Live(clock)
        self.tally: Counter[str] = Counter()  # batches by outcome, and whatever was "unauthentic" or "gone"
        self.controls: Counter[str] = Counter()  # the other requests by outcome; nothing was to be stored by them
        self.app = Starlette(
            routes=[
                Route(_PATH, self.put_batch, methods=["PUT"]),
                Route(_REGISTRATION, self.post_registration, methods=["POST"]),
                Route(_INTRODUCTION, self.post_introduction, methods=["POST"]),
                Route(_ANTIGENA, self.post_antigena, methods=["POST"]),
                Route("/healthz", self.get_health, methods=["GET"]),
            ],
            exception_handlers={HTTPException: _bare},
        )
        self.app.router.redirect_slashes = False

    def heard(self, batch: BatchId) -> None:
        """Another vSensor put this batch where ours go, too."""
        self._order.heard(batch)

    def add_routes(self, routes: Iterable[Route]) -> None:
        """What is served beside the sensors' paths, before anything is."""
        self.app.router.routes.extend(routes)

    async def put_batch(self, request: Request) -> Response:
        """One batch: authentic, fresh, whole, well formed, in its turn, stored."""
        return await self._take(request, self._answer, MAX_BODY_BYTES)

    async def post_registration(self, request: Request) -> Response:
        """Who asks is told, signed, which certificate is ours; see transport/registration.py."""
        return await self._take(request, self._register, MAX_CONTROL_BYTES)

    async def post_introduction(self, request: Request) -> Response:
        """A sensor says who it is; see transport/introduction.py."""
        return await self._take(request, self._introduce, MAX_CONTROL_BYTES)

    async def post_antigena(self, request: Request) -> Response:
        """A sensor says what became of the orders, and is told which there are; see transport/orders.py."""
        return await self._take(request, self._order_about, MAX_REPORT_BYTES)

    async def get_health(self, _request: Request) -> Response:
        """For a load balancer: 200, or 503 while the disk takes nothing. It tells strangers nothing else.

        No failure is remembered for long: where nobody sends because of it, nothing would show that the disk is well.
        """
        return Response(status_code=200 if self.is_well else 503, headers={"Cache-Control": "no-store"})

    @property
    def is_well(self) -> bool:
        return not self._store.failed_within(_UNWELL_S)

    async def _take(
        self, request: Request, answer: Callable[[verify.Head, Body], Awaitable[Response]], most_bytes: int
    ) -> Response:
        head = web.head(request)
        content_bytes = verify.content_bytes(head)
        if content_bytes is None:
            return web.closing(411)
        if content_bytes > most_bytes:
            # Unsigned, as the length is: a signed "too large" is for good, and a digit altered on its way would do.
            return web.closing(413)
        body = Body(body_of(request), content_bytes, self._body_pause_s)
        try:
            reply = await answer(head, body)
            # A reply before the end of the body is lost when the peer, still sending, gets a reset for an answer. So
            # the rest is read and thrown away.
            await body.discard()
        except GoneError:
            self.tally["gone"] += 1
            return web.closing(408)
        return reply

    async def _register(self, head: verify.Head, body: Body) -> Response:
        # With a refusal, too: a signed one proves as much to the sensor as any, and it will not ask again.
        async def welcome(_sensor: str, _content: bytes) -> bytes:
            return self._welcome.body

        named = {FIELD_CERTIFICATE: self._certificate_sha256}
        return await self._control(
            head, body, _Matter(TAG_CONTROL, TAG_CONTROL_REPLY, welcome, self._welcome.body, named)
        )

    async def _introduce(self, head: verify.Head, body: Body) -> Response:
        async def keep(sensor: str, content: bytes) -> bytes:
            introduction = Introduction.parse(content)
            self.live.introduced(sensor, introduction)
            if self._introductions is not None:
                self._introductions.take(sensor, introduction)
            if self._antigena is not None:
                await self._antigena.introduced(sensor, introduction.task.get("family", ""))
            return b""

        return await self._control(head, body, _Matter(TAG_CONTROL, TAG_CONTROL_REPLY, keep))

    async def _order_about(self, head: verify.Head, body: Body) -> Response:
        async def exchange(sensor: str, content: bytes) -> bytes:
            report = Report.parse(content)
            self.live.reported(sensor, report)
            if self._antigena is None:
                return Orders().body
            return (await self._antigena.exchange(sensor, report, len(content))).body

        return await self._control(head, body, _Matter(TAG_ORDER, TAG_ORDER_REPLY, exchange))

    async def _control(self, head: verify.Head, body: Body, matter: _Matter) -> Response:
        """The reply to a request that is not about a batch. Raises GoneError when the body does not come."""
        try:
            authentic = verify.authenticate(head, self._keys, matter.tag)
        except RefusedError:
            self.tally["unauthentic"] += 1
            return Response(status_code=401)
        outcome, answer = self._gate.judge_control(head, authentic, self._clock()), matter.otherwise
        if outcome is Outcome.REGISTERED:
            outcome, answer = await self._acted(matter, head, authentic, body)
        self.controls[outcome.value] += 1
        return self._signed(authentic, outcome, matter.reply_tag, matter.named, answer)

    async def _acted(
        self, matter: _Matter, head: verify.Head, authentic: verify.Authentic, body: Body
    ) -> tuple[Outcome, bytes]:
        """What came of it, and the body of the reply. Raises GoneError when the request's does not come."""
        with self.budget.loan() as loan:
            if not loan.grow(authentic.content_bytes):
                return Outcome.BUSY, matter.otherwise
            content, sha256 = await body.read()
            if not body_matches(authentic.verified.content_digest, sha256):
                return Outcome.ALTERED, matter.otherwise
            try:
                return Outcome.REGISTERED, await matter.act(control_sensor(head.path), bytes(content))
            except MalformedError:
                return Outcome.MALFORMED, matter.otherwise
            except sqlite3.Error:
                return Outcome.STORE_FAILED, matter.otherwise

    async def _answer(self, head: verify.Head, body: Body) -> Response:
        """The reply. Raises GoneError when the body does not come."""
        try:
            authentic = verify.authenticate(head, self._keys)
        except RefusedError:
            self.tally["unauthentic"] += 1
            return Response(status_code=401)
        verdict = self._gate.judge(head, authentic, self._clock())
        outcome = verdict if isinstance(verdict, Outcome) else await self._receive(verdict, body)
        self.tally[outcome.value] += 1
        return self._signed(authentic, outcome, TAG_DATA_REPLY, {})

    async def _receive(self, upload: verify.Upload, body: Body) -> Outcome:
        """The outcome of an upload that may begin."""
        async with self._order.coming(upload.batch, upload.floor) as comes:
            return await self._keep(upload, body) if comes else Outcome.OUT_OF_ORDER

    async def _keep(self, upload: verify.Upload, body: Body) -> Outcome:
        """The outcome of an upload whose predecessors are on their way."""
        with self.budget.loan() as loan:
            if not await loan.grow_in_turn(upload.content_bytes, self._room_s):
                return Outcome.BUSY
            self.reading += 1
            try:
                sent, sha256 = await body.read()
            finally:
                self.reading -= 1
            if not body_matches(upload.content_digest, sha256):
                return Outcome.ALTERED
            try:
                data = await self._opened(upload, sent, loan)
                span = section.span(data)
            except section.SectionError as e:
                return e.outcome
            except _BusyError:
                return Outcome.BUSY

            def store(floor: int) -> asyncio.Future[Outcome]:
                packed = sent if upload.compressed else None
                append = Append(upload.batch, floor, upload.packets, data, upload.books.text, span, packed)
                return asyncio.wrap_future(self._store.append(append))

            outcome = await self._order.place(upload.batch, upload.floor, store)
            if outcome is Outcome.STORED:
                # At once: between a batch and its successor nothing else runs that would turn the two round.
                self.live.stored(upload.batch, upload.packets, len(data), upload.books, span)
            if outcome is Outcome.PRESENT:
                self.live.repeated(upload.batch)
                outcome = await asyncio.wrap_future(self._store.repeat(upload.batch))
            return outcome

    async def _opened(self, upload: verify.Upload, data: bytes | bytearray, loan: Loan) -> bytes | bytearray:
        """The section in a body. Raises SectionError, or _BusyError when there is no room to open it in."""
        opened_bytes = section.inflated_bytes(data) if upload.compressed else len(data)
        if opened_bytes > self._section_bytes:  # signed: it is of a body whose digest was right
            raise section.SectionError(Outcome.TOO_LARGE, "the section is over the limit")
        if upload.compressed:
            if not await loan.grow_in_turn(opened_bytes, self._room_s):
                raise _BusyError
            data = await asyncio.to_thread(section.inflate, data)
        section.check(data)  # a look at both ends: cheaper than a thread
        return data

    def _signed(
        self, authentic: verify.Authentic, outcome: Outcome, tag: str, fields: Mapping[str, str], body: bytes = b""
    ) -> Response:
        now_s = int(self._clock())
        reply = Reply(outcome.status, authentic.request)
        reply.headers[FIELD_TIME] = str(now_s)
        reply.headers[FIELD_OUTCOME] = outcome.value
        reply.headers.update(fields)
        sign_reply(reply, body, key=authentic.key, tag=tag, created_s=now_s)
        return Response(body, status_code=outcome.status, headers=dict(reply.headers))
