"""A store that a real writer filled: packets of known times, one a second, ten to a batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ossensor import pcapng
from ossensor.transport.protocol import Account, BatchId, Outcome, Stream
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.section import span
from ossensor.vsensor.store import Append, Store

EPOCH = "0123456789abcdef" * 2
START_S = 1_795_428_000  # 2026-11-23T10:00:00Z
START_NS = START_S * 10**9
PER_BATCH = 10


def frame(number: int, port: int = 80, size: int = 100, *, ethernet: bool = True) -> bytes:
    """UDP over IPv4 from a port; it says its number."""
    total = size - 14
    ip = bytes.fromhex("4500") + total.to_bytes(2, "big") + bytes.fromhex("0000000040110000 0a000001 0a000002")
    udp = port.to_bytes(2, "big") + (9).to_bytes(2, "big") + (total - 20).to_bytes(2, "big") + bytes(2)
    data = ip + udp + number.to_bytes(8, "big")
    return (bytes(12) + b"\x08\x00" if ethernet else b"") + data.ljust(total, b"\0")


def number_of(data: bytes) -> int:
    return int.from_bytes(data[42:50], "big")


def made(
    interface: str, packets: list[tuple[int, bytes]], linktype: int = 1, cut: int | None = None, received: int = 0
) -> bytes:
    """A section as a sensor writes it; `cut` is a snap length."""
    memory = bytearray(1 << 20)
    prologue = pcapng.section_header("test") + pcapng.interface_description(interface, linktype, 262_144, "ip", "Linux")
    section = pcapng.Section.open(memoryview(memory), prologue)
    for ts_ns, data in packets:
        assert section.add(ts_ns, data[:cut], len(data))
    times = [ts_ns for ts_ns, _ in packets] or [0]
    return bytes(memory[: section.close(min(times), max(times), received, 0)])


def fill(
    store: Store, sensor: str, interface: str, batches: int, *, first: int = 0, epoch: str = EPOCH, **frames: Any
) -> None:
    """Batches `first` and on of one interface: packet n has the n-th second. Each is stored before this returns."""
    stream = Stream(sensor, epoch, interface)
    for sequence in range(first, first + batches):
        numbers = range(sequence * PER_BATCH, (sequence + 1) * PER_BATCH)
        packets = [(START_NS + n * 10**9, frame(n, **frames)) for n in numbers]
        body = made(interface, packets, received=numbers.stop)
        account = Account(first_packet=numbers.start, received=numbers.stop)
        append = Append(BatchId(stream, sequence), 0, PER_BATCH, body, account.text, span(body))
        # One by one: what is queued together goes to one file.
        assert store.append(append).result(120) is Outcome.STORED


def opened(root: Path, **options: Any) -> Store:
    root.mkdir(exist_ok=True)
    store = Store(Layout(root), **{"durable": False, **options})
    store.start()
    return store
