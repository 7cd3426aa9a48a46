"""Stored sections made into one endless file: pcapng with few interfaces, or pcap. Pure.

Invariant: `prologue`, and then every piece from the moment it was asked for, is a valid file, whoever began when. So
all readers are given the same bytes, and one that comes late needs nothing but the prologue.

Sections could be passed on as they lie in the store, and would be a valid file too; but each describes its interface
anew, and Wireshark, which never forgets an interface, would know 14,400 of them after an hour of one sensor's. So the
sections' headers are left out and each packet is given the number of an interface of ours.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, Protocol

from ossensor import pcapng

ETHERNET: Final = 1  # LINKTYPE_ETHERNET
# Interfaces are (sensor, description), and sensors may change filters as often as they like: then a new section begins.
INTERFACES_MAX: Final = 1024

_IF_DESCRIPTION: Final = 3
_BLOCK: Final = struct.Struct("<II")
_WORD: Final = struct.Struct("<I")
_PCAP_NANOSECONDS: Final = 0xA1B23C4D
_SECONDS_MAX: Final = (1 << 32) - 1  # of 1970: until 2106
_RECORD: Final = struct.Struct("<IIII")  # seconds, nanoseconds, captured, original


class Piece(NamedTuple):
    """What follows in the endless file."""

    data: bytes
    packets: int
    left_out: int  # packets for which the format has no place


class Format(Protocol):
    """One endless file."""

    def prologue(self) -> bytes: ...

    def take(self, sensor: str, section: bytes) -> Piece:
        """The piece for one section. Raises pcapng.FormatError."""
        ...


class Pcapng:
    """One section, an interface for each description that a sensor gives."""

    def __init__(self, application: str) -> None:
        self._header = pcapng.section_header(application)
        self._numbers: dict[tuple[str, bytes], int] = {}
        self._descriptions: list[bytes] = []
        self._begin_anew = False

    def prologue(self) -> bytes:
        return b"".join((self._header, *self._descriptions))

    def take(self, sensor: str, section: bytes) -> Piece:
        try:
            return self._take(sensor, section)
        except pcapng.FormatError:
            self._begin_anew = True  # readers may not have been told of an interface that was given a number
            raise

    def _take(self, sensor: str, section: bytes) -> Piece:
        out = self._begin()
        packets = 0
        numbers: list[int] = []
        at = 0
        view = memoryview(bytearray(section))  # numbers are written into a copy; the section belongs to every output
        for kind, body in pcapng.blocks(section):
            total = len(body) + 12
            if kind == pcapng.IDB:
                numbers.append(self._number(sensor, bytes(body), out))
            elif kind in {pcapng.EPB, pcapng.ISB}:
                number = _WORD.unpack_from(body)[0] if len(body) >= 4 else len(numbers)
                if number >= len(numbers):
                    raise pcapng.FormatError("a block of an interface that is not described")
                _WORD.pack_into(view, at + 8, numbers[number])
                out += view[at : at + total]
                packets += kind == pcapng.EPB
            at += total
        return Piece(bytes(out), packets, 0)

    def _begin(self) -> bytearray:
        """The beginning of a piece: a new section's header where the one before ends."""
        if not self._begin_anew and len(self._numbers) < INTERFACES_MAX:
            return bytearray()
        self._begin_anew = False
        self._numbers.clear()
        self._descriptions.clear()
        return bytearray(self._header)

    def _number(self, sensor: str, description: bytes, out: bytearray) -> int:
        key = (sensor, description)
        number = self._numbers.get(key)
        if number is not None:
            return number
        number = self._numbers[key] = len(self._numbers)
        # The sensor's name as if_description, before the sensor's own options: Wireshark shows it with each packet.
        name = sensor.encode()
        option = struct.pack("<HH", _IF_DESCRIPTION, len(name)) + name + bytes(-len(name) % 4)
        body = description[:8] + option + description[8:]
        length = len(body) + 12
        block = _BLOCK.pack(pcapng.IDB, length) + body + _WORD.pack(length)
        self._descriptions.append(block)
        out += block
        return number


class Pcap:
    """The older format, for programs that know no other: Ethernet with nanoseconds, and not a word of who captured it.

    Its header names the one link type before any packet is there. What is of another, or later than 2106, is counted.
    """

    def prologue(self) -> bytes:
        return struct.pack("<IHHiIII", _PCAP_NANOSECONDS, 2, 4, 0, 0, 262144, ETHERNET)

    def take(self, sensor: str, section: bytes) -> Piece:  # noqa: ARG002  the format has no place for it
        out = bytearray()
        packets = left_out = 0
        for frame in frames(section):
            seconds, nanoseconds = divmod(frame.ts_ns, 1_000_000_000)
            if frame.linktype != ETHERNET or seconds > _SECONDS_MAX:
                left_out += 1
                continue
            out += _RECORD.pack(seconds, nanoseconds, len(frame.data), frame.original_length)
            out += frame.data
            packets += 1
        return Piece(bytes(out), packets, left_out)


class Frame(NamedTuple):
    """One packet with the link type of its interface."""

    linktype: int
    ts_ns: int
    original_length: int
    data: memoryview


def frames(section: bytes) -> list[Frame]:
    """The packets of a section of ours, times in nanoseconds. Raises pcapng.FormatError."""
    found = []
    linktypes: list[int] = []
    for kind, body in pcapng.blocks(section):
        if kind == pcapng.IDB:
            linktypes.append(struct.unpack_from("<H", body)[0] if len(body) >= 8 else 0)
        elif kind == pcapng.EPB:
            if len(body) < 20:
                raise pcapng.FormatError("an enhanced packet block without its fixed part")
            number, high, low, captured, original = struct.unpack_from("<IIIII", body)
            if number >= len(linktypes) or 20 + captured > len(body):
                raise pcapng.FormatError("a packet that its block does not hold")
            found.append(Frame(linktypes[number], high << 32 | low, original, body[20 : 20 + captured]))
    return found
