"""Notices from the serving process to the streaming one: this file is committed from here to there.

Invariant: what a notice names is committed, flushed, and never written again; a notice holds no packet. Every packet
that is committed is in exactly one notice, or counted as `unannounced`.

Either process may be killed between any two lines, so a notice says where in ANNOUNCED it ends. The sender counts, and
sends then; the receiver receives, and counts then. Whoever is killed between the two leaves a gap before the next
notice, or before the end, and the receiver finds it there.

The packets themselves are read from the store's files, by the streaming process, so what the store's writer does for
the streams is one send of some hundred bytes that never waits, after its sensors were answered. Rejected: sending the
sections (a copy of each byte in the writer's thread, and megabytes of socket buffer for a reader that hangs); watching
the index (a reader that is stopped inside a transaction keeps SQLite's log from being begun anew, and it grows).
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from ossensor.vsensor.index import Row

from .books import Books, Count

# Beyond this many files with something untold, the streaming process has been deaf for a thousand rotations.
_FILES_MAX: Final = 1024
_LAST_S: Final = 0.5  # of the keeper's patience with the serving process
_HEAD: Final = struct.Struct("<QQQQ")
LONGEST_BYTES: Final = 4096  # a path of the store has at most 63 + 3 * 15 + 40 characters


class Notice(NamedTuple):
    """A stretch of one file, whole sections, that is committed."""

    file: str  # relative to the store's root
    start: int
    end: int
    packets: int
    position: int = 0  # in ANNOUNCED, after these packets; given when it is sent

    def encode(self) -> bytes:
        return _HEAD.pack(self.start, self.end, self.packets, self.position) + self.file.encode()

    @classmethod
    def decode(cls, message: bytes) -> Notice:
        return cls(message[_HEAD.size :].decode(), *_HEAD.unpack_from(message))


class Announcer:
    """The serving process's end of the channel. For any thread."""

    def __init__(self, channel: socket.socket, books: Books) -> None:
        self._channel = channel
        self._books = books
        self._lock = threading.Lock()
        self._untold: dict[str, Notice] = {}

    def begin(self, packets: int) -> None:
        """For a new serving process, before it stores anything: the store holds so many packets.

        Between a commit and its notice a process can be killed; then nobody hears of that commit. The successor finds
        it missing here and counts it.
        """
        if not self._books[Count.STORED_BEFORE]:
            self._books.add(Count.STORED_BEFORE, packets + 1)  # 0 is "not known yet"
        told = self._books[Count.ANNOUNCED] + self._books[Count.UNANNOUNCED]
        self._books.add(Count.UNANNOUNCED, max(0, packets - (self._books[Count.STORED_BEFORE] - 1) - told))

    def committed(self, rows: Iterable[Row]) -> None:
        """Tells of rows, in the order of their commit. Never waits: what the channel does not take is told later."""
        with self._lock:
            for row in rows:
                self._add(row)
            self._send()

    def retry(self) -> None:
        """What could not be told, once more: after the last batch of a burst no other may come for long."""
        with self._lock:
            self._send()

    def end(self) -> None:
        """The last word. No sensor waits any more, so here it may wait a little for room; the rest is counted."""
        deadline_s = time.monotonic() + _LAST_S
        poll = select.poll()
        poll.register(self._channel, select.POLLOUT)
        with self._lock:
            self._send()
            while self._untold and (left_s := deadline_s - time.monotonic()) > 0:
                poll.poll(left_s * 1000)
                self._send()
            self._books.add(Count.UNANNOUNCED, sum(notice.packets for notice in self._untold.values()))
            self._untold.clear()

    def _add(self, row: Row) -> None:
        before = self._untold.get(row.file)
        # Sections lie in a file end to end, so two stretches that follow one another are one.
        start, packets = (row.offset, row.packets) if before is None else (before.start, before.packets + row.packets)
        self._untold[row.file] = Notice(row.file, start, row.offset + row.length, packets)
        while len(self._untold) > _FILES_MAX:
            self._books.add(Count.UNANNOUNCED, self._untold.pop(next(iter(self._untold))).packets)

    def _send(self) -> None:
        for file, notice in list(self._untold.items()):
            self._books.add(Count.ANNOUNCED, notice.packets)
            message = notice._replace(position=self._books[Count.ANNOUNCED]).encode()
            try:
                self._channel.send(message, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            except OSError:  # full, whoever was to empty it; the keeper holds the other end, so it is not closed
                self._books.add(Count.ANNOUNCED, -notice.packets)
                return
            del self._untold[file]


def hear(channel: socket.socket, books: Books) -> Iterator[Notice]:
    """What the channel holds now, for the streaming process; each notice is counted as taken."""
    with suppress(BlockingIOError):
        while True:
            notice = Notice.decode(channel.recv(LONGEST_BYTES))
            if books.take(notice.position, notice.packets):
                yield notice


def heard_all(books: Books) -> None:
    """No notice is to come: what was announced and not heard of was in hand when a process was killed."""
    books.take(books[Count.ANNOUNCED], 0)
