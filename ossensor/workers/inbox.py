"""What threads have to tell the main thread, and whether it is woken for it.

Invariant: news is never missed and never waited for longer than `UNHURRIED_S`. News that says "I can wait" wakes
nobody while the main thread has said that it is in no hurry; it is heard with whatever comes next.

Why: to wake that thread takes a quarter of a millisecond of processor time, most of it to fetch code that hashing and
sending 4 MiB has driven out of the caches. That is as much as a signature, and twice a batch (once for the batch, once
for its acknowledgement) would be twice what is needed.
"""

from __future__ import annotations

import contextlib
import queue
import socket
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

UNHURRIED_S: Final = 0.1

T = TypeVar("T")


class Inbox(Generic[T]):
    """A queue with a descriptor that can be polled."""

    def __init__(self) -> None:
        self._news: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._hurried = True

    def fileno(self) -> int:
        return self._read.fileno()

    def put(self, news: T, *, can_wait: bool = False) -> None:
        """From any thread."""
        self._news.put(news)
        # Read after the news is there, as `patience_s` looks for news after it has written this: one of the two sees
        # the other.
        if self._hurried or not can_wait:
            with contextlib.suppress(OSError):
                self._write.send(b"!")

    def patience_s(self, *, hurried: bool) -> float:
        """How long the main thread may be away now; `hurried`: the next news changes what it would do."""
        self._hurried = hurried
        return 0.0 if self._news.qsize() else UNHURRIED_S

    def take(self) -> Iterator[T]:
        """What is there, in the order in which it came."""
        with contextlib.suppress(BlockingIOError):
            self._read.recv(4096)
        while self._news.qsize():  # nobody else takes from it
            yield self._news.get_nowait()

    def close(self) -> None:
        self._read.close()
        self._write.close()
