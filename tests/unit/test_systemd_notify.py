"""What a service manager hears: a real datagram socket, at a path and at an abstract name."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossensor.systemd.notify import Manager

PID = 4711


class Ear:
    """The manager's end."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0"))
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        while True:
            try:
                messages.append(self._socket.recv(65_536).decode())
            except BlockingIOError:
                return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ear]:
    made = Ear(str(tmp_path / "notify") if request.param == "path" else f"@ossensor-test-{secrets.token_hex(8)}")
    yield made
    made.close()


def test_a_manager_hears_each_step_of_a_life(ear: Ear) -> None:
    manager = Manager({"NOTIFY_SOCKET": ear.address}, PID)
    assert manager.listens
    manager.ready()
    manager.status("running\n  well")
    manager.status("running well")
    manager.stopping()

    assert ear.heard() == ["READY=1", "STATUS=running well", "STOPPING=1"]


def test_a_reload_bears_the_monotonic_time_in_microseconds(ear: Ear) -> None:
    before = time.monotonic_ns() // 1000
    Manager({"NOTIFY_SOCKET": ear.address}, PID).reloading()
    after = time.monotonic_ns() // 1000

    ((first, second),) = [message.splitlines() for message in ear.heard()]
    assert first == "RELOADING=1"
    name, _, usec = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(usec) <= after


def test_the_watchdog_is_fed_four_times_in_its_time(ear: Ear) -> None:
    manager = Manager({"NOTIFY_SOCKET": ear.address, "WATCHDOG_USEC": "8000000", "WATCHDOG_PID": str(PID)}, PID)
    for second in range(9):
        manager.alive(1000.0 + second)

    assert ear.heard() == ["WATCHDOG=1"] * 5


@pytest.mark.parametrize("more", [{}, {"WATCHDOG_USEC": "8000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}])
def test_where_no_watchdog_waits_for_us_none_is_fed(ear: Ear, more: dict[str, str]) -> None:
    Manager({"NOTIFY_SOCKET": ear.address, **more}, PID).alive(1000.0)

    assert ear.heard() == []


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234"}])
def test_where_there_is_no_manager_nothing_is_told(environ: dict[str, str]) -> None:
    manager = Manager(environ, PID)
    manager.ready()

    assert not manager.listens


def test_a_manager_that_is_gone_or_does_not_read_holds_nobody_up(ear: Ear) -> None:
    manager = Manager({"NOTIFY_SOCKET": ear.address}, PID)
    for number in range(10_000):
        manager.status(str(number))
    assert 0 < len(ear.heard()) < 10_000
    ear.close()

    manager.ready()
