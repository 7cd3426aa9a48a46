"""The live state as Prometheus metrics. Pure.

Counters begin anew with each serving process, and what a sensor's books say with each epoch of an interface: Prometheus
takes both for what they are. The bounds of live.py are those of the series, too: some 13 for each interface.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

TYPE: Final = CONTENT_TYPE_LATEST

_WHERE: Final = ("sensor", "interface")
# Kind, member of an interface in the snapshot, name, meaning.
_PER_INTERFACE: Final = (
    (CounterMetricFamily, "batches", "batches_stored", "Batches that were stored."),
    (CounterMetricFamily, "packets", "packets_stored", "Packets that were stored."),
    (CounterMetricFamily, "section_bytes", "stored_bytes", "Bytes of pcapng that were stored."),
    (CounterMetricFamily, "repeats", "batches_repeated", "Times that a batch came which was stored already."),
    (CounterMetricFamily, "lost_packets", "packets_lost", "Packets of batches that will not come."),
    (CounterMetricFamily, "faults", "book_faults", "Contradictions in the sensor's books."),
    (GaugeMetricFamily, "delay_s", "delay_seconds", "From the newest packet of the latest batch until it was stored."),
    (GaugeMetricFamily, "stored_s", "stored_timestamp_seconds", "When the latest batch was stored."),
    (CounterMetricFamily, "received", "sensor_packets_received", "The kernel's count there, drops included."),
    (CounterMetricFamily, "kernel_drops", "sensor_packets_dropped_by_kernel", "Of these, what had no room."),
)


def metrics(
    snapshot: Mapping[str, Any], requests: Mapping[str, Mapping[str, int]], gauges: Mapping[str, float]
) -> bytes:
    """The text, in TYPE: a snapshot of live.py, requests by kind and outcome, and numbers by name."""
    registry = CollectorRegistry()
    registry.register(_Shown([*_of_sensors(snapshot), *_of_vsensor(snapshot, requests, gauges)]))
    return generate_latest(registry)


def _of_vsensor(
    snapshot: Mapping[str, Any], requests: Mapping[str, Mapping[str, int]], gauges: Mapping[str, float]
) -> list[Metric]:
    answered = CounterMetricFamily("vsensor_requests", "Requests, by what came of them.", labels=["kind", "outcome"])
    for kind, outcomes in requests.items():
        for outcome, count in outcomes.items():
            answered.add_metric([kind, outcome], count)
    since_s = snapshot["since_s"]
    numbers = [GaugeMetricFamily(f"vsensor_{name}", _MEANINGS[name], value=value) for name, value in gauges.items()]
    return [
        answered,
        GaugeMetricFamily("vsensor_start_timestamp_seconds", "When this process began to count.", value=since_s),
        GaugeMetricFamily("vsensor_sensors", "Sensors that are shown.", value=len(snapshot["sensors"])),
        CounterMetricFamily("vsensor_sensors_forgotten", "Silent for a day.", value=snapshot["forgotten_sensors"]),
        *numbers,
    ]


_MEANINGS: Final = {
    "held_bytes": "Bytes of bodies in hand.",
    "event_readers": "Readers of /v1/events.",
    "store_ok": "0 when the disk did not take the last write.",
}


def _of_sensors(snapshot: Mapping[str, Any]) -> list[Metric]:
    sensors: Mapping[str, Any] = snapshot["sensors"]
    heard = GaugeMetricFamily("vsensor_sensor_heard_timestamp_seconds", "When it was heard of.", labels=["sensor"])
    for name, sensor in sensors.items():
        heard.add_metric([name], sensor["heard_s"])
    dropped = CounterMetricFamily(
        "vsensor_sensor_packets_dropped", "Packets that the sensor gave up.", labels=[*_WHERE, "reason"]
    )
    found: list[Metric] = [heard, dropped]
    for family, member, name, meaning in _PER_INTERFACE:
        metric: Metric = family(f"vsensor_{name}", meaning, labels=_WHERE)
        for sensor, device, shown in _interfaces(sensors):
            if shown[member] is not None:
                metric.add_metric([sensor, device], shown[member])  # type: ignore[attr-defined]
        found.append(metric)
    for sensor, device, shown in _interfaces(sensors):
        for reason, count in shown["dropped"].items():
            dropped.add_metric([sensor, device, reason], count)
    return found


def _interfaces(sensors: Mapping[str, Any]) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for sensor, members in sensors.items():
        for device, shown in members["interfaces"].items():
            yield sensor, device, shown


class _Shown(Collector):
    """What generate_latest wants: something that can be collected."""

    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> Iterable[Metric]:
        return self._found
