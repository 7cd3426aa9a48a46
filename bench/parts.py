"""What each part of taking in a batch of 1 MiB costs by itself: the same calls as in the vSensor, one part at a time.

Processor time of this thread, the least of several rounds: what the vSensor takes beyond the sum is what its parts cost
each other (two threads and one interpreter lock, caches), the event loop, and the kernel's TCP.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Final

import h11

from ossensor.transport.protocol import (
    CONTENT_TYPE,
    FIELD_BOOKS,
    FIELD_FLOOR,
    FIELD_OUTCOME,
    FIELD_PACKETS,
    FIELD_TIME,
    TAG_DATA,
    TAG_DATA_REPLY,
    Account,
    BatchId,
    Outcome,
    Stream,
)
from ossensor.transport.signing import Key, Nonce, Reply, Request, sign_reply, sign_request
from ossensor.vsensor import certificate, tls, verify
from ossensor.vsensor.index import Index, Row

_MIB: Final = 1 << 20
_KEY: Final = Key(b"a key that guards nothing but a measurement")
_STREAM: Final = Stream("bench", "0" * 32, "eth0")
_HOST: Final = "127.0.0.1:8443"
_GROUP: Final = 4  # batches that one flush and one commit serve, as a sensor's window has


def _least_ms(work: Callable[[], object], times: int = 15) -> float:
    """Milliseconds of the quickest call."""
    found = []
    for _ in range(times):
        began_s = time.thread_time()
        work()
        found.append(time.thread_time() - began_s)
    return min(found) * 1e3


def _tls_ms(folder: Path, body: bytes) -> float:
    """From encrypted bytes in memory to the body in its place, in reads of the vSensor's size."""
    pair = certificate.ensure(folder / "tls", "127.0.0.1")
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = certificate.context(pair.certificate, pair.key).wrap_bio(to_server, to_client, server_side=True)
    client = trusting.wrap_bio(to_client, to_server)
    for end in (client, server) * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    data, at = bytearray(len(body)), 0
    view = memoryview(data)

    def sent() -> memoryview:
        client.write(body)
        return memoryview(to_server.read())

    def take(said: memoryview) -> None:
        nonlocal at
        at = 0
        for start in range(0, len(said), tls.READ_BYTES):
            to_server.write(said[start : start + tls.READ_BYTES])
            try:
                while at < len(body):
                    at += server.read(len(body) - at, view[at:])
            except ssl.SSLWantReadError:
                continue

    found = [_least_ms(partial(take, sent()), 1) for _ in range(15)]
    if data != body:
        raise RuntimeError("not what was sent")
    return min(found)


def _signed(batch: BatchId, sha: bytes) -> Request:
    request = Request("PUT", f"https://{_HOST}{batch.path}")
    request.headers.update(
        {
            "Host": _HOST,
            "Content-Type": CONTENT_TYPE,
            "Content-Length": str(_MIB),
            FIELD_PACKETS: "700",
            FIELD_FLOOR: "0",
            FIELD_BOOKS: Account(received=700).text,
        }
    )
    nonce = Nonce("0" * 32, batch.sequence)
    sign_request(request, sha, key=_KEY, tag=TAG_DATA, created_s=1_795_000_000, nonce=nonce)
    return request


def _replied(request: Request) -> Reply:
    reply = Reply(Outcome.STORED.status, request)
    reply.headers.update({FIELD_TIME: "1795000000", FIELD_OUTCOME: Outcome.STORED.value})
    sign_reply(reply, b"", key=_KEY, tag=TAG_DATA_REPLY, created_s=1_795_000_000)
    return reply


def _http(lines: bytes, reply: Reply) -> None:
    """A head read and an answer written, as uvicorn has h11 do it."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(lines)
    connection.next_event()
    connection.send(h11.Response(status_code=reply.status_code, headers=list(reply.headers.items())))
    connection.send(h11.Data(data=b""))
    connection.send(h11.EndOfMessage())


def _stored_ms(folder: Path, body: bytes) -> tuple[float, float]:
    """A batch's share of writing and flushing, and of the commit."""
    index = Index(folder / "parts.sqlite")
    index.add_file("a")
    fd = os.open(folder / "a", os.O_WRONLY | os.O_CREAT)
    count = 0

    def write() -> None:
        nonlocal count
        for number in range(count, count + _GROUP):
            os.pwrite(fd, body, number * _MIB)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, count * _MIB, os.POSIX_FADV_DONTNEED)
        count += _GROUP

    def commit() -> None:
        nonlocal count
        rows = [BatchId(_STREAM, number) for number in range(count, count + _GROUP)]
        index.commit(Row(row, 0, "a", row.sequence * _MIB, _MIB, 700, 0, Account().text, None) for row in rows)
        count += _GROUP

    try:
        return _least_ms(write) / _GROUP, _least_ms(commit) / _GROUP
    finally:
        os.close(fd)
        index.close()


def measure(folder: Path) -> dict[str, float]:
    """Milliseconds of processor time for a batch of 1 MiB, by part; files are made in the folder."""
    body = os.urandom(_MIB)
    sha = sha256(body).digest()
    batch = BatchId(_STREAM, 7)
    request = _signed(batch, sha)
    fields = tuple((name.lower(), value) for name, value in request.headers.items())
    head = verify.Head("PUT", batch.path, "", fields)
    lines = "\r\n".join([f"PUT {batch.path} HTTP/1.1", *(f"{n}: {v}" for n, v in fields), "", ""]).encode()
    reply = _replied(request)
    written_ms, committed_ms = _stored_ms(folder, body)
    return {
        "TLS, from memory to memory": _tls_ms(folder, body),
        "SHA-256": _least_ms(lambda: sha256(body).digest()),
        "HTTP, head and answer": _least_ms(lambda: _http(lines, reply)),
        "signature, checked": _least_ms(lambda: verify.authenticate(head, {_KEY.id: _KEY})),
        "signature of the answer": _least_ms(lambda: _replied(request)),
        "written and flushed": written_ms,
        "committed": committed_ms,
    }
