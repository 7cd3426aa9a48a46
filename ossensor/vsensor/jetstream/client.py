"""nats-py's client, but for what it would take for granted of a server.

Invariant: where TLS was asked for, nothing but the greeting crosses the connection without it. A connection whose
server takes nothing any more comes to an end by itself.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, Final

import nats.aio.client
from nats.aio.client import Srv
from nats.aio.transport import TcpTransport
from nats.errors import SecureConnWantedError

# Of a server that is gone without a word, or stands still, nats-py knows by its pings within half a minute (link.py);
# but before it turns to the next one it closes the connection, which to asyncio is to wait until all is sent: for
# sixteen minutes to a host that is down (tcp(7), tcp_retries2), for ever to one whose kernel alone answers.
GIVEN_UP_MS: Final = 30_000


class Client(nats.aio.client.Client):
    """For one connection and those that follow it. What is overridden is private to 2.16: tests notice when it goes."""

    async def _connect_to_server(self, s: Srv) -> None:
        if (last := self._writer) is not None:
            last.close()  # nats-py forgets one that came to nothing, and a server that stands still keeps it
        await super()._connect_to_server(s)
        if (writer := self._writer) is not None:
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GIVEN_UP_MS)

    def let_go(self) -> None:
        """At its end, whatever that was: cancelled while it connects, nats-py leaves the connection open."""
        if (writer := self._writer) is not None:
            writer.transport.abort()

    @property
    def _writer(self) -> asyncio.StreamWriter | None:
        """There is no other way to the socket."""
        return self._transport._io_writer if isinstance(self._transport, TcpTransport) else None  # noqa: SLF001 -- nats-py's

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:  # noqa: FBT001, FBT002 -- nats-py's
        """Before anything is sent: the greeting is what nats-py goes by.

        It is in the clear, and whoever stands between can leave TLS out of it; nats-py (2.16) then shows its password,
        also to tls://. A server for clients of both kinds (allow_non_tls) offers TLS, and nats-py does not take it up.
        """
        if initial_connection and "tls" in self.options:
            if not (info.get("tls_required") or info.get("tls_available")):
                raise SecureConnWantedError
            info["tls_required"] = True
        await super()._process_info(info, initial_connection)
