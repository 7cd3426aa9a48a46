"""Which ECS task this is: from a real HTTP server that answers well, badly, slowly or not at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from ossensor.transport.taskmetadata import Task, maybe_read, maybe_task

ID = "158d1c8083dd49d6b527399fd6414f5c"
ARN = f"arn:aws:ecs:eu-central-1:111122223333:task/a-cluster/{ID}"
DOCUMENT = json.dumps({"Cluster": "a-cluster", "TaskARN": ARN, "Family": "web", "Revision": "7"}).encode()


@pytest.mark.parametrize(
    "document,name",
    [
        (DOCUMENT, ID),
        (json.dumps({"TaskARN": f"arn:aws:ecs:eu-central-1:111122223333:task/{ID}"}).encode(), ID),  # the old form
        (b"", None),
        (b"no JSON", None),
        (b"[" * 100_000, None),
        (b"[]", None),
        (b"{}", None),
        (b'{"TaskARN": 7}', None),
        (b'{"TaskARN": "task/"}', None),
        (b'{"TaskARN": "task/../.."}', None),
        (b'{"TaskARN": "task/a b"}', None),
    ],
)
def test_a_task_is_named_by_the_end_of_its_arn(document: bytes, name: str | None) -> None:
    assert (maybe_read(document) or (None,))[0] == name


Serve = Callable[[Callable[[socket.socket], None]], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def start(answer: Callable[[socket.socket], None]) -> str:
            def once() -> None:
                with listener.accept()[0] as connection:
                    heard.append(connection.recv(4096))
                    try:
                        answer(connection)
                    except OSError:
                        return  # it has hung up

            threading.Thread(target=once, daemon=True).start()
            return f"http://127.0.0.1:{listener.getsockname()[1]}/v4/some-container"

        heard: list[bytes] = []
        start.heard = heard  # type: ignore[attr-defined]
        yield start


def response(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def test_the_endpoint_is_asked_for_the_task(serve: Serve) -> None:
    uri = serve(lambda connection: connection.sendall(response(DOCUMENT)))

    details = {"arn": ARN, "cluster": "a-cluster", "family": "web", "revision": "7"}
    assert maybe_task(uri, 20) == Task(ID, details)
    assert serve.heard[0].startswith(b"GET /v4/some-container/task HTTP/1.1\r\n")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"220 no HTTP\r\n",
        response(DOCUMENT)[:-1],
        response(DOCUMENT, "404 Not Found"),
        response(DOCUMENT, "302 Found"),
        response(b"{}"),
        response(DOCUMENT + b" " * (256 << 10)),
    ],
)
def test_any_other_answer_is_no_task(serve: Serve, said: bytes) -> None:
    uri = serve(lambda connection: connection.sendall(said))

    assert maybe_task(uri, 20) is None


@pytest.mark.parametrize(
    "head",
    [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n"],
    ids=["head", "body", "last body"],
)
def test_who_answers_in_drips_is_hung_up_on(serve: Serve, head: bytes) -> None:
    def drips(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"H")
            time.sleep(0.02)

    uri = serve(drips)
    others = set(threading.enumerate())  # the server's, and what other tests have left

    # That it returns is the test: drips would go on for ever.
    assert maybe_task(uri, 0.1) is None
    assert set(threading.enumerate()) <= others


@pytest.mark.parametrize("uri", ["", "http://", "https://127.0.0.1/v4", "http://127.0.0.1:99999/", "http://[::1", "x"])
def test_what_is_no_address_is_not_asked(uri: str) -> None:
    assert maybe_task(uri, 20) is None


def test_nobody_there_is_no_task() -> None:
    with socket.socket() as deaf:  # bound, so that nobody else can be there, and not listening
        deaf.bind(("127.0.0.1", 0))
        assert maybe_task(f"http://127.0.0.1:{deaf.getsockname()[1]}/v4", 20) is None
