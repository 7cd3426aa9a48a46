"""As many connections as the descriptors allow, and a file of the store never lacks one."""

from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from types import ModuleType

import pytest
from test_vsensor_kit import Running

from ossensor.transport.protocol import Outcome
from ossensor.vsensor import descriptors
from ossensor.vsensor.files import OPEN_MAX


@pytest.fixture
def soft_1024() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_is_raised_as_far_as_the_connections_need_and_no_further(soft_1024: int) -> None:
    wanted = descriptors.CONNECTIONS_MAX + OPEN_MAX + 128
    expected = wanted if soft_1024 == resource.RLIM_INFINITY else min(wanted, soft_1024)

    assert expected == descriptors.raise_limit()
    assert (expected, soft_1024) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert expected == descriptors.raise_limit()  # repeated, it changes nothing


@pytest.mark.parametrize(
    "limit, connections",
    [(1 << 20, 4096), (4096 + 256 + 128, 4096), (4096, 4096 - 256 - 128), (1024, 640), (256, 512)],
)
def test_files_and_the_rest_come_off_before_connections_do(limit: int, connections: int) -> None:
    assert connections == descriptors.connections(limit)


def test_the_loop_is_asyncio_s_whatever_else_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop accepts connections by itself: nobody was turned away."""
    monkeypatch.setitem(sys.modules, "uvloop", ModuleType("uvloop"))
    running = Running(tmp_path)
    factory = running.server.config.get_loop_factory()
    assert factory is asyncio.SelectorEventLoop
    with running:
        assert running.send(0).outcome is Outcome.STORED


def test_strangers_who_say_nothing_take_no_descriptor_of_the_store_s(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.server.config.limit_concurrency = 4
    with running, ExitStack() as stack:

        def stranger() -> socket.socket:
            return stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 20))

        silent = [stranger() for _ in range(3)]
        assert [stranger().recv(1) for _ in range(3)] == [b""] * 3
        with pytest.raises((ssl.SSLError, ConnectionError)):
            running.send(0)

        silent.pop().close()  # there is room again, as soon as it is noticed
        while True:
            with suppress(OSError):
                assert running.send(0).outcome is Outcome.STORED
                break


def test_who_is_inside_is_served_however_many_knock(tmp_path: Path) -> None:
    running = Running(tmp_path)
    running.server.config.limit_concurrency = 4
    with running, ExitStack() as stack:
        inside = [stack.enter_context(running.wire.connect()) for _ in range(3)]
        for _ in range(5):
            knocking = stack.enter_context(socket.create_connection(("127.0.0.1", running.port), 20))
            answers = [asked(connection) for connection in inside]
            assert (knocking.recv(1), answers) == (b"", [b"HTTP/1.1 200"] * 3)


def asked(connection: ssl.SSLSocket) -> bytes:
    connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: v\r\n\r\n")
    return connection.recv(4096)[:12]
