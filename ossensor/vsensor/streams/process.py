"""The streaming process: one loop over notices, readers and a clock. Whatever happens to it, ingestion goes on.

Invariant: between two looks at its sockets the loop handles one section, and it waits for no peer but, for a moment at
a time, a full queue of the network card. It writes nothing that anybody else reads, except its counts.
"""

from __future__ import annotations

import logging
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from ossensor import __version__, pcapng
from ossensor.errors import Exit
from ossensor.ratelimit import Bucket, Sparse
from ossensor.vsensor.keeper import heed_stops
from ossensor.vsensor.report import Report

from .books import Books, Count
from .feed import Feed
from .live import Pcap, Pcapng, frames
from .notices import hear, heard_all
from .readers import Reader, Readers
from .sender import Sender

_log = logging.getLogger(__name__)

REPORT_S: Final = 5.0
# What a stop may take, and the keeper's patience with it, after the serving process: runtimes wait 10 s in all.
STOP_S: Final = 2.0
_LAST_S: Final = 1.5


@dataclass(frozen=True, slots=True)
class Settings:
    """What the streaming process needs to know."""

    store: Path
    sensors: frozenset[str]  # empty: all
    pcap: bool  # what readers are written: pcap in place of pcapng
    vxlan: tuple[str, int] | None
    vni: int


class Sockets(NamedTuple):
    """What every streaming process inherits."""

    channel: socket.socket
    listener: socket.socket | None  # for readers
    lanes: Sequence[socket.socket]  # that VXLAN leaves by


def run(settings: Settings, sockets: Sockets, books: Books, report: Report) -> int:
    """The exit code of a streaming process that was asked to stop: 0."""
    return _Streaming(settings, sockets, books, report).run()


class _Streaming:
    def __init__(self, settings: Settings, sockets: Sockets, books: Books, report: Report) -> None:
        self._channel = sockets.channel
        self._books = books
        self._report = report
        self._sparse = Sparse()
        self._lines = Bucket(per_s=1, burst=100)  # readers may come and go in a loop; the counts have them all
        self._feed = Feed(settings.store, books, settings.sensors, self._complain)
        self._readers = Readers(Pcap() if settings.pcap else Pcapng(f"ossensor/{__version__}"), books)
        self._sender = None
        if settings.vxlan is not None:
            self._sender = Sender(sockets.lanes, settings.vxlan, settings.vni, books, self._complain)
        self._selector = selectors.DefaultSelector()
        self._on(sockets.channel, self._listen)
        if sockets.listener is not None:
            self._on(sockets.listener, partial(self._accept, sockets.listener))
        self._stopping = False

    def run(self) -> int:
        self._watch_signals()
        if killed := self._books.inherit():
            self._complain("killed", f"streams: the last process had {killed} packets in hand; the store has them")
        due_s = 0.0
        while not self._stopping:
            now_s = time.monotonic()
            if now_s >= due_s:
                due_s = now_s + REPORT_S
                self._report.streamed(self._books.counts())
            self._turn(0 if self._feed else due_s - now_s)
        self._finish(time.monotonic() + _LAST_S)
        self._report.streamed(self._books.counts())
        return Exit.DRAINED

    def _watch_signals(self) -> None:
        """Handlers do nothing; the number arrives on a descriptor, in the loop.

        Ctrl-C is not for us: the keeper asks us to stop when the serving process, which gets it too, has ended.
        """
        waking, woken = socket.socketpair()
        for end in (waking, woken):
            end.setblocking(False)
        self._on(woken, partial(self._stop, woken))
        signal.set_wakeup_fd(waking.detach())
        signal.signal(signal.SIGTERM, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        heed_stops()

    def _stop(self, woken: socket.socket) -> None:
        woken.recv(64)
        self._stopping = True

    def _on(self, source: socket.socket, act: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, lambda _: act())

    def _turn(self, timeout_s: float) -> None:
        """One look at the sockets, then one section."""
        for key, events in self._selector.select(timeout_s):
            key.data(events)
        if self._feed and self._sender is None and not self._readers.all:
            self._feed.let_go(Count.IDLE)
        if self._feed:
            self._pass_on()

    def _listen(self) -> None:
        for notice in hear(self._channel, self._books):
            self._feed.add(notice)

    def _pass_on(self) -> None:
        section = self._feed.next()
        if section is None:
            return
        try:  # all of it before any output has anything of it
            found = frames(section.data) if self._sender is not None else []
            piece = self._readers.prepare(section.sensor, section.data) if self._readers.all else None
        except pcapng.FormatError as e:
            self._complain("format", f"streams: a section of {section.sensor} is no pcapng: {e}")
            return
        if self._sender is not None:
            self._sender.send(found)
        if piece is not None:
            for reader in self._readers.give(piece):
                self._cut_off(reader)
        self._feed.passed_on(piece.packets + piece.left_out if piece is not None else len(found))
        for reader in self._readers.all[:]:
            self._write(reader)

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, where = listener.accept()
        except OSError:  # it has gone again, or there are no descriptors: the next one may have more luck
            return
        peer = f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"
        reader = self._readers.join(connection, peer)
        if reader is None:
            self._complain("refused", f"streams: {peer} refused: there are enough readers")
            return
        self._selector.register(connection, selectors.EVENT_READ, partial(self._hear, reader))
        if self._lines.take(time.monotonic()):
            self._report.reader_joined(peer)
        self._write(reader)

    def _hear(self, reader: Reader, events: int) -> None:
        try:
            gone = bool(events & selectors.EVENT_READ) and reader.hung_up()
        except OSError:
            gone = True
        if gone:
            self._leave(reader)
        elif events & selectors.EVENT_WRITE:
            self._write(reader)

    def _write(self, reader: Reader) -> None:
        try:
            reader.write()
        except OSError:
            self._leave(reader)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if reader.queued_bytes else 0)
        if self._selector.get_key(reader.connection).events != events:
            self._selector.modify(reader.connection, events, partial(self._hear, reader))

    def _leave(self, reader: Reader) -> None:
        self._selector.unregister(reader.connection)
        self._readers.leave(reader)
        if self._lines.take(time.monotonic()):
            self._report.reader_left(reader.peer, reader.sent_packets, reader.unsent_packets)

    def _cut_off(self, reader: Reader) -> None:
        self._selector.unregister(reader.connection)
        self._readers.cut_off(reader)
        self._report.reader_cut_off(reader.peer, reader.sent_packets, reader.unsent_packets, reader.queued_bytes)

    def _finish(self, deadline_s: float) -> None:
        """What was announced before the stop is passed on, as far as there is time; then readers' files end."""
        self._listen()
        heard_all(self._books)
        while self._feed and time.monotonic() < deadline_s:
            self._turn(0)
        self._feed.let_go(Count.BEHIND)
        while any(r.queued_bytes for r in self._readers.all) and (left_s := deadline_s - time.monotonic()) > 0:
            self._turn(left_s)
        for reader in self._readers.all[:]:
            if reader.queued_bytes:
                self._cut_off(reader)
            else:
                self._leave(reader)

    def _complain(self, key: str, text: str) -> None:
        omitted = self._sparse.due(key, time.monotonic())
        if omitted is not None:
            _log.warning("%s%s", text, f" ({omitted} times more since it was last said)" if omitted else "")
