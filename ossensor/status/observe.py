"""What the supervisor can see of its sensor, gathered when somebody asks. It changes nothing."""

from __future__ import annotations

import os
import time

from ossensor import __version__
from ossensor.children import State
from ossensor.port import Port
from ossensor.region import State as Slot
from ossensor.roster import Roster
from ossensor.settings import Settings
from ossensor.uplink import Uplink

from . import text
from .antigena import actions
from .document import InterfaceStatus, SensorStatus, SpoolStatus, UploaderStatus, encode
from .judgement import verdict
from .rates import Rates


class Observer:
    """`notes` are what stays wrong until somebody acts, by what it is about; their owner adds and removes them."""

    def __init__(self, settings: Settings, roster: Roster, uplink: Uplink) -> None:
        self.notes: dict[str, str] = {}
        self._settings = settings
        self._roster = roster
        self._uplink = uplink
        self._began_s = time.monotonic()
        self._rates: dict[int, Rates] = {}

    def tick(self, now_s: float) -> None:
        """Takes a sample of every counter whose growth is shown."""
        ports = {port.queue_id: port for port in self._roster.all()}
        self._rates = {queue: self._rates.get(queue, Rates()) for queue in ports}
        for queue, port in ports.items():
            received, kernel_drops, _ = port.region.totals()
            self._rates[queue].add(now_s, received, kernel_drops, port.region.delivered())

    def document(self, phase: str) -> bytes:
        """The status as it is sent; `phase` is the supervisor's."""
        sensor = self.sensor(phase)
        return encode(sensor, verdict(sensor))

    def summary(self, phase: str) -> str:
        """One line for a service manager."""
        sensor = self.sensor(phase)
        return f"{phase}, {len(sensor.interfaces)} interfaces; {text.verdict(verdict(sensor))}"

    def sensor(self, phase: str) -> SensorStatus:
        """The status as values."""
        now_s = time.monotonic()
        settings, uploader = self._settings, self._uplink.child
        spool = None
        if settings.spool_dir is not None:
            spool = SpoolStatus(str(settings.spool_dir), settings.spool_mb << 20)
        absent = [
            InterfaceStatus(interface.name, interface.index, interface.up, "absent", why)
            for interface, why in self._roster.refused.values()
        ]
        return SensorStatus(
            version=__version__,
            sensor=settings.sensor_name,
            pid=os.getpid(),
            phase=phase,
            up_s=round(now_s - self._began_s, 1),
            vsensor=f"{settings.vsensor_hostname}:{settings.vsensor_port}",
            interfaces=[*(self._interface(port, now_s) for port in self._roster.all()), *absent],
            uploader=UploaderStatus(
                uploader.state.name.lower(),
                uploader.failing(now_s),
                uploader.restarts,
                uploader.trouble,
                self._uplink.said,
            ),
            spool=spool,
            notes=list(self.notes.values()),
            actions=actions(self._uplink.last_report),
        )

    def _interface(self, port: Port, now_s: float) -> InterfaceStatus:
        books, child = port.books(), port.child
        rates = self._rates[port.queue_id].per_s() if port.queue_id in self._rates else ()
        received, kernel_drops, delivered = (round(rate, 1) for rate in rates or (0.0, 0.0, 0.0))
        trouble = child.trouble if child.state in {State.BACKOFF, State.FAILED} else ""
        if port.shut:
            trouble = "nothing is let through until its filter can be had"
        return InterfaceStatus(
            name=port.label,
            index=port.interface.index,
            up=port.interface.up,
            state=child.state.name.lower(),
            trouble=trouble,
            failures=child.failing(now_s),
            restarts=child.restarts,
            received=books.received,
            kernel_drops=books.kernel_drops,
            delivered=books.delivered,
            spooled=books.spooled,
            in_flight=books.in_flight,
            dropped={reason.value: count for reason, count in books.dropped.items() if count},
            received_per_s=received,
            kernel_drops_per_s=kernel_drops,
            delivered_per_s=delivered,
            slots=port.region.count,
            slots_in_use=sum(port.region.state(slot) != Slot.FREE for slot in range(port.region.count)),
        )
