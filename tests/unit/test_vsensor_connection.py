"""Bodies go past h11: however the bytes of a connection are cut into pieces, each request is answered by its own."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import select
import socket
import ssl
import struct
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_vsensor_kit import Message, Running, answer_of, eventually, payload, rows, section, stored

from ossensor.transport.protocol import Outcome
from ossensor.vsensor.body import Body

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: v\r\n"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path) as made:
        yield made


@pytest.fixture
def connection(running: Running) -> Iterator[ssl.SSLSocket]:
    with running.wire.connect() as made:
        yield made


def answer(connection: ssl.SSLSocket, method: str = "PUT") -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(connection, method=method)
    response.begin()
    response.read()
    return response


def outcome(connection: ssl.SSLSocket, message: Message) -> Outcome | None:
    response = answer(connection)
    return answer_of(message, response.status, dict(response.getheaders()), b"").outcome


def bodies(count: int, size: int = 60) -> list[bytes]:
    return [section([payload(number, size)]) for number in range(count)]


@pytest.mark.parametrize("piece_bytes", [1, 7, 333, 4096, 16 << 10, 1 << 20])
def test_requests_that_follow_each_other_without_a_pause_are_told_apart_however_they_are_cut(
    running: Running, connection: ssl.SSLSocket, tmp_path: Path, piece_bytes: int
) -> None:
    sections = bodies(5, max(60, 40 * piece_bytes // 10))
    messages = [running.signer.message(number, body) for number, body in enumerate(sections)]
    data = b"".join(running.wire.head(message) + message.body + HEALTH + b"\r\n" for message in messages)

    for at in range(0, len(data), piece_bytes):
        connection.sendall(data[at : at + piece_bytes])
    answers = [(outcome(connection, message), answer(connection, "GET").status) for message in messages]

    assert answers == [(Outcome.STORED, 200)] * 5
    assert stored(tmp_path) == sections


def test_who_asks_whether_the_body_is_wanted_is_told_so(running: Running, connection: ssl.SSLSocket) -> None:
    message = running.signer.message(0)
    message.fields.append(("Expect", "100-continue"))
    connection.sendall(running.wire.head(message))

    assert connection.recv(1024) == b"HTTP/1.1 100 \r\n\r\n"
    connection.sendall(message.body)
    assert outcome(connection, message) is Outcome.STORED


@pytest.mark.parametrize(
    "body", [b"Content-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"]
)
def test_a_body_that_nobody_wanted_ends_the_connection_and_is_not_taken_for_a_request(
    connection: ssl.SSLSocket, running: Running, body: bytes
) -> None:
    del running
    connection.sendall(HEALTH + body + HEALTH + b"\r\n")

    assert answer(connection, "GET").status == 200
    assert connection.recv(1) == b""


def test_a_body_of_which_only_a_part_came_stores_nothing_and_the_next_connection_is_served(
    running: Running, tmp_path: Path
) -> None:
    message = running.signer.message(0, bodies(1, 100_000)[0])
    for sent_bytes in (0, 1, 99_999):
        with running.wire.connect() as connection:
            connection.sendall(running.wire.head(message) + message.body[:sent_bytes])

    assert running.send(0).outcome is Outcome.STORED
    assert rows(tmp_path) == [("sensor-1", "eth0", 0)]
    assert eventually(lambda: running.collector.budget.lent_bytes == 0)  # once the server has heard of the last end


def test_who_does_not_finish_a_handshake_is_shown_out(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossensor.vsensor.tls.HANDSHAKE_S", 1)
    with socket.create_connection(("127.0.0.1", running.port)) as slow:
        slow.sendall(b"\x16\x03\x01")
        with contextlib.suppress(ConnectionError):
            assert slow.recv(1) == b""


@pytest.mark.parametrize("said", [b"", b"GET /healthz HT", HEALTH])
def test_who_does_not_finish_a_head_is_shown_out_however_often_a_byte_of_it_comes(
    running: Running, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    with running.wire.connect() as quick, contextlib.ExitStack() as later:
        for limit_s in (120, 0.2):  # a first request may be slow in coming; then the time is that between requests
            quick.sendall(HEALTH + b"\r\n")
            assert answer(quick, "GET").status == 200
            monkeypatch.setattr("ossensor.vsensor.connection.HEAD_S", limit_s)
        slow = later.enter_context(running.wire.connect())
        with contextlib.suppress(OSError):  # it may be over before all is said
            slow.sendall(said)
            while said and not select.select([slow], [], [], 0.02)[0]:
                slow.sendall(b"x")
        with contextlib.suppress(ConnectionError):
            assert slow.recv(1) == b""
        quick.sendall(HEALTH + b"\r\n")  # the time between requests is another limit's
        assert answer(quick, "GET").status == 200


@pytest.mark.parametrize(
    "said, status",
    [
        (b"nonsense\r\n\r\n" + b"x" * 10_000, 400),
        (HEALTH + b"A: " + b"x" * 40_000, 400),
        (HEALTH + b"Connection: close\r\n\r\n" + (HEALTH + b"\r\n") * 200, 200),
    ],
)
def test_what_comes_after_the_last_answer_is_nobodys_and_no_line_of_the_log(
    connection: ssl.SSLSocket, running: Running, caplog: pytest.LogCaptureFixture, said: bytes, status: int
) -> None:
    connection.sendall(said)

    with contextlib.suppress(ConnectionError):  # with bytes unread, the end may be a reset
        assert answer(connection, "GET").status == status
        assert connection.recv(1) == b""
    connection.close()
    assert eventually(lambda: not running.server.server_state.connections)
    assert caplog.messages == []


def test_a_connection_that_was_reset_leaves_nothing_behind(running: Running) -> None:
    known = running.server.server_state.connections
    connection = running.wire.connect()
    assert eventually(lambda: len(known) == 1)
    (gone,) = map(weakref.ref, known)

    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()

    assert eventually(lambda: gone() is None)  # without a run of the collector of cycles


def test_who_hangs_up_behind_a_last_request_is_let_go_of(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ossensor.vsensor.connection.CLOSING_S", 0.2)
    monkeypatch.setattr(running.collector._order, "_patience_s", 0.2)
    message = running.signer.message(1)  # waits for its predecessor
    message.fields.append(("Connection", "close"))
    with running.wire.connect() as connection:
        connection.sendall(running.wire.head(message) + message.body)
        connection.shutdown(socket.SHUT_WR)  # a killed sensor's kernel does this, and says nothing of TLS

        assert eventually(lambda: running.collector.tally["out-of-order"] == 1)
        assert eventually(lambda: not running.server.server_state.connections)


class Endless:
    """A source whose every byte is sent, and which remembers what it was to fill."""

    def __init__(self) -> None:
        self.filled: list[memoryview] = []

    def fill(self, view: memoryview, took: Callable[[int], None]) -> asyncio.Future[bool]:
        self.filled.append(view)
        took(len(view))
        done = asyncio.get_running_loop().create_future()
        done.set_result(True)
        return done

    def stop(self) -> None:
        pass


def test_what_many_send_in_vain_takes_the_memory_of_one() -> None:
    sources = [Endless(), Endless()]

    async def discard() -> None:
        await asyncio.gather(*(Body(source, 1_000_000).discard() for source in sources))

    asyncio.run(discard())
    views = [view for source in sources for view in source.filled]
    assert sum(map(len, views)) == 2_000_000
    assert len({id(view.obj) for view in views}) == 1
    assert max(map(len, views)) == 64 << 10
