"""How many connections the descriptors of the serving process allow, and the door that keeps to it.

Invariant: connections that are served, files that are written and the rest together stay under the process's limit, so
that no connection costs the store the descriptor that it needs.
"""

from __future__ import annotations

import resource
import socket
import weakref
from typing import Any, Final

from .files import OPEN_MAX

# 500 sensors with four deliveries of an interface on their way and one connection for the rest are 2,500; the next
# power of two. Above, a request is answered 503, unsigned, and tried again. What one costs: DESIGN.md, section 8.
CONNECTIONS_MAX: Final = 4096
# Standard streams, index and books (SQLite: three for each), the loop's own, janitor and streams; some dozens in all.
_SPARE: Final = 128
# Under the 1,024 that a process has by default, with OPEN_MAX and the spare.
FEWEST: Final = 512


def raise_limit() -> int:
    """The soft limit of descriptors, raised as far as CONNECTIONS_MAX needs and the hard one lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS_MAX + OPEN_MAX + _SPARE
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        soft = allowed
    return wanted if soft == resource.RLIM_INFINITY else soft


def connections(limit: int) -> int:
    """The connections to serve with so many descriptors. Below 1,024 in all it is the files that run short first."""
    return max(FEWEST, min(CONNECTIONS_MAX, limit - OPEN_MAX - _SPARE))


class Door(socket.socket):
    """A listening socket, which it takes over; who comes while `most` are inside is turned away before a word.

    uvicorn's own limit counts a connection once it speaks TLS, and answers its first request. Strangers that say
    nothing took all descriptors, then, and the store could open no file.
    """

    def __init__(self, listener: socket.socket, most: int) -> None:
        super().__init__(fileno=listener.detach())
        self._most = most
        self._inside: weakref.WeakSet[socket.socket] = weakref.WeakSet()

    def accept(self) -> tuple[socket.socket, Any]:
        """Raises ConnectionAbortedError, which asyncio takes for a peer that thought better of it."""
        connection, address = super().accept()
        # A new descriptor is the lowest number that is free: a low one says that nothing is to be counted.
        if connection.fileno() >= self._most and self._count() >= self._most:
            connection.close()
            raise ConnectionAbortedError
        self._inside.add(connection)
        return connection, address

    def _count(self) -> int:
        return sum(connection.fileno() >= 0 for connection in self._inside)
