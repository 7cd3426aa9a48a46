"""What comes back to a sensor, from bytes off the wire to an outcome (transport/client.py, with requests and urllib3).

Declared: none; `Client` says what came of it and never raises. Second oracle: the standard library's http.client reads
the same bytes; an outcome is believed only if docs/receiver.py makes the same signature over what that found.
"""

from __future__ import annotations

import http.client
import io
import logging
import re
import ssl
from collections.abc import Iterator
from typing import Any, NamedTuple

import http_sf
import requests.adapters
import urllib3
import urllib3.connection

from ossensor.transport import protocol
from ossensor.transport.client import Client, Job
from ossensor.transport.inquiry import Inquiry
from ossensor.transport.protocol import BatchId, Outcome, Stream
from ossensor.transport.registration import Question
from ossensor.transport.signing import Nonce
from ossensor.transport.stamp import Stamp

from . import _wire

logging.getLogger("urllib3").setLevel(logging.ERROR)  # as in a sensor (logs.py)

_CERTIFICATE_SHA256 = "ab" * 32
_NONCE = Nonce(*_wire.NONCE.split("-")[:1], 7)
_STAMP = Stamp("192.0.2.1", 0, _wire.NOW_S, _NONCE, _wire.KEY)
_JOB = Job(BatchId(Stream("sensor-1", _wire.EPOCH, "eth0"), 3), memoryview(b"body"), 1, 0, compress=False, stamp=_STAMP)
_INQUIRY = Inquiry(protocol.antigena_path("sensor-1"), b"{}", _STAMP, protocol.TAG_ORDER)
_QUESTION = Question("sensor-1", "192.0.2.1", 0, (_wire.KEY,), _wire.NOW_S, (_NONCE,), bound=True)


class _Line:
    """A connection on which the reply lies already; it keeps what was said on it."""

    def __init__(self, reply: bytes) -> None:
        self._reply = reply
        self.said = b""

    def makefile(self, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self._reply))  # type: ignore[arg-type]

    def sendall(self, data: Any) -> None:
        self.said += bytes(data)

    def settimeout(self, _: object) -> None: ...

    def close(self) -> None: ...

    def shutdown(self, _: int) -> None: ...


class _Adapter(requests.adapters.HTTPAdapter):
    """As transport/connection.py's, over a line in place of a socket."""

    def __init__(self, line: _Line) -> None:
        class Connection(urllib3.connection.HTTPSConnection):
            def connect(self) -> None:
                self.sock = line
                self.is_verified = True

        class Pool(urllib3.HTTPSConnectionPool):
            ConnectionCls = Connection

        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self.poolmanager.pool_classes_by_scheme = {"https": Pool}

    def cert_verify(self, *_: Any) -> None: ...


class _Client(Client):
    """The sensor's, which finds this reply whatever it asks."""

    def __init__(self, reply: bytes) -> None:
        super().__init__("vsensor.test", 8443, _CONTEXT, "ossensor/test")
        self.line = _Line(reply)

    def _open(self) -> Any:
        if self._adapter is None:
            self._adapter = _Adapter(self.line)  # type: ignore[assignment]
        self._seen_sha256 = _CERTIFICATE_SHA256
        return self._adapter


_CONTEXT = ssl.create_default_context()


def _asked(said: bytes) -> tuple[str, str, str]:
    """Method, path and signature of the request that was sent."""
    line, *lines = said.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    method, path, _ = line.split(" ")
    (signature,) = [text.partition(": ")[2] for text in lines if text.lower().startswith("signature:")]
    return method, path, signature


def _reply(status: int, said: bytes, tag: str, ours: dict[str, str], body: bytes = b"") -> bytes:
    """A reply to what was said, as docs/receiver.py signs it; the receiver's has no body, so that is put in here."""
    receiver = _wire.receiver
    digest, receiver.digest = receiver.digest, lambda _: digest(body)
    try:
        fields = receiver.reply(_wire.KEY.secret, status, ours, *_asked(said), _wire.NOW_S, tag)
    finally:
        receiver.digest = digest
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"HTTP/1.1 {status} X\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


class _Said(NamedTuple):
    """What the sensor made of a reply; `outcome` is None when it was not believed."""

    outcome: Outcome | None
    retry_after_s: float
    request: bytes
    tag: str


def _run(reply: bytes, *, tag: str = "") -> _Said:
    """Of the three kinds of request, the one whose reply these bytes say that they are."""
    client = _Client(reply)
    found = _TAGS.search(reply)
    tag = tag or (found[0].decode() if found else protocol.TAG_DATA_REPLY)
    outcome, retry_after_s = None, 0.0
    if tag == protocol.TAG_ORDER_REPLY:
        outcome = client.ask(_INQUIRY).outcome
    elif tag == protocol.TAG_CONTROL_REPLY:
        proof = client.prove(_QUESTION)
        outcome, retry_after_s = None if proof.key is None else Outcome.REGISTERED, proof.retry_after_s
    else:
        result = client.send(_JOB)
        outcome, retry_after_s = result.outcome, result.retry_after_s
        assert (result.outcome is None) == bool(result.trouble)
    return _Said(outcome, retry_after_s, client.line.said, tag)


_TAGS = re.compile(rb"ossensor-(?:data|order|control)-reply")


def seeds() -> Iterator[bytes]:
    tags = protocol.TAG_DATA_REPLY, protocol.TAG_ORDER_REPLY, protocol.TAG_CONTROL_REPLY
    batch, orders, question = (_run(b"", tag=tag).request for tag in tags)
    ours = {"ossensor-outcome": "stored", "ossensor-time": str(_wire.NOW_S)}
    yield _reply(201, batch, protocol.TAG_DATA_REPLY, ours)
    yield _reply(503, batch, protocol.TAG_DATA_REPLY, {**ours, "ossensor-outcome": "busy"}).replace(
        b"\r\n\r\n", b"\r\nretry-after: 7\r\n\r\n"
    )
    registered = {**ours, "ossensor-outcome": "registered"}
    yield _reply(200, orders, protocol.TAG_ORDER_REPLY, registered, b'{"book": "", "version": 0, "actions": []}')
    certified = {**registered, "ossensor-certificate": _CERTIFICATE_SHA256}
    yield _reply(200, question, protocol.TAG_CONTROL_REPLY, certified, b'{"packet_filter": "tcp"}')
    chunked = _reply(200, orders, protocol.TAG_ORDER_REPLY, registered, b"{}")
    yield chunked.replace(b"content-length: 2\r\n\r\n{}", b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")


def target(data: bytes) -> bool:
    said = _run(data)
    if said.outcome is None:
        return False
    _assert_signed(data, said.request, said.tag)
    # RFC 9110 section 5.1: a field's name means the same in any case; proxies between change it.
    head, end, body = data.partition(b"\r\n\r\n")
    louder = _NAMES.sub(lambda name: name[0].upper(), head) + end + body
    assert _run(louder) == said
    return True


_NAMES = re.compile(rb"(?<=\n)[A-Za-z0-9-]+(?=:)")
_SIGNED = re.compile(r'ossensor=(\(([^()]+)\)((?:;[a-z]+=(?:[0-9]+|"[^"\\]*"))*))')


def _assert_signed(data: bytes, said: bytes, tag: str) -> None:
    """The reply in the bytes is signed under KEY for what was said, by another reader and another signer."""
    reply = http.client.HTTPResponse(_Line(data))  # type: ignore[arg-type]
    reply.begin()
    try:
        body = reply.read()
    except http.client.IncompleteRead as e:
        body = e.partial
    fields: dict[str, str] = {}
    for name, value in reply.getheaders():
        fields[name.lower()] = f"{fields[name.lower()]}, {value}" if name.lower() in fields else value
    signed = _SIGNED.fullmatch(_ours(fields["signature-input"]))
    assert signed is not None, fields
    method, path, signature = _asked(said)
    known = {'"@status"': str(reply.status), '"@method";req': method, '"@path";req': path, '"signature";req': signature}
    known |= {f'"{name}"': value.strip() for name, value in fields.items()} | {
        '"content-digest"': _wire.receiver.digest(body)
    }
    names = re.findall(r'"[^"]*"(?:;req)?', signed[2])
    assert set(names) >= {
        *list(known)[:4],
        '"content-digest"',
        *(f'"{n}"' for n in fields if n.startswith("ossensor-")),
    }
    assert f'tag="{tag}"' in signed[3].split(";")
    assert _wire.receiver.sign(_wire.KEY.secret, [(n, known[n]) for n in names], signed[1]) == _ours(
        fields["signature"]
    )


def _ours(value: str) -> str:
    """The member of ours in the spelling that is signed: replies may have spaces and other signatures (RFC 8941)."""
    return str(http_sf.ser({"ossensor": http_sf.parse(value.encode(), tltype="dictionary")["ossensor"]}))
