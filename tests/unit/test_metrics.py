"""What a scrape shows, and that no scraper is waited for."""

from __future__ import annotations

import http.client
import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from ossensor.accounting import SUPERVISOR_REASONS, UPLOADER_REASONS, Reason
from ossensor.region import Region
from ossensor.slots import Consumer, Pipes, Producer
from ossensor.workers import metrics
from ossensor.workers.batcher import Batcher, Opening
from ossensor.workers.metrics import Exporter, Scrape, of_uploader, per_interface


def values(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text.decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


@pytest.fixture
def region() -> Iterator[Region]:
    """Four slots: of ten packets three are delivered, two rejected, and five wait, one batch of them open."""
    made, pipes = Region.create(4, 1 << 16), Pipes.create()
    producer = Producer(made, pipes.ready_write, pipes.free_read)
    batcher = Batcher(producer, bytes(16), Opening("eth0", 1, 2000, "test"), 1.0)
    for count in (3, 2, 4, 1):
        for n in range(count):
            batcher.add(n, bytes(60), 60)
        batcher.commit()
        if count > 1:
            batcher.publish()
    consumer = Consumer(made, pipes.ready_read, pipes.free_write)
    first, second, _ = consumer.listen()
    consumer.settle(first)
    consumer.settle(second, Reason.REJECTED)
    made.set_totals(17, 4, {Reason.INTERFACE_GONE: 3})
    yield made
    pipes.close()


def shown(*regions: tuple[str, Region]) -> dict[str, dict[str, float]]:
    """By metric, then by interface, with a reason if there is one."""
    found: dict[str, dict[str, float]] = {}
    for metric in per_interface(regions):
        for sample in metric.samples:
            label = " ".join(sample.labels.values())
            found.setdefault(sample.name.removeprefix("ossensor_"), {})[label] = sample.value
    return found


def test_the_books_of_an_interface_are_shown_as_they_are(region: Region) -> None:
    dropped = {f"eth0 {reason.value}": 0 for reason in (*UPLOADER_REASONS, *SUPERVISOR_REASONS)} | {
        "eth0 rejected": 2,
        "eth0 interface_gone": 3,
    }

    assert shown(("eth0", region)) == {
        "packets_received_total": {"eth0": 17},
        "packets_dropped_by_kernel_total": {"eth0": 4},
        "packets_delivered_total": {"eth0": 3},
        "packets_waiting": {"eth0": 5},
        "slots": {"eth0": 4},
        "slots_in_use": {"eth0": 2},
        "packets_dropped_total": dropped,
    }


def test_two_queues_of_one_interface_are_one_and_those_of_two_are_two(region: Region) -> None:
    twice = shown(("eth0", region), ("eth0", region), ("eth1", region))

    assert twice["packets_received_total"] == {"eth0": 34, "eth1": 17}
    assert twice["packets_dropped_total"]["eth0 rejected"] == 4


TOTALS = {
    "batches": 7,
    "wire_bytes": 123,
    "attempts": 9,
    "spooled": 30,
    "unspooled": 20,
    "spool_lost": 1,
    "direct_refused": 3,
}


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[Scrape], None]], tuple[Exporter, int]]]:
    listeners: list[socket.socket] = []

    def start(report: Callable[[Scrape], None]) -> tuple[Exporter, int]:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def collected() -> list[Metric]:
            return of_uploader(TOTALS, 2, reachable=True, direct=True)

        return Exporter(listener, report, collected), listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.close()


Serve = Callable[[Callable[[Scrape], None]], tuple[Exporter, int]]


def get(port: int, path: str = "/metrics") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_scrape_is_answered_by_the_main_thread_with_everything(serve: Serve) -> None:
    asked: queue.SimpleQueue[Scrape] = queue.SimpleQueue()
    exporter, port = serve(asked.put)
    exporter.acknowledged(0.03)
    threading.Thread(target=lambda: exporter.answer(asked.get(timeout=120)), daemon=True).start()

    status, text = get(port)
    found = values(text)

    assert status == 200
    names = ("spooled", "unspooled", "spool_lost", "direct_refused")
    assert [found[f"ossensor_upload_{name}_total", ()] for name in names] == [30, 20, 1, 3]
    assert found["ossensor_vsensor_direct", ()] == 1
    assert found["ossensor_upload_waiting_batches", ()] == 2
    assert found["ossensor_vsensor_reachable", ()] == 1
    assert found["ossensor_acknowledgement_seconds_count", ()] == 1
    assert found["ossensor_acknowledgement_seconds_bucket", (("le", "0.025"),)] == 0
    assert found["ossensor_acknowledgement_seconds_bucket", (("le", "0.05"),)] == 1


@pytest.mark.parametrize("environment", [{}, {"PROMETHEUS_MULTIPROC_DIR": "/nosuch"}], ids=["plain", "files"])
def test_a_delay_is_counted_under_the_first_bound_that_is_not_below_it_and_in_no_file(
    environment: dict[str, str],
) -> None:
    """In a process of its own: the library looks at its environment when it is loaded."""
    program = """
import socket
from prometheus_client import generate_latest
from ossensor.workers.metrics import Exporter

exporter = Exporter(socket.create_server(("127.0.0.1", 0)), lambda _: None, lambda: [])
for delay_s in (0.025, 0.03, 31):
    exporter.acknowledged(delay_s)
print(generate_latest(exporter._registry).decode())
"""
    ran = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, check=True, capture_output=True
    )

    found = values(ran.stdout)
    name = "ossensor_acknowledgement_seconds"
    bounds = ("0.01", "0.025", "0.05", "0.1", "1.0", "30.0", "+Inf")
    assert [found[f"{name}_bucket", (("le", bound),)] for bound in bounds] == [0, 1, 2, 2, 2, 2, 3]
    assert (found[f"{name}_count", ()], round(found[f"{name}_sum", ()], 3)) == (3, 31.055)


def test_other_paths_and_methods_are_nothing(serve: Serve) -> None:
    asked: queue.SimpleQueue[Scrape] = queue.SimpleQueue()
    _, port = serve(asked.put)

    assert get(port, "/")[0] == 404
    assert asked.empty()


def test_an_uploader_that_is_busy_and_a_scraper_that_says_nothing_end_by_themselves(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(metrics._Handler, "timeout", 120.0)  # for who asks, and may be slow at it
    _, port = serve(lambda _: None)
    with socket.create_connection(("127.0.0.1", port)):
        assert get(port)[0] == 503
        monkeypatch.setattr(metrics._Handler, "timeout", 0.05)
        with socket.create_connection(("127.0.0.1", port), timeout=120) as silent:
            assert silent.recv(100) == b""
