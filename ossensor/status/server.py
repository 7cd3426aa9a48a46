"""The local socket on which the sensor says how it is: whoever may ask gets one document, and the connection ends.

Invariant: nothing that a client does, or leaves, holds up the supervisor's loop. A client is not read at all: to
connect is to ask. What its buffer does not take at once waits for the selector, at most so many clients, each so long;
and who knocks without end is not answered more than so often a second.

Who may ask: root and the sensor's own user, by SO_PEERCRED, which the kernel fills in at connect(2) (unix(7)). Others
have OSSENSOR_METRICS_ADDRESS. The default is an abstract name: it needs no file system, so it is there in a container
whose root is read-only and leaves nothing behind after SIGKILL. But abstract names belong to the network namespace,
which the containers of a Fargate task share, and root in each of them is uid 0. So a peer must be of our PID namespace
too: the pid in its credentials is 0 where it is not (net/core/sock.c, cred_to_ucred: pid_vnr). A stranger can still
keep the queue of an abstract name full: where that is to be feared, give a path in a folder of the sensor's own.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from ossensor.complaints import Complaints

log = logging.getLogger(__name__)

_CLIENTS: Final = 8  # a watch, a health check, and some that hang
_PATIENCE_S: Final = 2.0
# A health check comes every few seconds; a watch, every second.
_ANSWERS_PER_TURN: Final = 32
_TURN_S: Final = 1.0
_RETRY_S: Final = 5.0
# To gather it takes some microseconds for each interface.
_FRESH_S: Final = 0.1
_UCRED: Final = struct.Struct("3i")


@dataclass(frozen=True)
class Peer:
    """The other end, as the kernel knows it. `pid` is 0 for one of another PID namespace."""

    pid: int
    uid: int

    @classmethod
    def of(cls, connection: socket.socket) -> Peer:
        pid, uid, _ = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
        return cls(pid, uid)

    def may_ask(self, owner: int) -> bool:
        return self.pid != 0 and self.uid in {0, owner}


def kernel_address(address: str) -> str:
    """As connect and bind take it; `@name` is an abstract one."""
    return "\0" + address[1:] if address.startswith("@") else address


@dataclass
class _Client:
    connection: socket.socket
    rest: memoryview
    until_s: float


class StatusServer:
    """`document` gives the answer of the moment. Every method is the supervisor's loop's."""

    def __init__(self, address: str, selector: selectors.BaseSelector, document: Callable[[], bytes]) -> None:
        self._address = address
        self._selector = selector
        self._document = document
        self._complaints = Complaints(log)
        self._listener: socket.socket | None = None
        self._listening = False
        self._clients: dict[int, _Client] = {}
        self._answers = 0
        self._turn_until_s = 0.0
        self._retry_s = 0.0
        self._cached: tuple[float, bytes] = (0.0, b"")

    def attend(self, now_s: float) -> None:
        """Once a second or so: tries to listen, lets go of clients that do not read, and begins a new turn."""
        for client in [c for c in self._clients.values() if now_s >= c.until_s]:
            self._let_go(client)
        if self._listener is None and now_s >= self._retry_s:
            self._open(now_s)
        if now_s >= self._turn_until_s:
            self._turn_until_s = now_s + _TURN_S
            self._answers = 0
            self._listen(on=True)

    def _open(self, now_s: float) -> None:
        listener = None
        try:
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            _bind(listener, self._address)
            listener.listen(_CLIENTS)
        except OSError as e:
            # Another sensor has the name, or the folder is not ours to write. Nobody's traffic depends on it.
            if listener is not None:
                listener.close()
            self._retry_s = now_s + _RETRY_S
            why = os.strerror(e.errno or 0)
            self._complaints.say("no status can be asked for", OSSENSOR_STATUS_SOCKET=self._address, why=why)
            return
        self._listener = listener

    def _listen(self, *, on: bool) -> None:
        if self._listener is None or on is self._listening:
            return
        self._listening = on
        if on:
            self._selector.register(self._listener, selectors.EVENT_READ, self._on_knock)
        else:
            self._selector.unregister(self._listener)

    def _on_knock(self) -> None:
        if self._listener is None:
            return
        self._answers += 1
        if self._answers >= _ANSWERS_PER_TURN or len(self._clients) >= _CLIENTS - 1:
            self._listen(on=False)  # until the next turn; connections wait in the queue meanwhile
        try:
            connection, _ = self._listener.accept()
        except OSError:  # gone again, or no descriptor to be had
            return
        connection.setblocking(False)
        if not Peer.of(connection).may_ask(os.geteuid()):
            connection.close()
            self._complaints.say("a stranger asked for the status")
            return
        now_s = time.monotonic()
        client = _Client(connection, memoryview(self._fresh(now_s)), now_s + _PATIENCE_S)
        self._clients[connection.fileno()] = client
        self._selector.register(connection, selectors.EVENT_WRITE, lambda: self._go_on(client))
        self._go_on(client)

    def _fresh(self, now_s: float) -> bytes:
        made_s, data = self._cached
        if not data or now_s - made_s >= _FRESH_S:
            data = self._document()
            self._cached = now_s, data
        return data

    def _go_on(self, client: _Client) -> None:
        try:
            client.rest = client.rest[client.connection.send(client.rest) :]
        except BlockingIOError:
            return
        except OSError:
            client.rest = client.rest[:0]  # it has hung up
        if not client.rest:
            self._let_go(client)

    def _let_go(self, client: _Client) -> None:
        del self._clients[client.connection.fileno()]
        self._selector.unregister(client.connection)
        client.connection.close()

    def close(self) -> None:
        """The end; the path, if it is one, goes too."""
        for client in list(self._clients.values()):
            self._let_go(client)
        if self._listener is not None:
            self._listen(on=False)
            if not self._address.startswith("@"):  # while it listens: a successor leaves it alone, and has none there
                with suppress(OSError):
                    os.unlink(self._address)  # noqa: PTH108  a socket, not a file
            self._listener.close()
            self._listener = None


def _bind(listener: socket.socket, address: str) -> None:
    """Raises OSError. A dead sensor's socket at the path is replaced; what somebody listens at, or a file, is not."""
    if not address.startswith("@"):
        _clear(address)
    # The mask, not a chmod afterwards: between bind and chmod anybody could connect.
    before = os.umask(0o177)
    try:
        listener.bind(kernel_address(address))
    finally:
        os.umask(before)


def _clear(path: str) -> None:
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)  # noqa: PTH108  likewise
