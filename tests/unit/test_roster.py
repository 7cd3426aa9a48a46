"""When interfaces are looked at again, how ports are made, and that one which cannot be taken over leaves nothing."""

from __future__ import annotations

import errno
import socket
import threading
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from test_short_of_descriptors import descriptors

from ossensor.legacy import Legacy, Note
from ossensor.region import Region
from ossensor.roster import Roster, _side_by_side


@pytest.mark.parametrize(
    "due_in_s, looks_in_s",
    [
        (None, 0.05),  # a burst of doorbells is one look
        (0.01, 0.01),  # which another doorbell does not put off
        (5.0, 0.05),  # what is tried again later, for want of memory, hides no change until then
    ],
)
def test_a_doorbell_brings_a_look_soon_and_puts_none_off(
    monkeypatch: pytest.MonkeyPatch, due_in_s: float | None, looks_in_s: float
) -> None:
    roster = Roster.__new__(Roster)  # all that a doorbell touches
    now_s = 1000.0
    monkeypatch.setattr("ossensor.roster.time", SimpleNamespace(monotonic=lambda: now_s))
    roster.look_at_s = None if due_in_s is None else now_s + due_in_s
    roster.look_soon()

    assert roster.look_at_s == now_s + looks_in_s


@pytest.mark.parametrize("threads_to_be_had", [0, 3, 1000])
def test_ports_are_made_side_by_side_as_far_as_there_are_threads_each_once_and_none_is_left(
    monkeypatch: pytest.MonkeyPatch, threads_to_be_had: int
) -> None:
    real, begun, made, lock = threading.Thread.start, [], [], threading.Lock()

    def start(thread: threading.Thread) -> None:
        if len(begun) == threads_to_be_had:
            raise RuntimeError("can't start new thread")  # the pids limit, in CPython's words
        begun.append(thread)
        real(thread)

    def make(interface: Any, queue_id: int) -> tuple[Any, int]:
        with lock:
            made.append(queue_id)
        return interface, queue_id

    monkeypatch.setattr(threading.Thread, "start", start)
    of: Any = [(f"eth{n}", n) for n in range(50)]

    assert _side_by_side(make, of) == of
    assert sorted(made) == list(range(50))
    assert len(begun) == min(threads_to_be_had, 15)
    assert not any(thread.is_alive() for thread in begun)
    assert _side_by_side(make, []) == []


def test_a_bug_in_a_thread_that_makes_a_port_is_not_silent() -> None:
    def make(_: Any, queue_id: int) -> int:
        return 1 // queue_id

    of: Any = [("eth1", 1), ("eth0", 0)]
    with pytest.raises(ZeroDivisionError):
        _side_by_side(make, of)


def test_of_an_earlier_capture_that_cannot_be_taken_over_nothing_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EINVAL, "a ring of another size")

    monkeypatch.setattr("ossensor.roster.Port", refuse)
    before = descriptors()
    note = Note("eth0", 2, "ab" * 16, 1, ring_bytes=1 << 20, timeout_ms=100)
    legacy = Legacy("port-1", note, socket.socket(), Region.create(2, 1 << 20))
    roster, store = Roster.__new__(Roster), Mock()
    roster._legacies, roster._next_queue, roster._recipe, roster._gate = [legacy], 1, Mock(), Mock()
    roster._store, roster._complaints = store, Mock()

    roster._inherit({})

    assert descriptors() <= before  # of which the collector may have closed some
    assert [call.args for call in store.forget.call_args_list] == [("port-1",)]
