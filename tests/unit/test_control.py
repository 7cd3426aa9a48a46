"""The channel between supervisor and uploader, seen from the end that must not believe the other."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ossensor import control
from ossensor.control import Channel, Parts


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    a, b = Channel.pair()
    yield a, b
    a.close()
    b.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def open_fds() -> set[tuple[str, str]]:
    """What is open, and on what. Others close theirs at any time, when the collector comes by; a leak is one more."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing
            found.add((path.name, str(path.readlink())))
    return found


def post(channel: Channel, data: bytes, fds: tuple[int, ...] = ()) -> None:
    """What an end that is somebody else's may send."""
    socket.send_fds(channel._sock, [data], list(fds))


def test_messages_keep_their_borders_and_their_order(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    assert a.send("ready")
    assert a.send("guard", flows=[["192.0.2.1", 8443]], text='a"\n\0é')

    assert b.receive() == [
        ({"op": "ready"}, []),
        ({"op": "guard", "flows": [["192.0.2.1", 8443]], "text": 'a"\n\0é'}, []),
    ]


def test_both_ends_speak(ends: tuple[Channel, Channel]) -> None:
    a, b = ends
    a.send("x")
    b.send("y")

    assert [a.receive(), b.receive()] == [[({"op": "y"}, [])], [({"op": "x"}, [])]]


def test_nothing_to_read_is_an_empty_list_at_once(ends: tuple[Channel, Channel]) -> None:
    assert ends[0].receive() == []


def test_descriptors_arrive_with_their_message_and_work(ends: tuple[Channel, Channel], pipe: tuple[int, int]) -> None:
    a, b = ends
    a.send("none")
    a.send("add", pipe, queue=3)
    (_, no_fds), (message, (read, write)) = b.receive()

    assert (no_fds, message) == ([], {"op": "add", "queue": 3})
    os.write(write, b"through")
    assert os.read(pipe[0], 100) == b"through"
    os.close(read)
    os.close(write)


GARBAGE = {
    "no JSON": b"hello",
    "not UTF-8": b'{"op": "\xff"}',
    "cut": b'{"op": "add"',
    "a list": b'["op"]',
    "a number": b"7",
    "no op": b'{"queue": 1}',
    "op of another type": b'{"op": 7}',
    "op missing in null": b"null",
    "larger than a message may be": b'{"op": "' + b"x" * (64 << 10) + b'"}',
    "number past Python's limit": b'{"op": "x", "n": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_is_left_out_and_its_descriptors_are_closed(
    ends: tuple[Channel, Channel], pipe: tuple[int, int], data: bytes
) -> None:
    a, b = ends
    before = open_fds()
    post(a, data, pipe)
    a.send("after")

    assert b.receive() == [({"op": "after"}, [])]
    assert open_fds() <= before


def test_deeply_nested_garbage_is_left_out_too(ends: tuple[Channel, Channel], pipe: tuple[int, int]) -> None:
    a, b = ends
    before = open_fds()
    post(a, b"[" * 60_000, pipe)

    assert b.receive() == []
    assert open_fds() <= before


def test_the_descriptors_of_an_empty_message_are_closed(ends: tuple[Channel, Channel], pipe: tuple[int, int]) -> None:
    a, b = ends
    before = open_fds()
    post(a, b"", pipe)

    assert b.receive() == []
    assert open_fds() <= before


def test_more_descriptors_than_a_message_may_bring_do_not_stay_open(
    ends: tuple[Channel, Channel], pipe: tuple[int, int]
) -> None:
    a, b = ends
    before = open_fds()
    post(a, b'{"op": "x"}', (pipe[0],) * 12)
    ((_, fds),) = b.receive()
    for fd in fds:
        os.close(fd)

    assert len(fds) == 8
    assert open_fds() <= before


def test_sending_to_an_end_that_is_gone_is_false() -> None:
    a, b = Channel.pair()
    b.close()

    assert not a.send("x")
    assert a.receive() == []
    a.close()


def test_what_was_sent_before_the_end_is_read_after_it() -> None:
    a, b = Channel.pair()
    a.send("last words")
    a.close()

    assert b.receive() == [({"op": "last words"}, [])]
    assert b.receive() == []
    b.close()


def test_an_end_that_left_our_messages_unread_is_gone_and_not_an_error() -> None:
    """Linux answers the next read with ECONNRESET then."""
    a, b = Channel.pair()
    a.send("unread")
    b.close()

    assert a.receive() == []
    assert not a.send("x")
    a.close()


def test_sending_to_an_end_that_does_not_read_is_false_after_some_patience(
    ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 0.05)
    a, b = ends
    accepted = 0
    while a.send("x", text="x" * 1000):
        accepted += 1

    assert accepted > 10
    assert len(b.receive()) == accepted
    assert a.send("x")


def test_an_end_that_reads_late_gets_everything(ends: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch) -> None:
    """As an uploader that starts does, with hundreds of queues to be told of."""
    monkeypatch.setattr(control, "_PATIENCE_S", 120.0)
    a, b = ends
    received: list[tuple[dict[str, object], list[int]]] = []
    done = threading.Event()

    def read() -> None:
        while len(received) < 1000 and not done.is_set():
            received.extend(b.receive())

    reader = threading.Thread(target=read)
    while a._sock.send(b'{"op": "fill"}'):  # until it is full, so that the first send below has to wait
        if not select.select([], [a], [], 0)[1]:
            break
    reader.start()
    sent = [a.send("add", queue=n) for n in range(1000)]
    done.set()
    reader.join()
    received.extend(b.receive() + b.receive() + b.receive() + b.receive())

    assert sent == [True] * 1000
    assert [m["queue"] for m, _ in received if m["op"] == "add"] == list(range(1000))


def test_an_end_is_known_to_be_gone_once_it_has_been_read_to_the_end() -> None:
    a, b = Channel.pair()
    a.send("last words")
    b.receive()
    assert not b.ended
    b.receive()  # nothing waits, which is no end
    assert not b.ended
    a.close()
    b.receive()

    assert b.ended
    b.close()


def test_an_end_that_was_closed_over_our_unread_words_is_known_to_be_gone() -> None:
    a, b = Channel.pair()
    a.send("unread")
    b.close()
    a.receive()

    assert a.ended
    a.close()


class Chatterbox:
    """A socket whose other end always has one more message."""

    def __init__(self) -> None:
        self.read = 0

    def recvmsg(self, *_: int) -> tuple[bytes, list[object], int, None]:
        self.read += 1
        if self.read > 10_000:
            raise AssertionError("still reading")
        return b'{"op": "guard"}', [], 0, None


def test_an_end_that_never_stops_talking_does_not_hold_the_reader() -> None:
    assert len(Channel(Chatterbox()).receive()) < 10_000  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 1, 23_999, 24_000, 24_001, 1_000_000])
def test_a_text_longer_than_a_message_arrives_whole(
    ends: tuple[Channel, Channel], length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "_PATIENCE_S", 120.0)
    ours, theirs = ends
    text = ('"\\' * length)[:length]  # the characters that JSON spells with two
    parts = Parts()
    wholes: list[str] = []
    sender = threading.Thread(target=lambda: ours.send_text("orders", text))
    sender.start()
    while not wholes:
        for message, _ in theirs.receive():
            whole = parts.maybe_whole(message)
            wholes += [] if whole is None else [whole]
    sender.join()
    assert wholes == [text]


@pytest.mark.parametrize(
    "messages",
    [
        [{"number": 1, "parts": 2, "text": "b"}],
        [{"number": 0, "parts": 3, "text": "a"}, {"number": 2, "parts": 3, "text": "c"}],
        [{"number": 0, "parts": 2, "text": 1}, {"number": 1, "parts": 2, "text": "b"}],
        [{"number": 0, "parts": "2", "text": "a"}],
        [{"number": 0, "parts": 1_000_000, "text": "a"}],
        [{"text": "a"}],
    ],
)
def test_parts_that_do_not_fit_are_no_text(messages: list[dict[str, Any]]) -> None:
    parts = Parts()
    assert [parts.maybe_whole(message) for message in messages] == [None] * len(messages)
    assert parts.maybe_whole({"number": 0, "parts": 1, "text": "next"}) == "next"


@pytest.mark.parametrize("text", ["é" * 12_000, "\x01" * 12_000, "x" * 24_001])
def test_a_text_that_could_not_be_sent_on_is_none(text: str) -> None:
    """The supervisor passes orders and reports from child to child, and a message that is too long is a bug there."""
    assert Parts().maybe_whole({"op": "orders", "number": 0, "parts": 1, "text": text}) is None
