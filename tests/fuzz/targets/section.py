"""What the vSensor stores: a section whose ends were looked at (vsensor/section.py).

Declared: SectionError. Second oracle: what passes can stand in a file. A reader that goes by the section's length alone
finds the sections before and behind it; and where one that walks the blocks gets to the end, the blocks written again
are the same bytes, and scapy's reader finds the same packets as `ossensor extract`.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator

from scapy.utils import RawPcapNgReader

from ossensor import pcapng
from ossensor.vsensor import section
from ossensor.vsensor.picking import picked
from ossensor.vsensor.section import SectionError, Span

logging.getLogger("scapy.runtime").setLevel(logging.CRITICAL)

ALWAYS = Span(0, (1 << 64) - 1)
_OTHER_PACKETS = {2, 3}  # obsolete and simple packet blocks, which scapy reads and we do not write


def made(
    packets: list[tuple[int, bytes]], *, linktype: int = 1, interface: str = "eth0", capture_filter: str = "ip"
) -> bytes:
    """A section as a sensor writes it."""
    memory = bytearray(sum(len(packet) + 40 for _, packet in packets) + 1024)
    prologue = pcapng.section_header("test") + pcapng.interface_description(
        interface, linktype, 262_144, capture_filter, "Linux"
    )
    writing = pcapng.Section.open(memoryview(memory), prologue)
    for ts_ns, packet in packets:
        assert writing.add(ts_ns, packet, len(packet))
    times = [ts_ns for ts_ns, _ in packets] or [0]
    return bytes(memory[: writing.close(min(times), max(times), len(packets) + 1, 1)])


def seeds() -> Iterator[bytes]:
    yield made([])
    yield made([(1_795_000_000_123_456_789, b"frame"), (1_795_000_001_000_000_000, bytes(60))])
    # Without options, as another sensor may write it: its packets' times are found by walking.
    description = pcapng.block(pcapng.IDB, struct.pack("<HHI", 101, 0, 0))
    packet = pcapng.block(pcapng.EPB, struct.pack("<IIIII", 0, 7, 9, 3, 1500) + b"abc\0")
    statistics = pcapng.block(pcapng.ISB, bytes(12))
    rest = description + packet + statistics
    yield pcapng.block(pcapng.SHB, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, len(rest))) + rest


def target(data: bytes) -> bool:
    try:
        section.check(data)
        span = section.span(data)
    except SectionError:
        return False
    length = int.from_bytes(data[4:8], "little") + int.from_bytes(data[16:24], "little", signed=True)
    assert length == len(data)
    assert span is None or 0 <= span.earliest_ns <= span.latest_ns < 1 << 63
    try:
        ours = [(packet.ts_ns, packet.block) for packet in picked(data, ALWAYS, None)]
    except pcapng.FormatError:
        return True
    assert b"".join(pcapng.block(kind, bytes(body)) for kind, body in pcapng.blocks(data)) == data
    if any(kind in _OTHER_PACKETS for kind, _ in pcapng.blocks(data)):
        return True
    packets = [(ts_ns, block[20:][: int.from_bytes(block[12:16], "little")]) for ts_ns, block in ours]
    scapys, complete = _scapys(data)
    assert packets[: None if complete else len(scapys)] == scapys
    return True


def _scapys(data: bytes) -> tuple[list[tuple[int, bytes]], bool]:
    """Times as they stand in the blocks, and packets; whether scapy came to the end, or to what it does not like."""
    file = io.BytesIO(data)
    reader = RawPcapNgReader(file)
    found = []
    while True:
        try:
            packet, about = reader._read_packet(len(data))
        except EOFError:
            return found, file.tell() == len(data)
        found.append((about.tshigh << 32 | about.tslow, packet))
