"""The connection to NATS, kept for ever: a shell around nats-py.

Invariant: `ready` is true only while a connection stands to a server whose stream was looked at and is one that an
acknowledgement can rest on (terms.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Final

from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from ossensor.errors import ConfigurationError
from ossensor.ratelimit import Sparse

from .access import Access
from .client import Client
from .message import STREAM
from .terms import Terms, objections, wanted

_PAUSE_S: Final = 1
_CONNECT_S: Final = 5
# The JetStream API's answers take an election, at worst: some seconds.
_API_S: Final = 5.0
_ASK_S: Final = 10.0
# What nats-py raises for the world's doings.
TROUBLE: Final = (NatsError, OSError, TimeoutError)


class Link:
    """One connection, for one event loop; `run` until it is cancelled. Without terms the stream is only looked for."""

    def __init__(self, access: Access, terms: Terms | None, told: Callable[[str], None]) -> None:
        self._access = access
        self._terms = terms
        self._told = told
        self._sparse = Sparse()
        self._client: Client | None = None
        self._changed = asyncio.Event()
        self._good = asyncio.Event()

    @property
    def ready(self) -> bool:
        return self._good.is_set() and self._client is not None and self._client.is_connected

    async def until_good(self) -> None:
        """Returns when the stream was found to be good, at this connection."""
        await self._good.wait()

    @property
    def client(self) -> Client:
        if self._client is None:
            raise AssertionError("not ready")
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        return self.client.jetstream(timeout=_API_S)

    async def run(self, connected: Callable[[], Awaitable[None]]) -> None:
        """Connects, calls `connected`, looks at the stream; all over again when nats-py gives the connection up.

        The stream is looked at anew when nats-py has led to a server again: that one may have lost its files.

        Raises ConfigurationError for a stream on which no acknowledgement can rest. A server that is not there is no
        fault: it is waited for.
        """
        while True:
            client = Client()
            try:
                await client.connect(
                    **self._access.options,
                    name="ossensor",
                    # Without end: nats-py leads to the next server, and again to the first.
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_PAUSE_S,
                    connect_timeout=_CONNECT_S,
                    # A server that is gone without a word is noticed within half a minute.
                    ping_interval=10,
                    max_outstanding_pings=2,
                    # A message above nats-py's buffer (2 MiB) is waited for until it is on its way: by default for as
                    # long as there is no connection, and for ever when it is closed meanwhile.
                    flush_timeout=_API_S,
                    no_echo=True,  # what we tell the others, we know
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_reconnect,
                    closed_cb=self._on_close,
                )
                self._client = client
                await connected()
                while not client.is_closed:
                    self._changed.clear()
                    await self._look()
                    if client.is_connected and not self._changed.is_set():  # still the one that was looked at
                        self._good.set()
                        self._told(f"connected to {self._where()}, the stream is there")
                        # Asked, too: an error while nats-py sends what is left when it closes, and it tells nobody.
                        while not client.is_closed and not self._changed.is_set():
                            with contextlib.suppress(TimeoutError):
                                await asyncio.wait_for(self._changed.wait(), _ASK_S)
            except TROUBLE as e:
                self.complain(e)
            finally:
                self._good.clear()
                await self._close()
                client.let_go()
            await asyncio.sleep(_PAUSE_S)

    async def _look(self) -> None:
        """Returns when the stream is there, made if need be, and good. Raises what nats-py does when it is closed."""
        while True:
            try:
                if (config := await self._stream()) is not None:
                    break
            except TROUBLE as e:  # no leader yet, or not any more
                if self.client.is_closed:
                    raise
                self.complain(e)
            await asyncio.sleep(_PAUSE_S)
        faults = objections(config, self.client.max_payload, self._terms) if self._terms is not None else []
        if faults:
            raise ConfigurationError([f"NATS at {self._where()}: {fault}" for fault in faults])

    async def _stream(self) -> StreamConfig | None:
        try:
            return (await self.jetstream.stream_info(STREAM)).config
        except NotFoundError as e:
            if self._terms is None:
                self.complain(e)
                return None
        # Several vSensors may do this at once: the server takes the same configuration twice for one.
        return (await self.jetstream.add_stream(wanted(self._terms))).config

    def complain(self, error: BaseException) -> None:
        """Says it, once in ten seconds for each kind of trouble."""
        text = str(error) or type(error).__name__
        if (left_out := self._sparse.due(type(error).__name__, time.monotonic())) is not None:
            self._told(text + (f" ({left_out} more since the last such line)" if left_out else ""))

    def _where(self) -> str:
        url = self.client.connected_url
        return url.netloc if url is not None else "no server"

    async def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            with contextlib.suppress(*TROUBLE):
                await client.close()

    async def _on_error(self, error: Exception) -> None:
        self.complain(error)

    async def _on_disconnect(self) -> None:
        self._good.clear()
        self._told("the connection is gone; sensors keep their batches")

    async def _on_reconnect(self) -> None:
        self._changed.set()

    async def _on_close(self) -> None:
        self._changed.set()
