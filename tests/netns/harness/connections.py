"""Connections of this test run's own, with each end in the network namespace that it is given."""

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from typing import Any, NamedTuple

from harness.inside import made
from harness.namespaces import Namespace
from harness.proc import HANGS_S


class Pair(NamedTuple):
    """A TCP connection: the end that opened it and the end that accepted."""

    opener: socket.socket
    acceptor: socket.socket

    def exchange(self, data: bytes = b"x" * 1000) -> bool:
        """Whether each end got what the other sent."""
        for one, other in (self, self[::-1]):
            one.sendall(data)
            if other.recv(len(data), socket.MSG_WAITALL) != data:
                return False
        return True

    def ends(self) -> tuple[str, str]:
        """What the two programs see that wait for data, as far as they have not read what came before the end."""
        return last_word(self.opener), last_word(self.acceptor)

    def ends_after(self, data: bytes = b"x") -> tuple[str, str]:
        """The same, once the opener has sent this."""
        try:
            self.opener.sendall(data)
        except ConnectionResetError:  # a late acknowledgment of what was said before came first
            return "ECONNRESET", last_word(self.acceptor)
        return self.ends()

    def order(self, ident: str, protocol: str = "tcp") -> dict[str, Any]:
        """The block of exactly this connection, without its times."""
        sides = {
            name: {"network": sock.getsockname()[0], "port": sock.getsockname()[1]}
            for name, sock in (("source", self.opener), ("destination", self.acceptor))
        }
        return {"id": ident, "protocol": protocol, **sides}

    def close(self) -> None:
        self.opener.close()
        self.acceptor.close()


def connected(of: Namespace, here: str, to: Namespace, there: str, count: int = 1) -> list[Pair]:
    """Connections to one listening port, whose openers' ports differ."""
    with made(to, there, socket.SOCK_STREAM) as listener, ExitStack() as opened:
        listener.listen(count)
        pairs = []
        for _ in range(count):
            opener = opened.enter_context(made(of, here, socket.SOCK_STREAM))
            opener.connect(listener.getsockname()[:2])
            acceptor = opened.enter_context(listener.accept()[0])
            acceptor.settimeout(HANGS_S)
            pairs.append(Pair(opener, acceptor))
        opened.pop_all()
        return pairs


def last_word(sock: socket.socket) -> str:
    """The name of the error that ends the connection, or `EOF`."""
    try:
        while sock.recv(1 << 16):
            pass
    except OSError as e:
        return errno.errorcode[e.errno] if e.errno else repr(e)
    return "EOF"
