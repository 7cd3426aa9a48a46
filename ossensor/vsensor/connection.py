"""One connection: uvicorn's, with h11 for the heads and bodies past it, from TLS into the memory that they are to fill.

Invariant: bytes of a connection go to h11 until it has a head; then `left_bytes` of them, and no others, to whoever
fills a buffer with the body; what comes beyond waits in `_ahead`, which is one read of the socket at most, until the
reply is complete. Nothing is read while nobody asks for the body.

h11 hands on a body as it comes, in pieces of a TLS record (16 KiB), each copied four times on its way and parsed for:
[M] 1 ms of processor time for 1 MiB, as much as decrypting and hashing it. Left: llhttp (httptools), which copies
less but takes fields of a head until memory is full; a server in another language, which parts the event loop from the
store's order; a transport of our own over a socket of `ssl`, which saves no more than 6 % [M].
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

import h11
from starlette.requests import Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from .body import Source

# ASGI's way to hand over what it does not define (its specification, "Extensions").
EXTENSION: Final = "ossensor.body"
# A head of ours has under 2 KiB; what else of a body comes with it is copied once more.
_HEAD_READ_BYTES: Final = 4 << 10
# What TLS may hold back, still encrypted, of a body that nobody has asked for; asyncio's own is 256 KiB.
_HELD_BACK_BYTES: Final = 16 << 10
# For a head, from the first byte of the connection or of the request: uvicorn has no limit there, and as many strangers
# as descriptors.CONNECTIONS_MAX who say nothing would keep the sensors out. nginx and Apache give 60 s and 20 s.
HEAD_S: Final = 30.0
# For the end of a connection after its last reply; sslproto's own limit is as long.
CLOSING_S: Final = 30.0


class _Heads(h11.Connection):
    """h11 up to the end of a head, and for replies: one for each request that has a body."""

    def __init__(self, head_bytes: int) -> None:
        super().__init__(h11.SERVER, head_bytes)
        self.has_body = False
        self.left_bytes = 0  # of the body; negative when nobody knows

    def next_event(self) -> Any:
        if self.has_body:
            return h11.PAUSED
        event = super().next_event()
        if isinstance(event, h11.Request):
            fields = dict(event.headers)
            # One of no known length is never read: everybody who would want it refuses it (RFC 9112 section 6.3).
            unknown = b"transfer-encoding" in fields
            self.left_bytes = -1 if unknown else int(fields.get(b"content-length", 0))  # h11 sees to it that it is one
            self.has_body = self.left_bytes != 0
        return event


@dataclass(slots=True)
class _Filling:
    view: memoryview  # what is still to be filled
    took: Callable[[int], None]
    done: asyncio.Future[bool]


class Connection(H11Protocol, asyncio.BufferedProtocol):
    """Takes the place of H11Protocol in uvicorn.Config. The source of a body is `body_of` its request."""

    conn: _Heads

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._head_bytes = self.config.h11_max_incomplete_event_size or 0
        self.conn = _Heads(self._head_bytes)
        self._head = memoryview(bytearray(_HEAD_READ_BYTES))
        self._ahead = b""
        self._filling: _Filling | None = None
        self._head_by_s: float | None = None  # while a head is on its way

    # -- what asyncio calls -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        cast("Any", transport).set_read_buffer_limits(high=_HELD_BACK_BYTES)
        self._limit_head()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 -- asyncio's guess
        return self._head if self._filling is None else self._filling.view

    def buffer_updated(self, nbytes: int) -> None:
        if self._filling is None:
            self.data_received(bytes(self._head[:nbytes]))
        else:
            self._filled(nbytes)

    def data_received(self, data: bytes) -> None:
        # transport.close() reads once more on its way (sslproto, _do_flush). To h11, what follows the last request or a
        # reply of 400 is an error, which it would answer once more, and cannot.
        if self.transport.is_closing() or self.conn.their_state is h11.MUST_CLOSE:
            return
        if self.conn.has_body:  # no reader yet, or not of this: it is of the request that follows
            self._ahead += data
            self.flow.pause_reading()
            return
        super().data_received(data)  # in which a timer ends
        if self.cycle is None or self.cycle.response_complete:
            self._limit_head()
        else:
            self._head_by_s = None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        # For an error, too, uvicorn's way with an orderly end: it stops the timer and lets go of the transport. Else
        # strangers that reset what they opened would leave [M] 90 KiB each, until the timer ends.
        super().connection_lost(None)
        if self._filling is not None:
            self._filling.done.set_result(False)
            self._filling = None

    # -- what h11's side calls ----------------------------------------------------------------------------------------

    def handle_events(self) -> None:
        super().handle_events()
        if self.conn.has_body:  # its task begins when this call is over
            self._ahead, _ = self.conn.trailing_data
            scope: Any = self.scope  # whose type has no place for an extension that is an object
            scope["extensions"] = {EXTENSION: self}

    def on_response_complete(self) -> None:
        conn = self.conn
        had_body = conn.has_body
        super().on_response_complete()  # of a request without one, the next may begin in here
        if self.transport.is_closing():
            # A peer that hung up while reading was paused is heard of when it is resumed (sslproto, eof_received),
            # which is never, now: close() has begun nothing then, and nobody else would end it.
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(CLOSING_S, self.transport.abort)
            return
        if not had_body:
            return
        if conn.left_bytes:  # who did not read it did not want what may follow, either
            self.transport.close()
            return
        self.conn, ahead, self._ahead = _Heads(self._head_bytes), self._ahead, b""
        if ahead:
            self.data_received(ahead)

    # -- what the request's reader calls (body.Source) ----------------------------------------------------------------

    def fill(self, view: memoryview, took: Callable[[int], None]) -> asyncio.Future[bool]:
        if len(view) > self.conn.left_bytes:  # a bug of ours: what follows the body is another request
            raise ValueError(f"{len(view)} bytes asked for of a body that has {self.conn.left_bytes}")
        done: asyncio.Future[bool] = self.loop.create_future()
        if self.cycle.disconnected:
            done.set_result(False)
            return done
        self._say_continue()
        self._filling = _Filling(view, took, done)
        if count := min(len(view), len(self._ahead)):
            view[:count] = self._ahead[:count]
            self._ahead = self._ahead[count:]
            self._filled(count)
        if self._filling is not None:
            self.flow.resume_reading()
        return done

    def stop(self) -> None:
        self._filling = None

    def _filled(self, count: int) -> None:
        filling = cast("_Filling", self._filling)
        self.conn.left_bytes -= count
        filling.took(count)
        if count < len(filling.view):
            filling.view = filling.view[count:]
            return
        filling.done.set_result(True)
        self._filling = None

    def _limit_head(self) -> None:
        if self._head_by_s is None:
            self._head_by_s = self.loop.time() + HEAD_S
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self.timeout_keep_alive_task = self.loop.call_at(self._head_by_s, self.timeout_keep_alive_handler)

    def _say_continue(self) -> None:
        """For who asked to be told that the body is wanted (RFC 9110 section 10.1.1)."""
        if self.cycle.waiting_for_100_continue:
            self.cycle.waiting_for_100_continue = False
            self.transport.write(self.conn.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")


def body_of(request: Request) -> Source | None:
    """Where the request's body comes from; None when it has none."""
    extensions: dict[str, Any] = request.scope.get("extensions") or {}
    return extensions.get(EXTENSION)
