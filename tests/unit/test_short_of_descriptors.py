"""What needs a descriptor and finds none is refused: nobody ends by it, and nothing stays open that makes it worse."""

from __future__ import annotations

import errno
import os
import resource
import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, islice
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from ossensor.confine.policy import Role
from ossensor.filters import Flow
from ossensor.legacy import FlowKeeper
from ossensor.port import Port
from ossensor.slots import Pipes
from ossensor.spawn import Forge
from ossensor.status.server import StatusServer
from ossensor.systemd.fdstore import Store
from ossensor.systemd.notify import Manager
from ossensor.workers.child import Heartbeat

FLOWS = {Flow("10.0.0.1", 443)}


def descriptors() -> set[int]:
    found = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            os.fstat(int(fd.name))
            found.add(int(fd.name))
    return found


@contextmanager
def left(number: int) -> Iterator[None]:
    """So many may be opened still: the kernel gives the lowest number that is free, and none from the limit on."""
    used = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = next(islice((fd for fd in count() if fd not in used), number, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment that names a manager with a store."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        ear.bind(str(tmp_path / "notify"))
        yield {"NOTIFY_SOCKET": str(tmp_path / "notify"), "FDSTORE": "8"}


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_of_doorbells_that_cannot_be_had_none_stays(number: int) -> None:
    before = descriptors()
    with left(number), pytest.raises(OSError, match="Too many open files"):
        Pipes.create()
    assert descriptors() == before


@pytest.mark.parametrize("number", [0, 1, 2, 3, 4, 5])
def test_of_a_child_that_cannot_be_had_nothing_stays(number: int) -> None:
    forge, heartbeat = Forge(os.geteuid(), os.getegid(), None), Heartbeat()
    before = descriptors()
    with left(number), pytest.raises(OSError, match="Too many open files"):
        forge.spawn("child", Role.CAPTURE, heartbeat, (), Mock())
    assert descriptors() == before


def test_of_a_child_that_the_kernel_refuses_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise OSError(errno.EAGAIN, "no process")

    forge, heartbeat = Forge(os.geteuid(), os.getegid(), None), Heartbeat()
    before = descriptors()
    monkeypatch.setattr(os, "fork", fork)
    for _ in range(3):
        with pytest.raises(OSError, match="no process"):
            forge.spawn("child", Role.CAPTURE, heartbeat, (), Mock())
    assert descriptors() == before


@pytest.mark.parametrize("number", [0, 1])
def test_what_cannot_be_kept_for_another_life_is_not_kept(manager: dict[str, str], number: int) -> None:
    store = Store(manager)
    keeper = FlowKeeper(store)
    port: Any = Port.__new__(Port)
    port.label, port.interface, port._epoch, port._store, port._kept = "eth0", Mock(index=2), b"\0" * 16, store, "x"
    port._tuning, port.region = Mock(ring_bytes=1 << 20, timeout_ms=100), Mock(fd=0)
    engine = Mock(linktype=1)
    engine.socket.fileno.return_value = 0
    before = descriptors()
    with left(number):
        keeper.keep(FLOWS)
        port._keep(engine)

    assert (keeper.flows, port._kept) == (FLOWS, "")
    assert descriptors() == before
    keeper.keep(FLOWS)
    port._keep(engine)
    assert store.holds(port._kept)


def test_a_manager_that_cannot_be_told_is_not(manager: dict[str, str]) -> None:
    with left(0):
        Manager(manager, os.getpid()).ready()


def test_the_status_can_be_asked_for_once_there_is_a_descriptor(tmp_path: Path) -> None:
    with selectors.DefaultSelector() as selector:
        server = StatusServer(str(tmp_path / "status"), selector, lambda: b"{}")
        with left(0):
            server.attend(0.0)
        assert not (tmp_path / "status").exists()
        server.attend(10.0)
        assert (tmp_path / "status").exists()
        server.close()
