"""nats-py's client, but for what it would take for granted of a server.

Invariant: where TLS was asked for, nothing but the greeting crosses the connection without it.
"""

from __future__ import annotations

from typing import Any

import nats.aio.client
from nats.errors import SecureConnWantedError


class Client(nats.aio.client.Client):
    """For one connection and those that follow it. What is overridden is private to 2.16: tests notice when it goes."""

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
