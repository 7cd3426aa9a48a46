"""One attempt to deliver one batch: sign, PUT, verify the reply. The only module that opens client sockets.

Invariant: a batch counts as delivered, or as refused for good, only by a reply that carries the vSensor's signature
over this very request. Whatever else comes back (a proxy's page, an unsigned refusal, silence) is "no answer".

Every attempt is signed afresh. urllib3's own retries are off: they re-send headers, nonce included, and a replayed
nonce is refused. `trust_env` is off: with it, REQUESTS_CA_BUNDLE of the environment overrides the verification asked
for here.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final, cast

import requests
import requests.adapters
import urllib3
import urllib3.connection

from . import protocol
from .compression import compressor
from .protocol import BatchId, MalformedError, Outcome, parse_number
from .signing import Key, Nonce, RefusedError, Reply, Request, sign_request, verify_reply

# Connecting takes one round trip where it works at all; the reply may wait for the vSensor's disk.
_CONNECT_TIMEOUT_S: Final = 5.0
_REPLY_TIMEOUT_S: Final = 30.0
_MAX_REPLY_BYTES: Final = 64 << 10
_TCP_INFO_BYTES: Final = 128  # up to and with tcpi_bytes_acked, since Linux 4.1


class Kind(Enum):
    """What an attempt came to."""

    ACKNOWLEDGED = auto()
    REFUSED = auto()  # signed and permanent: the batch is dropped and counted
    AGAIN = auto()  # signed and passing: the vSensor is there, this attempt was not good
    NO_ANSWER = auto()  # nothing that bears the vSensor's signature


_NO_ACCOUNT: Final = protocol.Account()


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt to make."""

    batch: BatchId
    section: memoryview
    packets: int
    floor: int
    compress: bool
    address: str
    generation: int
    created_s: int
    nonce: Nonce
    account: protocol.Account = _NO_ACCOUNT


@dataclass(frozen=True, slots=True)
class Result:
    """How it went."""

    job: Job
    kind: Kind
    detail: str
    elapsed_s: float
    outcome: Outcome | None = None
    wire_bytes: int = 0
    vsensor_time_s: int | None = None
    retry_after_s: float = 0.0
    trouble: str = ""  # NO_ANSWER: what to do about it, in words


class _Adapter(requests.adapters.HTTPAdapter):
    """Connects to a literal address, and verifies the certificate for the name that was configured.

    `connected` is told each new socket.
    """

    def __init__(self, host: str, context: ssl.SSLContext, connected: Callable[[Any], None]) -> None:
        class Connection(urllib3.connection.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                connected(self.sock)

        class Pool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Connection

        self._pool_class = Pool
        # OpenSSL checks the name. `assert_hostname` would have urllib3 do it, and log the certificate by itself.
        self._tls: dict[str, Any] = {"ssl_context": context, "server_hostname": host}
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002  the base class's signature
        super().init_poolmanager(connections, maxsize, block, **kwargs, **self._tls)
        self.poolmanager.pool_classes_by_scheme = {"https": self._pool_class}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:  # noqa: ARG002
        """Requests would load certifi's roots into our context here; the context already says whom to trust."""
        conn.cert_reqs = "CERT_REQUIRED"


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Verifies against that file, or against the system's CAs. Raises OSError or ssl.SSLError for a bad file."""
    context = ssl.create_default_context(cafile=ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Client:
    """One connection's worth of sending; each sender thread has its own."""

    def __init__(self, host: str, port: int, key: Key, context: ssl.SSLContext, user_agent: str) -> None:
        self._host = host.strip("[]").rstrip(".")  # certificates name no root
        self._port = port
        self._key = key
        self._context = context
        self._user_agent = user_agent
        self.authority = host if port == 443 else f"{host}:{port}"
        self._session: requests.Session | None = None
        self._socket: Any = None
        self._compressor = compressor()

    def _open(self) -> requests.Session:
        if self._session is None:
            self._session = requests.Session()
            self._session.trust_env = False
            self._session.mount("https://", _Adapter(self._host, self._context, self._connected))
        return self._session

    def _connected(self, sock: Any) -> None:
        self._socket = sock

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
        if self._session is not None:
            self._session.close()
            self._session = None

    def send(self, job: Job, clock: Callable[[], float] = time.monotonic) -> Result:
        """Makes the attempt. Never raises for what a peer or a network does."""
        started_s = clock()

        def result(kind: Kind, detail: str, **more: Any) -> Result:
            return Result(job, kind, detail, clock() - started_s, **more)

        body = self._body(job)
        request = self._signed(job, body)
        host = f"[{job.address}]" if ":" in job.address else job.address
        try:
            with self._open().put(
                f"https://{host}:{self._port}{job.batch.path}",
                data=cast(bytes, body),  # the stubs do not know that a memoryview is sent without a copy
                headers=dict(request.headers),
                timeout=(_CONNECT_TIMEOUT_S, _REPLY_TIMEOUT_S),
                allow_redirects=False,
                stream=True,
            ) as response:
                content = _whole(response)
                status, headers = response.status_code, response.headers
        except (requests.RequestException, OSError) as e:
            self.close()
            return result(Kind.NO_ANSWER, _named(e), trouble=_trouble(e))
        except Exception as e:
            # urllib3 lets a few of its own through while a body is read (ProtocolError, LocationParseError).
            if not type(e).__module__.startswith(("urllib3", "http.client")):
                raise
            self.close()
            return result(Kind.NO_ANSWER, _named(e), trouble=_trouble(e))
        return self._judge(request, status, headers, content, body, result)

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
        sign_request(request, digest, key=self._key, tag=protocol.TAG_DATA, created_s=job.created_s, nonce=job.nonce)
        return request

    def _judge(
        self,
        request: Request,
        status: int,
        headers: Mapping[str, str],
        content: bytes,
        body: memoryview | bytes,
        result: Callable[..., Result],
    ) -> Result:
        retry_after_s = _retry_after(headers)
        reply = Reply(status, request, dict(headers))
        try:
            verify_reply(reply, content, keys={self._key.id: self._key}, tag=protocol.TAG_DATA_REPLY)
            outcome = Outcome(headers[protocol.FIELD_OUTCOME])
            vsensor_time_s = parse_number(headers[protocol.FIELD_TIME])
        except (RefusedError, MalformedError, KeyError, ValueError) as e:
            hint = ": is VSENSOR_HMAC_KEY the same at both ends?" if status == 401 else ""
            self.close()
            return result(
                Kind.NO_ANSWER,
                f"status {status}: {e}",
                retry_after_s=retry_after_s,
                trouble=f"the vSensor's answer is not signed with our key{hint}",
            )
        given_up = Kind.REFUSED if outcome.permanent else Kind.AGAIN
        return result(
            Kind.ACKNOWLEDGED if outcome.acknowledged else given_up,
            f"{status} {outcome.value}",
            outcome=outcome,
            wire_bytes=len(body),
            vsensor_time_s=vsensor_time_s,
            retry_after_s=retry_after_s,
        )


def _whole(response: requests.Response) -> bytes:
    """The reply's body, not longer than we read. TimeoutError when it does not come in time.

    The socket's own time limit is for one read: a body in drips would hold a sender for hours.
    """
    until_s = time.monotonic() + _REPLY_TIMEOUT_S
    content = b""
    while len(content) < _MAX_REPLY_BYTES:
        piece: bytes = response.raw.read1(_MAX_REPLY_BYTES - len(content), decode_content=False)
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
    if isinstance(_innermost(error), ssl.SSLCertVerificationError):
        return "the vSensor's certificate is not accepted: VSENSOR_CA_FILE must lead to it, and it must bear the name"
    return "the vSensor cannot be reached"


def _retry_after(headers: Mapping[str, str]) -> float:
    try:
        return float(parse_number(headers.get("Retry-After", "0").strip()))
    except MalformedError:
        return 0.0  # an HTTP date: our own back-off serves as well
