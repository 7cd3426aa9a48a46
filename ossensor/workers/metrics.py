"""Prometheus metrics on OSSENSOR_METRICS_ADDRESS: the books, read from shared memory when somebody asks.

Invariant: nothing is counted here. What is shown per interface lies in memory that outlives every child, so no death
sets it back; the uploader's own totals begin anew with each uploader, which Prometheus expects of counters. A scraper
that is slow, or says nothing, keeps the next one waiting for some seconds, and the uploads not at all.

The supervisor opens the port and keeps it: between two uploaders, who asks waits in its queue.
"""

from __future__ import annotations

import queue
import socket
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ossensor.region import Region, State

_PATIENCE_S: Final = 5.0
_ALTOGETHER_S: Final = 10.0
# From a write into the page cache next door to a vSensor that is far away and busy.
_DELAYS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


@dataclass(frozen=True)
class Scrape:
    """Somebody asked; the main thread answers."""

    answer: queue.SimpleQueue[bytes] = field(default_factory=queue.SimpleQueue)


class _Sums:
    """What several queues of one interface come to: one that was excluded and is back has two for a while."""

    def __init__(self, regions: Iterable[tuple[str, Region]]) -> None:
        self.counts: dict[str, Counter[str]] = {}
        self.dropped: dict[str, Counter[str]] = {}
        for interface, region in regions:
            received, kernel_drops, own = region.totals()
            states = [region.state(slot) for slot in range(region.count)]
            self.counts.setdefault(interface, Counter()).update(
                received=received,
                kernel_drops=kernel_drops,
                delivered=region.delivered(),
                waiting=region.in_flight(),
                slots=region.count,
                slots_in_use=len(states) - states.count(State.FREE),
            )
            drops = {reason.value: count for reason, count in (region.dropped() | own).items()}
            self.dropped.setdefault(interface, Counter()).update(drops)


_PER_INTERFACE: Final = (
    (CounterMetricFamily, "received", "packets_received", "Packets that the kernel counted for us, drops included."),
    (CounterMetricFamily, "kernel_drops", "packets_dropped_by_kernel", "Of these, what the ring had no room for."),
    (CounterMetricFamily, "delivered", "packets_delivered", "Packets that the vSensor has acknowledged."),
    (GaugeMetricFamily, "waiting", "packets_waiting", "Packets in slots, not yet acknowledged."),
    (GaugeMetricFamily, "slots", "slots", "Slots for batches."),
    (GaugeMetricFamily, "slots_in_use", "slots_in_use", "Slots that are not free."),
)


def per_interface(regions: Iterable[tuple[str, Region]]) -> list[Metric]:
    """The books of each interface, by name."""
    sums = _Sums(regions)
    metrics = []
    for family, name, called, meaning in _PER_INTERFACE:
        metric: Metric = family(f"ossensor_{called}", meaning, labels=["interface"])
        for interface, counts in sums.counts.items():
            metric.add_metric([interface], counts[name])  # type: ignore[attr-defined]
        metrics.append(metric)
    dropped = CounterMetricFamily(
        "ossensor_packets_dropped", "Packets that we gave up, by reason.", labels=["interface", "reason"]
    )
    for interface, drops in sums.dropped.items():
        for reason, count in drops.items():
            dropped.add_metric([interface, reason], count)
    return [*metrics, dropped]


def of_uploader(totals: Mapping[str, int], waiting_batches: int, *, reachable: bool, direct: bool) -> list[Metric]:
    """The uploader's own, since it began."""
    meanings = {
        "batches": "Batches that the vSensor has acknowledged.",
        "wire_bytes": "Bytes of their bodies as sent.",
        "attempts": "Requests with a batch, repeated ones included.",
        "spooled": "Packets written to the spool.",
        "unspooled": "Packets acknowledged from the spool, what earlier lives left included.",
        "spool_lost": "Packets of the spool that were damaged, or refused for good.",
        "direct_refused": "Direct addresses that the vSensor named and that cannot be.",
    }
    counters = [
        CounterMetricFamily(f"ossensor_upload_{name}", meaning, value=totals[name])
        for name, meaning in meanings.items()
    ]
    return [
        *counters,
        GaugeMetricFamily("ossensor_upload_waiting_batches", "Batches not yet acknowledged.", value=waiting_batches),
        GaugeMetricFamily("ossensor_vsensor_reachable", "1 while the vSensor answers.", value=int(reachable)),
        GaugeMetricFamily("ossensor_vsensor_direct", "1 while its direct address is used.", value=int(direct)),
    ]


class _Delays:
    """How often an acknowledgement took how long.

    Not the library's Histogram: where PROMETHEUS_MULTIPROC_DIR is set, that one counts in files there, and an uploader
    may open none.
    """

    def __init__(self) -> None:
        self._counts = [0] * (len(_DELAYS_S) + 1)
        self._sum_s = 0.0

    def observe(self, after_s: float) -> None:
        self._counts[bisect_left(_DELAYS_S, after_s)] += 1
        self._sum_s += after_s

    def metric(self) -> Metric:
        buckets = zip([*map(floatToGoString, _DELAYS_S), "+Inf"], accumulate(self._counts), strict=True)
        meaning = "From the beginning of a request to its acknowledgement."
        return HistogramMetricFamily("ossensor_acknowledgement_seconds", meaning, list(buckets), self._sum_s)


class Exporter(Collector):
    """The port, the thread behind it, and what a scrape shows: `collected` is called in the main thread."""

    def __init__(
        self, listener: socket.socket, report: Callable[[Scrape], None], collected: Callable[[], list[Metric]]
    ) -> None:
        self._collected = collected
        self._registry = CollectorRegistry()
        self._delays = _Delays()
        self._registry.register(self)
        server = _Server(listener, report)
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()

    def collect(self) -> Iterable[Metric]:
        return [self._delays.metric(), *self._collected()]

    def acknowledged(self, after_s: float) -> None:
        self._delays.observe(after_s)

    def answer(self, scrape: Scrape) -> None:
        """In the main thread, between two turns: nothing that is read changes meanwhile but by a worker."""
        scrape.answer.put(generate_latest(self._registry))


class _Server(HTTPServer):
    def __init__(self, listener: socket.socket, report: Callable[[Scrape], None]) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.report = report

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing, as below: a scraper that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _PATIENCE_S  # for each read of the request, by the base class
    server: _Server

    def setup(self) -> None:
        super().setup()
        # And for all of it: one who says a byte now and then would keep the next one waiting for hours.
        self._deadline = threading.Timer(_ALTOGETHER_S, self._hang_up)
        self._deadline.daemon = True
        self._deadline.start()

    def finish(self) -> None:
        self._deadline.cancel()
        super().finish()

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def do_GET(self) -> None:
        if self.path != "/metrics":
            self.send_error(404)
            return
        scrape = Scrape()
        self.server.report(scrape)
        try:
            text = scrape.answer.get(timeout=_PATIENCE_S)
        except queue.Empty:
            self.send_error(503)
            return
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Nothing: strangers may not fill our log."""
