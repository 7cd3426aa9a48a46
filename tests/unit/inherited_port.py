"""A port on a ring of the test's own, and what another life of the sensor is given of it. No socket captures."""

from __future__ import annotations

import os
import socket

import pytest
from ring_memory import Frame, ring_of
from test_ring_engine import OPENING, FakeRing

from ossensor.budget import Share
from ossensor.capture import bpf
from ossensor.capture.bpf import Statistics
from ossensor.interfaces import Interface
from ossensor.legacy import Legacy, Note
from ossensor.port import Port
from ossensor.recipe import Recipe
from ossensor.region import Region
from ossensor.slots import Batch, Consumer, Producer
from ossensor.systemd.fdstore import Store
from ossensor.workers.batcher import Batcher

ETH0 = Interface("eth0", 1, loopback=False, up=True)
RECIPE = Recipe("ring", 100, 262_144, complete_checksums=False, application="test")
PACKETS = 3


def a_ring() -> FakeRing:
    return FakeRing(ring_of([[Frame(bytes(14), ts_ns=n) for n in range(PACKETS)]]))


def silent_kernel(monkeypatch: pytest.MonkeyPatch, readings: list[Statistics]) -> None:
    """It takes every filter, and says these counts, one reading after the other; then nothing new."""
    monkeypatch.setattr(bpf, "statistics", lambda _: readings.pop(0) if readings else Statistics(0, 0))
    monkeypatch.setattr(bpf, "attach", lambda *_: None)


def a_port(legacy: Legacy | None = None) -> Port:
    return Port(ETH0, 1, RECIPE, Share(1 << 20, 8 << 20), lambda _: b"", Store({}), legacy)


def legacy_of(port: Port, ring: FakeRing, monkeypatch: pytest.MonkeyPatch) -> Legacy:
    """What the next life is given of this one."""
    monkeypatch.setattr("ossensor.port.inherited_engine", lambda *_: ring)
    size, epoch = os.fstat(ring._memory).st_size, port._epoch.hex()
    note = Note(label="eth0", ifindex=1, epoch=epoch, linktype=1, ring_bytes=size, timeout_ms=100)
    return Legacy("port-1", note, socket.socket(), Region(os.dup(port.region.fd)))


def finish(port: Port, ring: FakeRing, region: Region | None = None) -> None:
    """A worker's last acts, in whichever process this is."""
    producer = Producer(region or port.region, port.pipes.ready_write, port.pipes.free_read)
    batcher = Batcher(producer, port._epoch, OPENING, 10.0, ring.unit_bytes)
    ring.resume(producer.region.consumed())
    ring.read(batcher, 1)
    batcher.finish()


def batches(port: Port) -> list[Batch]:
    return Consumer(port.region, port.pipes.ready_read, port.pipes.free_write).listen()
