"""Forking a child: what a signal in its first moment does, and what the parent is left with."""

from __future__ import annotations

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from ossensor.confine.policy import Role
from ossensor.errors import Exit
from ossensor.spawn import Forge, Process
from ossensor.workers.child import Heartbeat, Signals

PATIENCE_S = 120.0  # that only a hang reaches


@pytest.fixture
def wakeup() -> Iterator[socket.socket]:
    """The parent's signals as a readable socket, as the supervisor has them."""
    read, write = socket.socketpair()
    read.setblocking(False)
    write.setblocking(False)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    previous = signal.set_wakeup_fd(write.fileno())
    yield read
    signal.set_wakeup_fd(previous)
    signal.signal(signal.SIGTERM, before)
    read.close()
    write.close()


def wait_for_sigterm(signals: Signals) -> Exit:
    heard: set[int] = set()
    while not heard:
        select.select([signals.fileno()], [], [], PATIENCE_S)
        heard = signals.take()
    return Exit.DRAINED


def end(process: Process) -> int:
    process._process.join(PATIENCE_S)
    code = process.exit_code
    if code is None:
        process.kill()
        raise AssertionError("the child did not hear its SIGTERM")
    return code


def test_a_sigterm_to_a_child_just_forked_reaches_the_child_and_nobody_else(wakeup: socket.socket) -> None:
    forge = Forge(os.geteuid(), os.getegid(), None)
    codes = []
    for _ in range(30):
        process = forge.spawn("newborn", Role.CAPTURE, Heartbeat(), (), wait_for_sigterm)
        process.signal(signal.SIGTERM)
        codes.append(end(process))

    assert codes == [Exit.DRAINED] * 30
    heard = wakeup.recv(4096) if select.select([wakeup], [], [], 0)[0] else b""
    assert heard.count(signal.SIGTERM) == 0


@pytest.mark.usefixtures("wakeup")
def test_struck_is_who_was_killed_by_somebody_else() -> None:
    forge = Forge(os.geteuid(), os.getegid(), None)
    ends: dict[str, Callable[[Process, int], None]] = {
        "by somebody": lambda _, pid: os.kill(pid, signal.SIGKILL),
        "by us": lambda process, _: process.give_up(),
        "by itself": lambda process, _: process.signal(signal.SIGTERM),
    }
    struck = {}
    for how, bring_about in ends.items():
        process = forge.spawn("child", Role.CAPTURE, Heartbeat(), (), wait_for_sigterm)
        pid = process._process.pid
        assert pid is not None
        bring_about(process, pid)
        struck[how] = process.struck(end(process))

    assert struck == {"by somebody": True, "by us": False, "by itself": False}


@pytest.mark.usefixtures("wakeup")
def test_the_parents_own_signals_are_let_through_again() -> None:
    process = Forge(os.geteuid(), os.getegid(), None).spawn("child", Role.CAPTURE, Heartbeat(), (), wait_for_sigterm)

    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()
    process.signal(signal.SIGTERM)
    assert end(process) == Exit.DRAINED
