"""PCAP-over-IP: whoever connects is written an endless file, from its prologue on; what a reader says is not heard.

Invariant: nothing here waits for a reader. What one has not taken lies in its queue, at most `limit_bytes` of it; who
would need more is cut off, by a reset, so that it does not take a file that was cut for one that ended.

Queues hold references to pieces that all readers share, and each queue is the end of the same stream: so hung readers
take the memory of one, however many they are.
"""

from __future__ import annotations

import socket
import struct
from collections import deque
from typing import Final

from .books import Books, Count
from .live import Format, Piece

# Two seconds of a sensor at 300 MB/s, more than any tool reads; a burst of a dozen whole slots at once.
LIMIT_BYTES: Final = 64 << 20
READERS_MAX: Final = 32
_RESET: Final = struct.pack("ii", 1, 0)  # SO_LINGER, on, no time: close() sends RST (tcp(7))


class Reader:
    """One connection. Its calls raise OSError when the peer has gone."""

    def __init__(self, connection: socket.socket, peer: str, prologue: bytes) -> None:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = connection
        self.peer = peer
        self.sent_packets = 0
        self.queued_bytes = 0
        self._queue: deque[tuple[memoryview, int]] = deque()
        self.give(Piece(prologue, 0, 0))

    def give(self, piece: Piece) -> None:
        if piece.data:
            self._queue.append((memoryview(piece.data), piece.packets))
            self.queued_bytes += len(piece.data)

    @property
    def unsent_packets(self) -> int:
        """Packets of pieces that are not written whole."""
        return sum(packets for _, packets in self._queue)

    def write(self) -> None:
        """Writes what the connection takes now."""
        while self._queue:
            data, packets = self._queue[0]
            try:
                written = self.connection.send(data)
            except BlockingIOError:
                return
            self.queued_bytes -= written
            if written < len(data):
                self._queue[0] = data[written:], packets
            else:
                self._queue.popleft()
                self.sent_packets += packets

    def hung_up(self) -> bool:
        """True when the peer has closed its end. Anything that it said is thrown away."""
        try:
            return not self.connection.recv(65536)
        except BlockingIOError:
            return False

    def cut_off(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.connection.close()


class Readers:
    """All connections, and the file that they are written."""

    def __init__(self, file: Format, books: Books, limit_bytes: int = LIMIT_BYTES, most: int = READERS_MAX) -> None:
        self._file = file
        self._books = books
        self._limit_bytes = limit_bytes
        self._most = most
        self.all: list[Reader] = []

    def join(self, connection: socket.socket, peer: str) -> Reader | None:
        """The new reader; None when there are enough, and the connection is closed."""
        if len(self.all) >= self._most:
            self._books.add(Count.READERS_REFUSED, 1)
            connection.close()
            return None
        reader = Reader(connection, peer, self._file.prologue())
        self.all.append(reader)
        self._books.add(Count.READERS, 1)
        return reader

    def prepare(self, sensor: str, section: bytes) -> Piece:
        """What `give` takes. Raises pcapng.FormatError."""
        return self._file.take(sensor, section)

    def give(self, piece: Piece) -> list[Reader]:
        """Gives a piece to all; the readers that are too slow for it."""
        self._books.add(Count.READER_NO_PLACE, piece.left_out)
        for reader in self.all:
            reader.give(piece)
        return [reader for reader in self.all if self._too_slow(reader)]

    def _too_slow(self, reader: Reader) -> bool:
        if reader.queued_bytes <= self._limit_bytes:
            return False
        try:
            reader.write()
        except OSError:
            return False  # gone, which the next look at its connection shows
        return reader.queued_bytes > self._limit_bytes

    def leave(self, reader: Reader) -> None:
        """The peer has gone, or we have nothing more to say: an orderly end."""
        self.all.remove(reader)
        reader.connection.close()

    def cut_off(self, reader: Reader) -> None:
        self._books.add(Count.READERS_CUT_OFF, 1)
        self._books.add(Count.READER_UNSENT, reader.unsent_packets)
        self.all.remove(reader)
        reader.cut_off()
