"""TLS below a connection: asyncio's, with one buffer into which all connections read what is encrypted.

Invariant: the buffer holds bytes of one connection only, and only while asyncio is in the call that read them: what
TLS does not take from it at once, its own memory keeps (16 KiB and one read at most, see `Connection`).

asyncio gives each connection a buffer of its own, 256 KiB unless told otherwise: for 2,500 connections 640 MiB, which
serve one at a time.
"""

from __future__ import annotations

import asyncio
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any, Final

# What one call of recv(2) may bring. A quarter of asyncio's 256 KiB costs no processor time that can be measured, a
# sixteenth does (some 15 % [M]); more stays with OpenSSL, which keeps a third more than what it was ever given at once.
READ_BYTES: Final = 64 << 10
# A sensor gives up after 5 s; asyncio would hold on for 60. Until its handshake is over, nobody counts a connection.
HANDSHAKE_S: Final = 10
_read = bytearray(READ_BYTES)


class Tls(sslproto.SSLProtocol):
    """A server's end."""

    max_size = 0  # asyncio's own buffer

    def __init__(
        self, loop: asyncio.AbstractEventLoop, connection: asyncio.BufferedProtocol, context: ssl.SSLContext
    ) -> None:
        nobody_waits: Any = None
        super().__init__(loop, connection, context, nobody_waits, server_side=True, ssl_handshake_timeout=HANDSHAKE_S)
        self._ssl_buffer = _read
        self._ssl_buffer_view = memoryview(_read)


def over(context: ssl.SSLContext, connection: type[asyncio.BufferedProtocol]) -> Callable[..., asyncio.BaseProtocol]:
    """Makes a connection, and TLS below it; takes what the connection's own class takes."""

    def made(**named: Any) -> asyncio.BaseProtocol:
        return Tls(asyncio.get_running_loop(), connection(**named), context)

    return made
