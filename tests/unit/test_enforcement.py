"""The supervisor's side of the enforcer: each life is told everything, in the order that spares before it ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from ossensor import control, enforcement
from ossensor.children import State
from ossensor.confine.policy import Role
from ossensor.control import Channel, Parts
from ossensor.enforcement import Enforcement
from ossensor.filters import Flow
from ossensor.transport.orders import Report
from ossensor.workers.enforcer import Plan

ORDERS = json.dumps({"ahead_s": 1.5, "orders": {"book": "a" * 32, "version": 1, "actions": []}})
FLOW = Flow("192.0.2.9", 443)
SURROUNDINGS = ("surroundings", {"interfaces": ["eth0", "eth1"], "flows": [["192.0.2.9", 443]]})


def _descriptors() -> set[tuple[str, str]]:
    """What is open, and on what. Others close theirs at any time, when the collector comes by; a leak is one more."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing
            found.add((path.name, str(path.readlink())))
    return found


class FakeSockets:
    descriptors = (10, 11)

    def __init__(self) -> None:
        self.closed = False

    def close(self) -> None:
        self.closed = True


class FakeProcess:
    def __init__(self) -> None:
        self.done: list[object] = []

    def signal(self, number: signal.Signals) -> None:
        self.done.append(number)

    def give_up(self) -> None:
        self.done.append("given up")

    def kill(self) -> None:
        self.done.append("killed")

    def struck(self, exit_code: int) -> bool:
        return exit_code == -signal.SIGKILL


class FakeForge:
    """Keeps, of each life, the enforcer's end of the channel."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self.lives: list[tuple[FakeProcess, Channel]] = []

    def spawn(self, name: str, role: Role, _heartbeat: object, keep_fds: tuple[int, ...], _work: object) -> FakeProcess:
        assert (name, role, keep_fds[1:]) == ("oss-antigena", Role.ENFORCE, FakeSockets.descriptors)
        if self.error is not None:
            raise self.error
        sock = socket.socket(fileno=os.dup(keep_fds[0]))
        sock.setblocking(False)
        self.lives.append((FakeProcess(), Channel(sock)))
        return self.lives[-1][0]


class Bench:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.opened: list[FakeSockets] = []
        monkeypatch.setattr(enforcement, "open_sockets", self._open)
        self.reports: list[str] = []
        self.enforcement = Enforcement(Plan("enforce", ()), self.reports.append)
        self.forge = FakeForge()
        self._parts = Parts()

    def _open(self) -> FakeSockets:
        self.opened.append(FakeSockets())
        return self.opened[-1]

    def start(self) -> None:
        forge: Any = self.forge
        self.enforcement.start(forge)

    def started(self) -> None:
        self.enforcement.attend(["eth1", "eth0"], [FLOW])
        self.enforcement.order(ORDERS)
        self.start()

    def told(self) -> list[tuple[str, Any]]:
        """What the life of the moment has been told since the last call."""
        texts = [(message["op"], self._parts.maybe_whole(message)) for message, _ in self.forge.lives[-1][1].receive()]
        return [(op, json.loads(text)) for op, text in texts if text is not None]

    def close(self) -> None:
        if self.enforcement.fileno() is not None:
            self.enforcement.ended(0)
        for _, channel in self.forge.lives:
            channel.close()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with closing(Bench(monkeypatch)) as one:
        yield one


def test_without_orders_there_is_no_enforcer_and_with_them_there_is_one_that_knows_what_to_spare(bench: Bench) -> None:
    due = [bench.enforcement.due(0)]
    bench.enforcement.order(ORDERS)
    due.append(bench.enforcement.due(0))
    bench.enforcement.attend(["eth0"], [])
    due.append(bench.enforcement.due(0))

    assert due == [False, False, True]


def test_it_is_told_what_is_to_be_spared_and_then_what_is_to_be_ended(bench: Bench) -> None:
    bench.started()

    assert bench.told() == [SURROUNDINGS, ("orders", json.loads(ORDERS))]
    assert [sockets.closed for sockets in bench.opened] == [True]


def test_it_is_told_of_changes_alone(bench: Bench) -> None:
    bench.started()
    bench.told()
    bench.enforcement.attend(["eth0", "eth1"], [FLOW])
    assert bench.told() == []

    bench.enforcement.attend(["eth1"], [])
    bench.enforcement.order(ORDERS)
    assert bench.told() == [("surroundings", {"interfaces": ["eth1"], "flows": []}), ("orders", json.loads(ORDERS))]


def test_the_successor_of_one_that_was_killed_starts_at_once_and_is_told_everything_again(bench: Bench) -> None:
    bench.started()
    bench.told()
    bench.enforcement.ended(-signal.SIGKILL)
    assert bench.enforcement.fileno() is None
    newer = ORDERS.replace('"version": 1', '"version": 2')
    bench.enforcement.order(newer)  # while there is nobody

    assert bench.enforcement.due(float("inf"))
    bench.start()
    assert bench.told() == [SURROUNDINGS, ("orders", json.loads(newer))]
    assert len(bench.forge.lives) == 2


def test_what_it_reports_is_passed_on_and_descriptors_that_come_with_it_are_closed(bench: Bench) -> None:
    bench.started()
    report = Report("enforce", "a" * 32, 1, {"a": {"matched": 1}}).body.decode()
    theirs = bench.forge.lives[-1][1]
    read, write = os.pipe()
    theirs.send("report", (write,), number=0, parts=1, text=report)
    theirs.send("something else", text="?")
    os.close(write)
    bench.enforcement.listen()

    assert bench.reports == [report]
    assert os.read(read, 1) == b""  # nobody has the other end any more
    os.close(read)


def test_an_enforcer_that_cannot_be_started_backs_off_and_leaves_nothing_open(bench: Bench) -> None:
    before = _descriptors()
    bench.forge.error = OSError(errno.EAGAIN, "no processes")
    with pytest.raises(OSError, match="no processes"):
        bench.started()

    assert (bench.enforcement.process, bench.enforcement.fileno()) == (None, None)
    assert [sockets.closed for sockets in bench.opened] == [True]
    assert _descriptors() <= before
    assert bench.enforcement.child.failures == 1
    bench.forge.error = None
    bench.start()
    assert len(bench.told()) == 2


def test_one_that_hung_up_is_ended(bench: Bench) -> None:
    bench.started()
    process, theirs = bench.forge.lives[-1]
    theirs.close()
    bench.enforcement.listen()

    assert process.done == [signal.SIGKILL]


def test_one_that_does_not_take_what_it_is_told_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 0.0)
    bench.started()
    process = bench.forge.lives[-1][0]
    for number in range(10_000):
        bench.enforcement.attend([f"eth{number}"], [])
        if process.done:
            break

    assert process.done == ["given up"]


def test_a_stop_asks_it_to_end_and_an_end_now_kills_it(bench: Bench) -> None:
    bench.started()
    process = bench.forge.lives[-1][0]
    bench.enforcement.stop()
    assert process.done == [signal.SIGTERM]
    assert bench.enforcement.child.state is State.DRAINING

    bench.enforcement.end_now()
    assert process.done == [signal.SIGTERM, "killed"]
    assert bench.enforcement.process is None
