"""Packets out of stored sections, into one section of their own. Pure: bytes in, bytes out.

Invariant: what is written is at any moment a valid pcapng file, and each packet in it is the block that was stored,
options and all, but for the number of its interface.

One section, with an interface description for each (sensor, interface) in it, because tools that list sections or
interfaces would otherwise list one for each batch. The interface is called `sensor/interface`: ten sensors' eth0 are
ten interfaces.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from ossensor import pcapng

from .section import Span


class Passes(Protocol):
    """Whether a packet is wanted: link layer, bytes, length on the wire."""

    def __call__(self, linktype: int, packet: bytes, original_bytes: int, /) -> bool: ...


class Picked(NamedTuple):
    """One packet: its time, and the bodies of its block and of its interface's description."""

    ts_ns: int
    block: bytes
    description: bytes


_EPB_FIXED = struct.Struct("<IIIII")  # interface, timestamp high, low, captured, original


def picked(section: bytes, window: Span, passes: Passes | None) -> Iterator[Picked]:
    """The section's packets within the window, both ends included, that pass. Raises pcapng.FormatError."""
    description = b""
    for kind, body in pcapng.blocks(section):
        if kind == pcapng.IDB:
            if description or len(body) < 8:
                raise pcapng.FormatError("a section with another number of interfaces than one")
            description = bytes(body)
        if kind != pcapng.EPB:
            continue
        if len(body) < _EPB_FIXED.size:
            raise pcapng.FormatError("an enhanced packet block without its fixed part")
        interface, high, low, captured, original = _EPB_FIXED.unpack_from(body)
        if interface or not description or captured > len(body) - _EPB_FIXED.size:
            raise pcapng.FormatError("a packet of no interface, or longer than its block")
        ts_ns = high << 32 | low
        if not window.earliest_ns <= ts_ns <= window.latest_ns:
            continue
        if passes is None or passes(
            int.from_bytes(description[:2], "little"), bytes(body[_EPB_FIXED.size :][:captured]), original
        ):
            yield Picked(ts_ns, bytes(body), description)


class Collection:
    """The file that is being written: calls `write` with whole blocks."""

    def __init__(self, write: Callable[[bytes], object], application: str) -> None:
        self._write = write
        self._interfaces: dict[tuple[str, bytes], int] = {}
        write(pcapng.section_header(application))

    def add(self, name: str, packet: Picked) -> None:
        """Adds one packet of the interface of this name."""
        key = (name, packet.description)
        number = self._interfaces.get(key)
        if number is None:
            number = self._interfaces[key] = len(self._interfaces)
            self._write(pcapng.block(pcapng.IDB, pcapng.renamed(packet.description, name)))
        self._write(pcapng.block(pcapng.EPB, struct.pack("<I", number) + packet.block[4:]))
