"""uvicorn around the collector, in the serving process, until it is asked to stop."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import traceback
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, cast

import uvicorn

from ossensor.antigena.token import Token
from ossensor.errors import Exit
from ossensor.steady import steady_clock
from ossensor.transport.protocol import Welcome
from ossensor.transport.signing import Key

from . import descriptors, glimpse, heap, tls
from .antigena import Antigena
from .bookfile import BookFile
from .certificate import Certificate, context
from .collector import Besides, Collector
from .connection import Connection
from .entrance import Entrance
from .events import Events
from .housekeeping import Housekeeping
from .index import Index
from .introductions import Introductions
from .keeper import GRACE_S, heed_no_more_stops, heed_stops
from .layout import Layout
from .lookout import Lookout
from .operator import OperatorDoor
from .pagedoor import PageDoor
from .report import Report
from .retention import Keeping
from .store import Store, die, nobody_listens
from .streams.notices import Announcer
from .trail import Trail

# A silent interface sends a batch when its first packet is OSSENSOR_BATCH_MS old; quiet ones are minutes apart, and
# reconnecting costs a TLS handshake each time.
KEEP_ALIVE_S: Final = 120
REPORT_S: Final = 5.0
_HANG_UP_S: Final = 0.25
_NO_WELCOME: Final = Welcome()


@dataclass(frozen=True, slots=True)
class Settings:
    """What the serving process needs to know."""

    keys: Mapping[str, Key]
    store: Path
    certificate: Certificate
    durable: bool
    keeping: Keeping
    welcome: Welcome = _NO_WELCOME  # what every sensor is asked for
    operator_token: Token | None = None  # None: nothing can be ordered, and nothing looked at
    viewer_token: Token | None = None  # looks, and orders nothing


class Server(uvicorn.Server):
    """uvicorn's, less its way with signals: it raises them again at the end, which looks like a crash to a keeper."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.at_shutdown: Callable[[], None] = lambda: None  # ends replies that would last for ever

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        # One fewer than uvicorn's own limit: with as many as that, it answers 503 to everybody, and hangs up.
        most = (self.config.limit_concurrency or descriptors.FEWEST) - 1
        await super().serve([descriptors.Door(listener, most) for listener in sockets or ()])

    def stop(self) -> None:
        self.should_exit = True

    def cut_off(self, peer: tuple[str, int]) -> None:
        """Ends this peer's connection at once: one that is closed waits until all that was written is taken."""
        connections: set[Any] = set(self.server_state.connections)
        for connection in connections:
            if connection.client == peer:
                connection.transport.abort()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.at_shutdown()
        hanging_up = asyncio.create_task(self._hang_up())
        try:
            await super().shutdown(sockets)
        finally:
            hanging_up.cancel()

    async def _hang_up(self) -> None:
        """Ends connections with nothing in hand. uvicorn closes them, and TLS then waits for the peer to close too.

        A sensor that holds its connection for the next batch does not answer that, and each stop would take the whole
        grace. A reply needs no more than one pause to leave; after it, an end without ceremony loses nothing. Who has
        sent half a body by the end of the grace is hung up, too: uvicorn would cancel his request, as if it were a bug.
        """
        resting: set[Any] = set()
        clock = asyncio.get_running_loop().time
        ends_s = clock() + GRACE_S
        while True:
            await asyncio.sleep(_HANG_UP_S)
            connections: set[Any] = set(self.server_state.connections)  # H11Protocol, which the union's others are not
            now = {c for c in connections if c.cycle is None or c.cycle.response_complete}
            if clock() >= ends_s:
                resting = now = connections
            for connection in resting & now:
                connection.transport.abort()
            resting = now


def make_server(collector: Collector, certificate: Certificate, connections_max: int = descriptors.FEWEST) -> Server:
    """A server that is ready for `serve(sockets=[...])`. Raises OSError when the certificate does not load."""
    # A context of ours, not one that uvicorn makes from file names: that would speak TLS 1.1 where OpenSSL's policy
    # allows it.
    over_tls = tls.over(context(certificate.certificate, certificate.key), Connection)
    config = uvicorn.Config(
        collector.app,
        http=cast("Any", over_tls),
        # Not uvloop, which uvicorn takes wherever some other package has brought it: it accepts past our door, and what
        # connection.py and tls.py know of a transport is asyncio's.
        loop="asyncio",
        h11_max_incomplete_event_size=16 << 10,  # Apache's and nginx's order of magnitude; ours are under 2 KiB
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",  # at "warning" each malformed request of a stranger is a line
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        limit_concurrency=connections_max,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S + 1,  # for what the store has in hand; see Server._hang_up
    )
    config.load()
    return Server(config)


def open_lookout(entrance: Entrance, collector: Collector, server: Server) -> Lookout:
    """What shows the live state; its streams end when the server does."""
    events = Events(partial(glimpse.text, collector.live), server.cut_off)
    server.at_shutdown = events.close
    return Lookout(entrance, collector, events)


def run(settings: Settings, listener: socket.socket, report: Report, announcer: Announcer | None = None) -> int:
    """The exit code of a serving process that was asked to stop: 0, everything in hand answered and durable.

    Raises OSError, sqlite3.Error or ConfigurationError when the store cannot be opened.
    """
    heap.keep()
    layout = Layout(settings.store)
    keeping = settings.keeping
    store = Store(
        layout,
        durable=settings.durable,
        rotate_bytes=keeping.rotate_bytes,
        rotate_s=keeping.rotate_s,
        limits=keeping.limits,
        on_commit=announcer.committed if announcer is not None else nobody_listens,
    )

    report.recovered(store.recovery)

    def tick() -> None:
        report.progress(store.totals(), collector.tally)
        if announcer is not None:
            announcer.retry()

    store.start()
    clock = steady_clock()
    try:
        # A reader of its own: the event loop looks things up while the writer is in a transaction.
        with (
            closing(Index(layout.index, durable=settings.durable)) as index,
            closing(BookFile(layout.orders)) as orders,
            closing(Trail(layout.trail, clock)) as trail,
            closing(Antigena(orders, trail, clock)) as antigena,
        ):
            if announcer is not None:
                announcer.begin(index.packets())
            introductions = Introductions(layout.root, report.introduced)
            besides = Besides(settings.welcome, introductions, antigena)
            sha256 = settings.certificate.sha256
            collector = Collector(settings.keys, store, index, clock, sha256, besides=besides)
            store.coming = lambda: collector.reading
            connections_max = descriptors.connections(descriptors.raise_limit())
            server = make_server(collector, settings.certificate, connections_max)
            if settings.operator_token is not None:
                tokens = (settings.operator_token, settings.viewer_token)
                entrance = Entrance(*tokens, clock, antigena.note, report.operator_refused)
                collector.add_routes(OperatorDoor(entrance, antigena, trail, clock, report.operated).routes)
                collector.add_routes(open_lookout(entrance, collector, server).routes)
                collector.add_routes(PageDoor(entrance, clock, antigena.note).routes)
            with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
                house = Housekeeping(store, layout.root, report, compress=keeping.compress)
                runner.run(_serve(server, listener, tick, house))
    finally:
        store.close()
    tick()
    if announcer is not None:
        announcer.end()
    return Exit.DRAINED


async def _serve(server: Server, listener: socket.socket, tick: Callable[[], None], house: Housekeeping) -> None:
    stop_on_signals(server.stop)
    reporting = asyncio.create_task(every(REPORT_S, tick))
    keeping = asyncio.create_task(house.run())
    keeping.add_done_callback(_ended)
    try:
        await server.serve(sockets=[listener])
    finally:
        reporting.cancel()
        keeping.cancel()
        await asyncio.wait([keeping])  # it ends its janitor
        heed_no_more_stops()


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (bug := task.exception()):
        traceback.print_exception(bug)
        die()


def stop_on_signals(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    heed_stops()


async def every(pause_s: float, act: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(pause_s)
        act()
