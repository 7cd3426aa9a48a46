"""One attempt to register or to deliver a batch: sign, send, verify. With connection.py, all that opens client sockets.

Invariant: a batch counts as delivered, or as refused for good, only by a reply that carries the vSensor's signature
over this very request. Whatever else comes back (a proxy's page, an unsigned refusal, silence) is "no answer".

Every attempt is signed afresh. urllib3's own retries are off: they re-send headers, nonce included, and a replayed
nonce is refused.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import requests
import requests.structures

from . import inquiry, protocol, registration
from .compression import AUTO, Policy, compressor
from .connection import Adapter, PinError
from .inquiry import Answer, Inquiry
from .protocol import BatchId, MalformedError, Outcome, parse_number
from .registration import ImpostorError, Question
from .signing import Key, Nonce, RefusedError, Reply, Request, sign_request, verify_reply
from .stamp import Stamp

# Connecting takes one round trip where it works at all; the reply may wait for the vSensor's disk.
_CONNECT_TIMEOUT_S: Final = 5.0
_REPLY_TIMEOUT_S: Final = 30.0
_MAX_REPLY_BYTES: Final = 64 << 10  # to a batch or a registration
_TCP_INFO_BYTES: Final = 128  # up to and with tcpi_bytes_acked, since Linux 4.1


_NO_ACCOUNT: Final = protocol.Account()
_NO_WELCOME: Final = protocol.Welcome()
_Where = tuple[str, int | None]  # a literal address, and its port unless it is the configured one


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to make."""

    batch: BatchId
    section: memoryview
    packets: int
    floor: int
    compress: bool
    stamp: Stamp
    account: protocol.Account = _NO_ACCOUNT


@dataclass(frozen=True, slots=True)
class Result:
    """How it went."""

    job: Job
    detail: str
    elapsed_s: float
    outcome: Outcome | None = None  # None: nothing came back that bears the vSensor's signature
    wire_bytes: int = 0
    vsensor_time_s: int | None = None
    retry_after_s: float = 0.0
    trouble: str = ""  # without an outcome: what to do about it, in words

    @property
    def acknowledged(self) -> bool:
        return self.outcome is not None and self.outcome.acknowledged


@dataclass(frozen=True, slots=True)
class Proof:
    """What came of a Question: the key that was proven to be held there, or `trouble`."""

    question: Question
    detail: str
    key: Key | None = None
    pin: str = ""
    vsensor_time_s: int = 0
    retry_after_s: float = 0.0
    trouble: str = ""
    unsigned: bool = False  # somebody answered, and not under this key
    welcome: protocol.Welcome = _NO_WELCOME


class Client:
    """One connection's worth of sending; each sender thread has its own."""

    def __init__(
        self, host: str, port: int, context: ssl.SSLContext, user_agent: str, compression: Policy = AUTO
    ) -> None:
        self._host = host.strip("[]").rstrip(".")  # certificates name no root
        self._port = port
        self._context = context
        self._pin = ""
        self._user_agent = user_agent
        self.authority = host if port == 443 else f"{host}:{port}"
        self._adapter: Adapter | None = None
        self._seen_sha256 = ""  # of the certificate at the other end of the present connection
        self._socket: Any = None
        self._compressor = compressor(compression)

    def _open(self) -> Adapter:
        if self._adapter is None:
            self._adapter = Adapter(self._host, self._context, self._connected)
        return self._adapter

    def _connected(self, sock: Any) -> None:
        self._socket = sock
        # Now: a peer may close with its reply, and then there is nobody to ask.
        self._seen_sha256 = hashlib.sha256(sock.getpeercert(binary_form=True)).hexdigest()
        if self._pin and self._seen_sha256 != self._pin:
            raise PinError(0, "the certificate is not the one that was proven")

    def acknowledged_bytes(self) -> int:
        """What the peer's TCP has acknowledged on this connection (tcpi_bytes_acked, linux/tcp.h); 0 without one.

        For another thread than the one that sends: whether a slow line moves is not to be seen in any other way.
        """
        try:
            information = self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            (acknowledged,) = struct.unpack_from("Q", information, _TCP_INFO_BYTES - 8)
        except (AttributeError, OSError, struct.error):
            return 0
        return int(acknowledged)

    def close(self) -> None:
        if self._adapter is not None:
            self._adapter.close()
            self._adapter = None

    def send(self, job: Job, clock: Callable[[], float] = time.monotonic) -> Result:
        """Makes the attempt. Never raises for what a peer or a network does."""
        started_s = clock()

        def result(detail: str, **more: Any) -> Result:
            return Result(job, detail, clock() - started_s, **more)

        self._hold_to(job.stamp.pin)
        body = self._body(job)
        request = self._signed(job, body)
        try:
            reply, content = self._exchange(request, (job.stamp.address, job.stamp.port), body)
        except _NoAnswerError as e:
            return result(e.detail, trouble=e.trouble)
        return self._judge(reply, content, body, job.stamp.key, result)

    def _hold_to(self, pin: str) -> None:
        """From now on connects to this certificate only."""
        if pin != self._pin:
            self.close()
            self._pin = pin

    def ask(self, what: Inquiry) -> Answer:
        """Says something else than a batch to a vSensor that is proven. Never raises for what a peer does."""
        self._hold_to(what.stamp.pin)
        request = inquiry.request(what, authority=self.authority, application=self._user_agent)
        try:
            where = what.stamp.address, what.stamp.port
            reply, content = self._exchange(request, where, what.body, what.most_reply_bytes)
        except _NoAnswerError as e:
            return Answer(what, e.detail)
        return inquiry.judge(what, reply, content)

    def prove(self, question: Question) -> Proof:
        """Asks who is there. Never raises for what a peer or a network does.

        The connection is not used again: what is sent later goes where the certificate has been held against the pin.
        """
        proof = Proof(question, "no key", trouble="there is no key to ask with")
        for key, nonce in zip(question.keys, question.nonces, strict=True):
            self.close()
            self._pin = ""
            proof = self._prove(question, key, nonce)
            if not proof.unsigned:  # nobody there, or an impostor: another key changes nothing
                break
        self.close()
        return proof

    def _prove(self, question: Question, key: Key, nonce: Nonce) -> Proof:
        request, body = registration.ask(question, key, nonce, authority=self.authority, application=self._user_agent)
        try:
            reply, content = self._exchange(request, (question.address, question.port), body)
            pin = self._seen_sha256 if question.bound else ""
            vsensor_time_s, welcome = registration.judge(reply, content, key, pin or None)
        except _NoAnswerError as e:
            return Proof(question, e.detail, trouble=e.trouble)
        except RefusedError as e:
            retry_after_s = _retry_after(reply.headers)
            detail, trouble = _not_signed(reply.status_code, e)
            return Proof(question, detail, retry_after_s=retry_after_s, trouble=trouble, unsigned=True)
        except ImpostorError as e:
            return Proof(question, str(e), trouble=_IMPOSTOR)
        return Proof(question, "proven", key, pin, vsensor_time_s, welcome=welcome)

    def _exchange(
        self, request: Request, where: _Where, body: memoryview | bytes, most_bytes: int = _MAX_REPLY_BYTES
    ) -> tuple[Reply, bytes]:
        """The reply, believed by nobody yet, with its content. Raises _NoAnswerError."""
        try:
            with self._open().send(
                self._prepared(request, where, body), stream=True, timeout=(_CONNECT_TIMEOUT_S, _REPLY_TIMEOUT_S)
            ) as response:
                content = _whole(response, most_bytes)
                return Reply(response.status_code, request, response.headers), content
        except (requests.RequestException, OSError, ValueError) as e:  # ValueError: the address is none
            self.close()
            raise _NoAnswerError(e) from e
        except Exception as e:
            # urllib3 lets a few of its own through while a body is read (ProtocolError, LocationParseError).
            if not type(e).__module__.startswith(("urllib3", "http.client")):
                raise
            self.close()
            raise _NoAnswerError(e) from e

    def _prepared(self, request: Request, where: _Where, body: memoryview | bytes) -> requests.PreparedRequest:
        # Field by field, and to the adapter without a session: what Session.request() puts together of cookies,
        # environment, redirects and hooks is a third of what a batch costs in requests, and none of it is wanted.
        address, port = where
        host = f"[{address}]" if ":" in address else address
        prepared = requests.PreparedRequest()
        prepared.method = request.method
        prepared.url = f"https://{host}:{port or self._port}{request.url.removeprefix(f'https://{self.authority}')}"
        prepared.headers = requests.structures.CaseInsensitiveDict(request.headers)
        prepared.headers["Content-Length"] = str(len(body))
        prepared.body = cast(bytes, body)  # the stubs do not know that a memoryview is sent without a copy
        return prepared

    def _body(self, job: Job) -> memoryview | bytes:
        if job.compress:
            compressed = self._compressor.compress(job.section)
            if len(compressed) < len(job.section):
                return compressed
        return job.section

    def _signed(self, job: Job, body: memoryview | bytes) -> Request:
        request = Request("PUT", f"https://{self.authority}{job.batch.path}")
        request.headers["Host"] = self.authority
        request.headers["User-Agent"] = self._user_agent
        request.headers["Accept-Encoding"] = "identity"
        request.headers["Content-Type"] = protocol.CONTENT_TYPE
        if isinstance(body, bytes):
            request.headers["Content-Encoding"] = "zstd"
        request.headers[protocol.FIELD_FLOOR] = str(job.floor)
        request.headers[protocol.FIELD_PACKETS] = str(job.packets)
        request.headers[protocol.FIELD_BOOKS] = job.account.text
        digest = hashlib.sha256(body).digest()
        stamp = job.stamp
        sign_request(
            request, digest, key=stamp.key, tag=protocol.TAG_DATA, created_s=stamp.created_s, nonce=stamp.nonce
        )
        return request

    def _judge(
        self, reply: Reply, content: bytes, body: memoryview | bytes, key: Key, result: Callable[..., Result]
    ) -> Result:
        retry_after_s = _retry_after(reply.headers)
        try:
            verify_reply(reply, content, keys={key.id: key}, tag=protocol.TAG_DATA_REPLY)
            outcome = Outcome(reply.headers[protocol.FIELD_OUTCOME])
            vsensor_time_s = parse_number(reply.headers[protocol.FIELD_TIME])
        except (RefusedError, MalformedError, KeyError, ValueError) as e:
            self.close()
            detail, trouble = _not_signed(reply.status_code, e)
            return result(detail, retry_after_s=retry_after_s, trouble=trouble)
        return result(
            f"{reply.status_code} {outcome.value}",
            outcome=outcome,
            wire_bytes=len(body),
            vsensor_time_s=vsensor_time_s,
            retry_after_s=retry_after_s,
        )


def _whole(response: requests.Response, most_bytes: int) -> bytes:
    """The reply's body, so much of it at most. TimeoutError when it does not come in time.

    The socket's own time limit is for one read: a body in drips would hold a sender for hours.
    """
    until_s = time.monotonic() + _REPLY_TIMEOUT_S
    content = b""
    while len(content) < most_bytes:
        piece: bytes = response.raw.read1(most_bytes - len(content), decode_content=False)
        if not piece:
            return content
        content += piece
        if time.monotonic() >= until_s:
            raise TimeoutError("the reply came in drips")
    return content


def _innermost(error: BaseException) -> BaseException:
    """What happened; the outer layers say through which pool."""
    while True:
        cause = getattr(error, "reason", None)
        if not isinstance(cause, BaseException):
            cause = error.args[0] if error.args and isinstance(error.args[0], BaseException) else None
        if cause is None:
            return error
        error = cause


def _named(error: BaseException) -> str:
    cause = _innermost(error)
    return f"{type(cause).__name__}: {cause}"[:300]


def _trouble(error: BaseException) -> str:
    cause = _innermost(error)
    if isinstance(cause, PinError):
        return "the vSensor's certificate has changed; it must prove itself again"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "the vSensor's certificate is not accepted: VSENSOR_CA_FILE must lead to it, and it must bear the name"
    return "the vSensor cannot be reached"


def _not_signed(status: int, error: Exception) -> tuple[str, str]:
    """Detail and trouble of a reply that is nobody's whom we trust."""
    hint = ": is VSENSOR_HMAC_KEY the same at both ends?" if status == 401 else ""
    return f"status {status}: {error}", f"the vSensor's answer is not signed with our key{hint}"


_IMPOSTOR: Final = (
    "somebody stands between us and the vSensor, which has another certificate"
    " (where TLS ends at a load balancer, VSENSOR_TLS=ca is for that)"
)


class _NoAnswerError(Exception):
    """Nothing came back, or nothing that is HTTP."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.detail = _named(error)
        self.trouble = _trouble(error)


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return float(parse_number(headers.get("Retry-After", "0").strip()))
    except MalformedError:
        return 0.0  # an HTTP date: our own back-off serves as well
