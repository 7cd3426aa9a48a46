"""The serving process of a vSensor that publishes to JetStream instead of keeping files."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ossensor.errors import ConfigurationError, Exit
from ossensor.steady import steady_clock
from ossensor.transport.protocol import MAX_SECTION_BYTES, Welcome
from ossensor.transport.signing import Key
from ossensor.vsensor import descriptors, heap
from ossensor.vsensor.certificate import Certificate
from ossensor.vsensor.collector import Besides, Collector
from ossensor.vsensor.introductions import Introductions
from ossensor.vsensor.keeper import heed_no_more_stops
from ossensor.vsensor.report import Report
from ossensor.vsensor.server import REPORT_S, every, make_server, stop_on_signals

from .access import Access
from .link import Link
from .sink import Sink
from .terms import Terms


@dataclass(frozen=True, slots=True)
class Publishing:
    """What the serving process needs to know."""

    keys: Mapping[str, Key]
    root: Path  # of what each vSensor has of its own: its certificate, who introduced itself
    certificate: Certificate
    welcome: Welcome
    access: Access
    replicas: int

    def run(self, listener: socket.socket, report: Report) -> int:
        """The exit code of a process that was asked to stop. Raises ConfigurationError for an unusable stream."""
        terms = Terms(self.welcome.limits.batch_bytes or MAX_SECTION_BYTES, self.replicas)
        return asyncio.run(_serve(self, listener, report, Link(self.access, terms, report.nats)))


async def _serve(settings: Publishing, listener: socket.socket, report: Report, link: Link) -> int:
    heap.keep()
    sink = Sink(link)
    # Antigena's orders and their effects lie in one vSensor's book, and several behind a balancer would contradict
    # each other: none is in force through these.
    besides = Besides(settings.welcome, Introductions(settings.root, report.introduced))
    collector = Collector(*(settings.keys, sink, sink, steady_clock(), settings.certificate.sha256), besides=besides)
    sink.heard = collector.heard
    connections_max = descriptors.connections(descriptors.raise_limit())
    server = make_server(collector, settings.certificate, connections_max)
    faults: list[str] = []

    async def keep() -> None:
        try:
            await link.run(sink.listen)
        except ConfigurationError as e:
            faults.extend(e.faults)
            server.stop()

    def tick() -> None:
        report.progress(sink.totals(), collector.tally)

    stop_on_signals(server.stop)
    async with asyncio.TaskGroup() as tasks:
        beside = [tasks.create_task(keep()), tasks.create_task(every(REPORT_S, tick))]
        # At once, without the servers too: sensors are told, signed, that nothing can be stored now, and keep.
        await server.serve(sockets=[listener])
        for task in beside:
            task.cancel()
    heed_no_more_stops()
    tick()
    if faults:
        raise ConfigurationError(faults)
    return Exit.DRAINED
