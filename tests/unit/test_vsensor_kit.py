"""What the vSensor's tests share: sections, signed requests, a server in a thread, a server in processes.

The pcapng writer and reader here are deliberately not the project's: what the vSensor accepts is held against a second
opinion.
"""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from ossensor.transport.orders import Report
from ossensor.transport.protocol import (
    CONTENT_TYPE,
    CONTROL_TYPE,
    FIELD_BOOKS,
    FIELD_FLOOR,
    FIELD_OUTCOME,
    FIELD_PACKETS,
    TAG_CONTROL,
    TAG_CONTROL_REPLY,
    TAG_DATA,
    TAG_DATA_REPLY,
    TAG_ORDER,
    TAG_ORDER_REPLY,
    Account,
    BatchId,
    Outcome,
    Stream,
    Welcome,
    antigena_path,
    registration_path,
)
from ossensor.transport.signing import Key, Nonce, Reply, Request, sign_request, verify_reply
from ossensor.vsensor import certificate, glimpse
from ossensor.vsensor.antigena import Antigena
from ossensor.vsensor.bookfile import BookFile
from ossensor.vsensor.collector import Besides, Collector
from ossensor.vsensor.entrance import Entrance
from ossensor.vsensor.events import Events
from ossensor.vsensor.index import Index
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.lookout import Lookout
from ossensor.vsensor.operator import OperatorDoor
from ossensor.vsensor.pagedoor import PageDoor
from ossensor.vsensor.server import make_server
from ossensor.vsensor.store import Store
from ossensor.vsensor.trail import Trail

KEY = Key(bytes(range(32)))
EPOCH = "0123456789abcdef" * 2
RUN = "fedcba9876543210" * 2
STREAM = Stream("sensor-1", EPOCH, "eth0")
NOW_S = 1_795_000_000
# That only a hang reaches: on a busy machine any process may stand still for seconds, at any place.
PATIENCE_S = 120.0
_REPORT = Report("enforce")


def eventually(true: Callable[[], bool]) -> bool:
    """Whether it came true; of what others do of themselves, and tell nobody."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not (came := true()) and time.monotonic() < deadline_s:
        time.sleep(0.002)
    return came


def posing(secret: bytes, key_id: str) -> Key:
    """A key that goes under another one's name."""
    key = Key(secret)
    object.__setattr__(key, "id", key_id)
    return key


def _block(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    total = len(body) + 12
    return struct.pack("<II", kind, total) + body + struct.pack("<I", total)


def section(payloads: list[bytes]) -> bytes:
    """One complete section with these packets."""
    idb = _block(1, struct.pack("<HHI", 1, 0, 262144))
    packets = b"".join(_block(6, struct.pack("<IIIII", 0, 0, i, len(p), len(p)) + p) for i, p in enumerate(payloads))
    rest = idb + packets + _block(5, struct.pack("<III", 0, 0, 0))
    return _block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, len(rest))) + rest


def payload(sequence: int, size: int = 60) -> bytes:
    """Bytes that say which batch they are of, and differ from those of every other."""
    return hashlib.shake_128(f"batch {sequence}".encode()).digest(size)


def split(data: bytes) -> list[bytes]:
    """The sections of a file, each walked block by block to its end. Raises AssertionError where it does not parse."""
    sections = []
    offset = 0
    while offset < len(data):
        start = offset
        kind, total, magic = struct.unpack_from("<III", data, offset)
        assert (kind, magic) == (0x0A0D0D0A, 0x1A2B3C4D)
        (length,) = struct.unpack_from("<q", data, offset + 16)
        end = offset + total + length
        while offset < end:
            _, total = struct.unpack_from("<II", data, offset)
            assert struct.unpack_from("<I", data, offset + total - 4) == (total,)
            offset += total
        assert offset == end
        sections.append(data[start:end])
    return sections


def stored(root: Path, sensor: str = STREAM.sensor, interface: str = STREAM.interface) -> list[bytes]:
    """The sections in the files of one interface, in the order of the files' names."""
    return [s for p in sorted((root / sensor / interface).glob("*.pcapng")) for s in split(p.read_bytes())]


def rows(root: Path) -> list[tuple[str, str, int]]:
    with closing(Index(root / "index.sqlite")) as index:
        return list(
            index._db.execute("SELECT sensor, interface, sequence FROM batches ORDER BY sensor, interface, sequence")
        )


def committed(root: Path) -> list[bytes]:
    """Every batch as the index finds it, in the order of streams and sequences."""
    with closing(Index(root / "index.sqlite")) as index:
        places = index._db.execute(
            "SELECT file, offset, length FROM batches ORDER BY sensor, epoch, interface, sequence"
        ).fetchall()
    return [(root / file).read_bytes()[offset : offset + length] for file, offset, length in places]


@dataclass
class Message:
    """A request as bytes will carry it: everything in it can be changed after it was signed."""

    method: str
    target: str
    fields: list[tuple[str, str]]
    body: bytes
    signed: Request

    def get(self, name: str) -> str:
        (value,) = [v for n, v in self.fields if n.lower() == name.lower()]
        return value

    def set(self, name: str, value: str) -> Self:
        self.drop(name)
        self.fields.append((name, value))
        return self

    def drop(self, name: str) -> Self:
        self.fields = [(n, v) for n, v in self.fields if n.lower() != name.lower()]
        return self


@dataclass
class Signer:
    """Makes requests as a sensor does; each part can be overridden before it is signed."""

    authority: str
    key: Key = KEY
    run: str = RUN
    count: int = 0

    def message(
        self,
        sequence: int = 0,
        body: bytes | None = None,
        *,
        created_s: int = NOW_S,
        floor: str = "0",
        packets: str = "1",
        stream: Stream = STREAM,
        target: str | None = None,
        method: str = "PUT",
        tag: str = TAG_DATA,
        fields: Mapping[str, str] | None = None,
        nonce: Nonce | None = None,
    ) -> Message:
        body = section([payload(sequence)]) if body is None else body
        target = BatchId(stream, sequence).path if target is None else target
        request = Request(method, f"https://{self.authority}{target}")
        request.headers.update({"Content-Type": CONTENT_TYPE, FIELD_FLOOR: floor, FIELD_PACKETS: packets})
        request.headers[FIELD_BOOKS] = Account().text
        request.headers.update(fields or {})
        if nonce is None:
            nonce = Nonce(self.run, self.count)
            self.count += 1
        sha256 = hashlib.sha256(body).digest()
        sign_request(request, sha256, key=self.key, tag=tag, created_s=created_s, nonce=nonce)
        wire = [("Host", self.authority), *request.headers.items(), ("Content-Length", str(len(body)))]
        return Message(method, target, wire, body, request)

    def registration(self, body: bytes = b'{"protocol": 1}', *, sensor: str = STREAM.sensor, **parts: Any) -> Message:
        fields = {"Content-Type": CONTROL_TYPE}
        return self.message(
            body=body,
            **{"method": "POST", "tag": TAG_CONTROL, "fields": fields, "target": registration_path(sensor), **parts},
        )

    def report(self, report: Report = _REPORT, *, sensor: str = STREAM.sensor, **parts: Any) -> Message:
        return self.registration(report.body, **{"tag": TAG_ORDER, "target": antigena_path(sensor), **parts})


@dataclass
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes
    outcome: Outcome | None  # of a reply whose signature was verified


def answer_of(message: Message, status: int, headers: Mapping[str, str], body: bytes, key: Key = KEY) -> Answer:
    fields = {name.lower(): value for name, value in headers.items()}
    outcome = None
    if "signature" in fields:
        reply = Reply(status, message.signed)
        reply.headers.update(headers)
        tag = TAG_DATA_REPLY if message.method == "PUT" else TAG_CONTROL_REPLY
        if message.target.partition("?")[0].endswith("/antigena"):
            tag = TAG_ORDER_REPLY
        verify_reply(reply, body, keys={key.id: key}, tag=tag)
        outcome = Outcome(fields[FIELD_OUTCOME])
        assert outcome.status == status
    return Answer(status, fields, body, outcome)


def fresh(send: Callable[[Message], Answer], signed: Callable[..., Message]) -> Answer:
    """The answer to a message that is signed anew while it is stale, as all is from the second of a vSensor's start."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        created_s = int(time.time())
        answer = send(signed(created_s=created_s))
        if answer.outcome is not Outcome.STALE:
            return answer
        assert time.monotonic() < deadline_s, "stale for ever"
        time.sleep(max(0.0, created_s + 1 - time.time()))  # in the same second it would be as stale


@dataclass
class Wire:
    """One TLS connection that sends exactly what it is given."""

    port: int
    ca: Path
    _connection: ssl.SSLSocket | None = field(default=None, repr=False)

    def connect(self) -> ssl.SSLSocket:
        context = ssl.create_default_context(cafile=str(self.ca))
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        try:
            return context.wrap_socket(raw, server_hostname="127.0.0.1")
        except BaseException:
            raw.close()
            raise

    def head(self, message: Message) -> bytes:
        lines = [f"{message.method} {message.target} HTTP/1.1", *(f"{n}: {v}" for n, v in message.fields), "", ""]
        return "\r\n".join(lines).encode("latin-1")

    def send(self, message: Message) -> Answer:
        """The answer to this message, sent just as it stands, on a connection that is kept."""
        if self._connection is None:
            self._connection = self.connect()
        try:
            self._connection.sendall(self.head(message) + message.body)
            response = http.client.HTTPResponse(self._connection, method=message.method)
            response.begin()
            body = response.read()
            answer = answer_of(message, response.status, dict(response.getheaders()), body)
        except BaseException:
            self.close()
            raise
        if response.will_close:
            self.close()
        response.close()
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


class Running:
    """The collector in this process: a real TLS server on loopback, in a thread, with a clock of ours."""

    def __init__(self, root: Path, *, clock: Clock | None = None, **options: Any) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.layout = Layout(root)
        self.pair = certificate.ensure(self.layout.tls, "127.0.0.1")
        self.store = Store(self.layout, durable=options.pop("durable", False), **options.pop("store_options", {}))
        self.index = Index(self.layout.index, durable=False)
        self.clock = clock or Clock(NOW_S - 3600)
        self.book_file = BookFile(self.layout.orders)
        self.trail = Trail(self.layout.trail, self.clock)
        self.antigena = Antigena(self.book_file, self.trail, self.clock)
        self.told: list[tuple[Any, ...]] = []
        operator_token, viewer_token = options.pop("operator_token", None), options.pop("viewer_token", None)
        events_options = options.pop("events", {})
        besides = Besides(options.pop("welcome", Welcome()), options.pop("introductions", None), self.antigena)
        self.collector = Collector(
            *({KEY.id: KEY}, self.store, self.index, self.clock, self.pair.sha256), besides=besides, **options
        )
        if clock is None:  # a server that started an hour ago
            self.clock.now_s = NOW_S
        self.server = make_server(self.collector, self.pair)
        if operator_token is not None:

            def tell(*said: Any) -> None:
                self.told.append(said)

            entrance = Entrance(operator_token, viewer_token, self.clock, self.antigena.note, tell)
            self.collector.add_routes(OperatorDoor(entrance, self.antigena, self.trail, self.clock, tell).routes)
            self.events = Events(partial(glimpse.text, self.collector.live), self.server.cut_off, **events_options)
            self.server.at_shutdown = self.events.close
            self.collector.add_routes(Lookout(entrance, self.collector, self.events).routes)
            self.page_routes = PageDoor(entrance, self.clock, self.antigena.note).routes
            self.collector.add_routes(self.page_routes)
        # Not create_server: asyncio turns Nagle off only where the socket says TCP, and a reply with a body took 40 ms.
        self.listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(64)
        self.port = int(self.listener.getsockname()[1])
        self.authority = f"127.0.0.1:{self.port}"
        self.signer = Signer(self.authority)
        self.wire = Wire(self.port, self.pair.certificate)
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self.server.config.get_loop_factory()) as runner:
            runner.run(self.server.serve(sockets=[self.listener]))

    def __enter__(self) -> Self:
        self.store.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()
        self.server.stop()
        self._thread.join()
        self.store.close()
        self.index.close()
        self.antigena.close()
        self.book_file.close()
        self.trail.close()
        self.listener.close()

    def send(self, sequence: int = 0, body: bytes | None = None, **parts: Any) -> Answer:
        return self.wire.send(self.signer.message(sequence, body, **parts))


def test_split_takes_a_file_of_sections_apart_exactly() -> None:
    sections = [section([payload(i)]) for i in range(3)]

    assert sections == split(b"".join(sections))
