"""One captured interface: its slots, its capture socket, and its books across epochs.

Invariant: the supervisor alone reads the kernel's statistics (reading resets them), and whenever no worker is alive

    received = kernel_drops + own drops + committed by workers

holds exactly: `close_epoch` shuts the filter first, so that nothing is counted behind its back, and books what the
dead worker had not committed under the reason that it is given.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections import Counter

from .accounting import Books, Reason
from .capture import bpf
from .capture.engine import Engine
from .children import Child
from .interfaces import Interface
from .slots import Pipes, Producer, Region, ring_for_dead
from .spawn import Process
from .workers.batcher import rescue
from .workers.child import Heartbeat

SLOT_BYTES = 1 << 20


class Port:
    """State of one interface in the supervisor."""

    def __init__(self, interface: Interface, queue_id: int, buffer_bytes: int) -> None:
        self.interface = interface
        self.queue_id = queue_id
        self.child = Child(f"oss-cap-{interface.name}")
        self.process: Process | None = None
        self.heartbeat = Heartbeat()
        self.retiring: Reason | None = None
        self.region = Region.create(max(2, buffer_bytes // SLOT_BYTES), SLOT_BYTES)
        self.pipes = Pipes.create()
        self.epoch = b""
        self._engine: Engine | None = None
        self._received = 0
        self._kernel_drops = 0
        self._epoch_received = 0
        self._epoch_drops = 0
        self._own: Counter[Reason] = Counter()

    def open_epoch(self, engine: Engine) -> None:
        """A new capture socket, hence new kernel counters and a new identity for what is read from it."""
        self._engine = engine
        self.epoch = secrets.token_bytes(16)
        self._epoch_received = self._epoch_drops = 0
        self.region.set_kernel_counts(0, 0)

    def refilter(self, program: bytes) -> None:
        if self._engine is not None:
            bpf.attach(self._engine.socket, program)

    def shut(self) -> None:
        """Lets no further packet in. What is in the ring stays there, to be read."""
        self.refilter(bpf.REJECT_ALL)

    def read_statistics(self) -> None:
        """Adds what the kernel counted since the last reading."""
        if self._engine is None:
            return
        # ENETDOWN, ENODEV: the interface is going away; the counters stay readable after the error is taken.
        with contextlib.suppress(OSError):
            counts = bpf.statistics(self._engine.socket)
            self._received += counts.received
            self._kernel_drops += counts.dropped
            self._epoch_received += counts.received
            self._epoch_drops += counts.dropped
            self.region.set_kernel_counts(self._epoch_received, self._epoch_drops)

    def close_epoch(self, reason: Reason) -> int:
        """To be called when the worker is dead: saves its open batch, and books and returns what it leaves behind."""
        if self._engine is None:
            return 0
        self.shut()
        self.read_statistics()
        rescue(Producer(self.region, self.pipes.ready_write, self.pipes.free_read))
        ring_for_dead(self.pipes)
        lost = self._received - self._kernel_drops - self._own.total() - self.region.committed()
        self._own[reason] += lost
        self._engine.socket.close()
        self._engine = None
        return lost

    def books(self, *, slots_lost: bool = False) -> Books:
        """The interface's counts now; balanced as integers when no worker is alive."""
        in_flight = self.region.in_flight()
        dropped = Counter(self._own)
        dropped.update(self.region.dropped())
        if slots_lost:
            dropped[Reason.SHUTDOWN] += in_flight
            in_flight = 0
        return Books(self._received, self._kernel_drops, self.region.delivered(), in_flight, dict(dropped))

    def close(self) -> None:
        """Releases memory and descriptors. The uploader maps the region still, if it has anything of it left."""
        self.region.close()
        self.pipes.close()
        self.heartbeat.close()
        os.close(self.region.fd)
