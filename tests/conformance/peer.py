"""One request at a time to a receiver, and its reply, verified."""

from __future__ import annotations

import hashlib
import http.client
import secrets
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from ossensor import pcapng
from ossensor.transport.protocol import (
    CONTENT_TYPE,
    CONTROL_TYPE,
    FIELD_BOOKS,
    FIELD_FLOOR,
    FIELD_OUTCOME,
    FIELD_PACKETS,
    TAG_CONTROL,
    TAG_DATA,
    Account,
    BatchId,
    Stream,
    registration_path,
)
from ossensor.transport.signing import Key, Nonce, RefusedError, Reply, Request, sign_request, verify_reply

SENSOR: Final = "conformance"


@dataclass
class Answer:
    """`outcome` is None for a reply that is not signed for this request."""

    status: int
    outcome: str | None
    fields: dict[str, str]
    body: bytes
    certificate_sha256: str

    @property
    def said(self) -> tuple[int, str | None]:
        return self.status, self.outcome


def section(packets: int = 3) -> bytes:
    memory = bytearray(4096)
    prologue = pcapng.section_header("conformance") + pcapng.interface_description("eth0", 1, 262_144, "", "none")
    made = pcapng.Section.open(memoryview(memory), prologue)
    for n in range(packets):
        assert made.add(1_700_000_000_000_000_000 + n, bytes([n]) * 60, 60)
    return bytes(memory[: made.close(0, 9, packets, 0)])


def _trusting() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@dataclass
class Peer:
    """The receiver at a URL; each Peer is a sensor's life of its own."""

    url: str
    key: Key
    run: str = field(default_factory=lambda: secrets.token_hex(16))
    count: int = 0

    def nonce(self) -> Nonce:
        self.count += 1
        return Nonce(self.run, self.count)

    def register(self, **parts: Any) -> Answer:
        path = registration_path(SENSOR)
        return self.send("POST", path, b'{"protocol": 1, "later": [1]}', **{"tag": TAG_CONTROL, **parts})

    def put(self, epoch: str, sequence: int, *, floor: int = 0, body: bytes | None = None, **parts: Any) -> Answer:
        fields = {FIELD_FLOOR: str(floor), FIELD_PACKETS: "3", FIELD_BOOKS: Account().text, **parts.pop("fields", {})}
        path = BatchId(Stream(SENSOR, epoch, "eth0"), sequence).path
        return self.send("PUT", path, section() if body is None else body, fields=fields, **parts)

    def send(
        self,
        method: str,
        path: str,
        body: bytes,
        *,
        tag: str = TAG_DATA,
        fields: Mapping[str, str] | None = None,
        after_signing: Mapping[str, str] | None = None,
        sent_body: bytes | None = None,
        created_s: int | None = None,
        nonce: Nonce | None = None,
        key: Key | None = None,
    ) -> Answer:
        """`after_signing` replaces fields, and `sent_body` the body, under the signature that was made without them."""
        authority = urlsplit(self.url).netloc
        request = Request(method, f"https://{authority}{path}")
        request.headers["Content-Type"] = CONTENT_TYPE if method == "PUT" else CONTROL_TYPE
        request.headers.update(fields or {})
        digest = hashlib.sha256(body).digest()
        # A second ahead: what was signed in the second of the receiver's start is stale, and rightly so.
        created_s = int(time.time()) + 1 if created_s is None else created_s
        key, nonce = key or self.key, nonce or self.nonce()
        sign_request(request, digest, key=key, tag=tag, created_s=created_s, nonce=nonce)
        headers = {**request.headers, **(after_signing or {})}
        connection = http.client.HTTPSConnection(authority, timeout=90, context=_trusting())
        try:
            connection.request(method, path, body if sent_body is None else sent_body, headers)
            assert isinstance(connection.sock, ssl.SSLSocket)
            certificate = connection.sock.getpeercert(binary_form=True) or b""
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        received = {name.lower(): value for name, value in response.getheaders()}
        reply = Reply(response.status, request)
        reply.headers.update(received)
        outcome = None
        try:
            verify_reply(reply, content, keys={self.key.id: self.key}, tag=f"{tag}-reply")
            outcome = received[FIELD_OUTCOME]
        except RefusedError:
            assert "signature" not in received, "signed, but not for this request"
        return Answer(response.status, outcome, received, content, hashlib.sha256(certificate).hexdigest())
