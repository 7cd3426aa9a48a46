"""What every sensor is doing now: what is shown to people and programs, and nothing else rests on it. Pure.

Invariant: all of it is of this process's own time, since `since_s`, and is lost with it: what is stored is in the
index, and `ossensor audit` judges that. It never holds more than SENSORS_MAX sensors, INTERFACES_MAX interfaces and
INTRODUCTIONS_BYTES of what they told; beyond that, and after FORGET_S, those that were heard of the longest ago go.

Only what was verified comes in here: a batch after it was stored, an introduction and a report after their signature.
Still a holder of the key may send names that he makes up, as many as he likes, hence the bounds.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Report
from ossensor.transport.protocol import Account, BatchId

from .section import Span
from .streambooks import StreamBooks

# Sensors come and go, each Fargate task is one: as many as introductions.py remembers.
SENSORS_MAX: Final = 4096
INTERFACES_MAX: Final = 8192  # under 4 KiB each [M]: 32 MiB
INTRODUCTIONS_BYTES: Final = 16 << 20  # as JSON; usually some 500 bytes each, 16 KiB at most
FORGET_S: Final = 24 * 3600.0
# A sensor introduces itself every 60 s: three of them missed.
SILENT_AFTER_S: Final = 180.0
# Long enough that a batch a second does not look like bursts, short enough that a flood shows while one looks.
RATE_WINDOW_S: Final = 5
# Restarts of an interface's capture overlap: the last batches of an epoch come beside the first of the next.
_EPOCHS_MAX: Final = 4
# From the best to the worst. "open": nothing is known to be missing, and the books of a capture that goes on cannot be
# closed; "lost": sequences of which the sensor said itself that they will not come; "not balanced": a contradiction.
VERDICTS: Final = ("balanced", "open", "lost", "not balanced")


class Rates:
    """Counts by whole second, of the last RATE_WINDOW_S whole ones and the present one."""

    def __init__(self) -> None:
        self._seconds: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def add(self, now_s: float, packets: int, bytes_: int) -> None:
        second = int(now_s)
        before = self._seconds.get(second, (0, 0))
        self._seconds[second] = (before[0] + packets, before[1] + bytes_)
        while len(self._seconds) > RATE_WINDOW_S + 1:
            self._seconds.popitem(last=False)

    def per_s(self, now_s: float) -> tuple[float, float]:
        """Packets and bytes a second, over the last RATE_WINDOW_S whole seconds: the present one is not over."""
        second = int(now_s)
        window = [counts for at, counts in self._seconds.items() if second - RATE_WINDOW_S <= at < second]
        return sum(p for p, _ in window) / RATE_WINDOW_S, sum(b for _, b in window) / RATE_WINDOW_S


@dataclass(slots=True)
class _Interface:
    batches: int = 0
    packets: int = 0
    section_bytes: int = 0
    repeats: int = 0
    lost_packets: int = 0
    faults: int = 0
    last_fault: str = ""
    delay_s: float | None = None
    stored_s: float | None = None
    rates: Rates = field(default_factory=Rates)
    epochs: OrderedDict[str, StreamBooks] = field(default_factory=OrderedDict)  # the newest last

    def epoch(self, name: str) -> StreamBooks:
        if name not in self.epochs:
            self.epochs[name] = StreamBooks()
            if len(self.epochs) > _EPOCHS_MAX:
                self.epochs.popitem(last=False)
        return self.epochs[name]

    @property
    def verdict(self) -> str:
        if self.faults:
            return "not balanced"
        if self.lost_packets:
            return "lost"
        newest = next(reversed(self.epochs.values()), None)
        return "balanced" if newest is not None and newest.is_closed else "open"

    def snapshot(self, now_s: float) -> dict[str, Any]:
        packets_per_s, bytes_per_s = self.rates.per_s(now_s)
        epoch, newest = next(reversed(self.epochs.items()), ("", StreamBooks()))
        account = newest.account or Account()
        return {
            "stored_s": self.stored_s,
            "batches": self.batches,
            "packets": self.packets,
            "section_bytes": self.section_bytes,
            "packets_per_s": packets_per_s,
            "bytes_per_s": bytes_per_s,
            "repeats": self.repeats,
            "delay_s": self.delay_s,
            "epoch": epoch,
            "received": account.received,
            "kernel_drops": account.kernel_drops,
            "dropped": {"rejected": account.rejected, "too_large": account.too_large, "corrupt": account.corrupt},
            "lost_packets": self.lost_packets,
            "verdict": self.verdict,
            "faults": self.faults,
            "last_fault": self.last_fault,
        }


@dataclass(slots=True)
class _Sensor:
    first_heard_s: float
    heard_s: float
    introduction: Introduction | None = None
    introduced_s: float | None = None
    introduction_bytes: int = 0
    antigena: dict[str, Any] | None = None
    interfaces: dict[str, _Interface] = field(default_factory=dict)


class Live:
    """For one thread. `clock` is Unix time; the time of packets is by the clock of their sensor."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s = clock()
        self._sensors: OrderedDict[str, _Sensor] = OrderedDict()  # the one heard of last is last
        self._interfaces: OrderedDict[tuple[str, str], None] = OrderedDict()  # the one stored of last is last
        self._introduction_bytes = 0
        self._forgotten_sensors = 0
        self._forgotten_interfaces = 0

    # -- what comes in ------------------------------------------------------------------------------------------------

    def stored(self, batch: BatchId, packets: int, section_bytes: int, books: Account, span: Span | None) -> None:
        """A batch is stored; those of a stream in the order of their sequences."""
        now_s = self._clock()
        interface = self._interface(batch)
        interface.stored_s = now_s
        interface.batches += 1
        interface.packets += packets
        interface.section_bytes += section_bytes
        interface.rates.add(now_s, packets, section_bytes)
        if span is not None:
            interface.delay_s = round(now_s - span.latest_ns / 1e9, 3)
        found = interface.epoch(batch.stream.epoch).take(batch.sequence, packets, books)
        interface.lost_packets += found.lost_packets
        interface.faults += len(found.faults)
        interface.last_fault = found.faults[-1] if found.faults else interface.last_fault

    def repeated(self, batch: BatchId) -> None:
        """A batch that was stored already came again."""
        self._interface(batch).repeats += 1

    def introduced(self, name: str, introduction: Introduction) -> None:
        sensor = self._heard(name)
        sensor.introduced_s = sensor.heard_s
        if sensor.introduction == introduction:
            return
        self._introduction_bytes -= sensor.introduction_bytes
        sensor.introduction, sensor.introduction_bytes = introduction, len(introduction.body)
        self._introduction_bytes += sensor.introduction_bytes
        while self._introduction_bytes > INTRODUCTIONS_BYTES:
            self._forget()

    def reported(self, name: str, report: Report) -> None:
        """A sensor's word on its orders: the sum of it, as a report may have a megabyte; antigena.py has the rest."""
        sensor = self._heard(name)
        sensor.antigena = {
            "reported_s": sensor.heard_s,
            "mode": report.mode,
            "book": report.book,
            "version": report.version,
            "actions": len(report.actions),
            "refused": len(report.refused),
            "trouble": report.trouble,
        }

    def _heard(self, name: str) -> _Sensor:
        now_s = self._clock()
        sensor = self._sensors.get(name)
        if sensor is None:
            sensor = self._sensors[name] = _Sensor(now_s, now_s)
        sensor.heard_s = now_s
        self._sensors.move_to_end(name)
        if len(self._sensors) > SENSORS_MAX:
            self._forget()
        return sensor

    def _interface(self, batch: BatchId) -> _Interface:
        name, _, device = batch.stream
        interfaces = self._heard(name).interfaces
        interface = interfaces.get(device)
        if interface is None:
            interface = interfaces[device] = _Interface()
        self._interfaces[name, device] = None
        self._interfaces.move_to_end((name, device))
        if len(self._interfaces) > INTERFACES_MAX:
            (sensor, gone), _ = self._interfaces.popitem(last=False)
            del self._sensors[sensor].interfaces[gone]
            self._forgotten_interfaces += 1
        return interface

    def _forget(self) -> None:
        name, sensor = self._sensors.popitem(last=False)
        self._introduction_bytes -= sensor.introduction_bytes
        for device in sensor.interfaces:
            del self._interfaces[name, device]
        self._forgotten_sensors += 1

    # -- what is shown ------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """All of it, of one moment; docs/protocol.md, "What is going on", has the members."""
        return {**self.summary(), "sensors": dict(self.parts())}

    def summary(self) -> dict[str, Any]:
        """What of the snapshot is not about one sensor."""
        now_s = self._clock()
        self._forget_old(now_s)
        return {
            "time_s": round(now_s, 3),
            "since_s": round(self._since_s, 3),
            "rate_window_s": RATE_WINDOW_S,
            "forgotten_sensors": self._forgotten_sensors,
            "forgotten_interfaces": self._forgotten_interfaces,
        }

    def parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each sensor's name and part, in the order of the names. What comes in between two of them is no harm."""
        for name in sorted(self._sensors):
            sensor = self._sensors.get(name)
            if sensor is not None:
                yield name, _shown(sensor, self._clock())

    def sensor(self, name: str) -> dict[str, Any] | None:
        """One sensor's part of the snapshot; None for one that was not heard of."""
        now_s = self._clock()
        self._forget_old(now_s)
        sensor = self._sensors.get(name)
        return None if sensor is None else _shown(sensor, now_s)

    def _forget_old(self, now_s: float) -> None:
        while self._sensors and now_s - next(iter(self._sensors.values())).heard_s > FORGET_S:
            self._forget()


def _shown(sensor: _Sensor, now_s: float) -> dict[str, Any]:
    who = sensor.introduction or Introduction("", "")
    interfaces = {name: sensor.interfaces[name].snapshot(now_s) for name in sorted(sensor.interfaces)}
    return {
        "first_heard_s": sensor.first_heard_s,
        "heard_s": sensor.heard_s,
        "is_silent": now_s - sensor.heard_s > SILENT_AFTER_S,
        "introduced_s": sensor.introduced_s,
        "application": who.application,
        "host": who.host,
        "task": dict(who.task),
        "captures": list(who.interfaces),
        "captures_in_all": who.interfaces_in_all,
        "packet_filter_refused": who.packet_filter_refused,
        "antigena_mode": who.antigena if sensor.antigena is None else sensor.antigena["mode"],
        "antigena": sensor.antigena,
        "packets": sum(i["packets"] for i in interfaces.values()),
        "section_bytes": sum(i["section_bytes"] for i in interfaces.values()),
        "packets_per_s": sum(i["packets_per_s"] for i in interfaces.values()),
        "bytes_per_s": sum(i["bytes_per_s"] for i in interfaces.values()),
        "verdict": max((i["verdict"] for i in interfaces.values()), key=VERDICTS.index, default="open"),
        "interfaces": interfaces,
    }
