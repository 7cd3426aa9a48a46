"""pcapng sections, written into memory that somebody else owns (draft-ietf-opsawg-pcapng, sections 4.1 to 4.6).

Invariant: from `open` on, the first `used` bytes of the view are a valid section prefix, and `close` is always
possible, because room for the closing statistics block is held back from the start. So a section whose writer was
killed can be closed by its successor, from nothing but `used`.

One section is one batch: SHB, IDB, EPBs, ISB. Sections that follow one another are a valid file, hence the vSensor
stores bodies byte for byte. Little-endian throughout; readers take the order from the magic.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

SHB: Final = 0x0A0D0D0A
IDB: Final = 1
ISB: Final = 5
EPB: Final = 6
_MAGIC: Final = 0x1A2B3C4D

_OPT_END = b"\0\0\0\0"
_SHB_USERAPPL, _IF_NAME, _IF_TSRESOL, _IF_FILTER, _IF_OS = 4, 2, 9, 11, 12
_ISB_START, _ISB_END, _ISB_RECEIVED, _ISB_DROPPED = 2, 3, 4, 5

_EPB_HEAD = struct.Struct("<IIIIIII")  # type, length, interface, timestamp high, low, captured, original
_LENGTH = struct.Struct("<I")
_SECTION_LENGTH_AT: Final = 16
# An option's length has 16 bits; a filter that reads like a book is cut rather than refused.
LONGEST_FILTER_BYTES: Final = 4000
EPB_OVERHEAD: Final = _EPB_HEAD.size + _LENGTH.size
_PAD = (b"", b"\0\0\0", b"\0\0", b"\0")  # by length modulo 4


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("<HH", code, len(value)) + value + _PAD[len(value) % 4]


def block(kind: int, body: bytes) -> bytes:
    """A whole block around this body, which is padded to 32 bits already."""
    length = 12 + len(body)
    return struct.pack("<II", kind, length) + body + struct.pack("<I", length)


def section_header(application: str) -> bytes:
    """An SHB whose section length is still open (-1, which the draft allows: a reader then walks the blocks)."""
    body = struct.pack("<IHHq", _MAGIC, 1, 0, -1) + _option(_SHB_USERAPPL, application.encode()) + _OPT_END
    return block(SHB, body)


def interface_description(name: str, linktype: int, snaplen: int, capture_filter: str, system: str) -> bytes:
    """An IDB with nanosecond timestamps. The filter is the libpcap string that the packets passed (option code 0)."""
    options = _option(_IF_NAME, name.encode("utf-8", "replace")) + _option(_IF_TSRESOL, b"\x09")
    if capture_filter:
        options += _option(_IF_FILTER, b"\0" + capture_filter.encode("utf-8", "replace")[:LONGEST_FILTER_BYTES])
    options += _option(_IF_OS, system.encode()) + _OPT_END
    return block(IDB, struct.pack("<HHI", linktype, 0, snaplen) + options)


# Type, length, interface, time high, low; four options of eight bytes, each with its head; their end; length.
_STATISTICS = struct.Struct("<IIIII HHII HHII HHQ HHQ HH I")


def interface_statistics(start_ns: int, end_ns: int, received: int, dropped: int) -> bytes:
    """An ISB. Counts are the epoch's so far: cumulative, as the draft wants them."""
    start = start_ns >> 32, start_ns & 0xFFFFFFFF
    end = end_ns >> 32, end_ns & 0xFFFFFFFF
    return _STATISTICS.pack(
        *(ISB, _STATISTICS.size, 0, *end),
        *(_ISB_START, 8, *start),
        *(_ISB_END, 8, *end),
        *(_ISB_RECEIVED, 8, received),
        *(_ISB_DROPPED, 8, dropped),
        *(0, 0, _STATISTICS.size),
    )


# What close() appends; `used` never grows into it.
CLOSING_BYTES: Final = len(interface_statistics(0, 0, 0, 0))


def largest_block(snaplen: int) -> int:
    """Bytes of the longest EPB that a snap length allows."""
    return EPB_OVERHEAD + (snaplen + 3 & ~3)


def blocks_in_empty_section(view_bytes: int, prologue: bytes, block_bytes: int) -> int:
    """How many EPBs of at most `block_bytes` a new section in a view of that size takes."""
    return (view_bytes - CLOSING_BYTES - len(prologue)) // block_bytes


class Section:
    """A section being written into `view`. Not reusable: one object, one section."""

    def __init__(self, view: memoryview, used: int) -> None:
        self.view = view
        self.room = len(view) - CLOSING_BYTES  # `used` grows up to here
        self.used = used

    @classmethod
    def open(cls, view: memoryview, prologue: bytes) -> Section:
        """Starts a section with its SHB and IDB. Raises ValueError when they alone do not fit."""
        if len(prologue) + CLOSING_BYTES > len(view):
            raise ValueError("the view is smaller than an empty section")
        view[: len(prologue)] = prologue
        return cls(view, len(prologue))

    def blocks_that_fit(self, block_bytes: int) -> int:
        """How many EPBs of at most `block_bytes` can still be added, whatever their contents."""
        return (self.room - self.used) // block_bytes

    def add(self, ts_ns: int, packet: bytes, original_length: int) -> bool:
        """False, and nothing written, when the packet does not fit."""
        captured = len(packet)
        length = EPB_OVERHEAD + (captured + 3 & ~3)
        at = self.used
        end = at + length
        if end > self.room:
            return False
        view = self.view
        _EPB_HEAD.pack_into(view, at, EPB, length, 0, ts_ns >> 32, ts_ns & 0xFFFFFFFF, captured, original_length)
        body = at + _EPB_HEAD.size
        view[body : body + captured] = packet
        if captured % 4:
            view[body + captured : end - 4] = _PAD[captured % 4]
        _LENGTH.pack_into(view, end - 4, length)
        self.used = end
        return True

    def close(self, start_ns: int, end_ns: int, received: int, dropped: int) -> int:
        """The length of the finished section. May be repeated over the same `used`: the bytes come out the same."""
        statistics = interface_statistics(start_ns, end_ns, received, dropped)
        end = self.used + len(statistics)
        self.view[self.used : end] = statistics
        (header_bytes,) = _LENGTH.unpack_from(self.view, 4)
        struct.pack_into("<q", self.view, _SECTION_LENGTH_AT, end - header_bytes)
        return end


class FormatError(ValueError):
    """Bytes that are no pcapng of the kind written here."""


class Block(NamedTuple):
    """One block: its type and its body without the two lengths."""

    kind: int
    body: memoryview


@dataclass(frozen=True, slots=True)
class Packet:
    """What an EPB holds; times in nanoseconds since 1970."""

    interface: int
    ts_ns: int
    original_length: int
    data: bytes


def blocks(data: bytes | bytearray | memoryview) -> Iterator[Block]:
    """The blocks of little-endian sections that follow one another. Raises FormatError at the first bad length."""
    view = memoryview(data)
    at = 0
    while at < len(view):
        if len(view) - at < 12:
            raise FormatError(f"{len(view) - at} bytes at offset {at} are too few for a block")
        kind, length = struct.unpack_from("<II", view, at)
        if length < 12 or length % 4 or at + length > len(view):
            raise FormatError(f"block length {length} at offset {at}")
        if _LENGTH.unpack_from(view, at + length - 4) != (length,):
            raise FormatError(f"the two lengths of the block at offset {at} differ")
        if kind == SHB and _LENGTH.unpack_from(view, at + 8) != (_MAGIC,):
            raise FormatError(f"section at offset {at} is not little-endian pcapng")
        yield Block(kind, view[at + 8 : at + length - 4])
        at += length


class Statistics(NamedTuple):
    """What an ISB says; None where it says nothing. Times are Unix times in nanoseconds."""

    received: int | None
    dropped: int | None
    start_ns: int | None = None
    end_ns: int | None = None


def options(body: bytes | memoryview, at: int) -> Iterator[tuple[int, bytes]]:
    """Codes and values of the options of a block, which begin at this offset of its body. Raises FormatError."""
    while at + 4 <= len(body):
        code, length = struct.unpack_from("<HH", body, at)
        if at + 4 + length > len(body):  # of the one that ends them too, which has none: Wireshark minds
            raise FormatError("an option longer than its block")
        if not code:
            return
        yield code, bytes(body[at + 4 : at + 4 + length])
        at += 4 + (length + 3 & ~3)


def statistics_of(body: bytes | memoryview) -> Statistics:
    """An ISB's counts and times, from its body. Raises FormatError."""
    found: dict[int, int] = {}
    for code, value in options(body, 12):  # behind interface and time
        if len(value) == 8:
            # Counts are 64-bit numbers; a time is two 32-bit ones, the high one first, as in an EPB.
            first, second = struct.unpack("<II", value)
            found[code] = first << 32 | second if code in (_ISB_START, _ISB_END) else second << 32 | first
    return Statistics(*map(found.get, (_ISB_RECEIVED, _ISB_DROPPED, _ISB_START, _ISB_END)))


def renamed(description: bytes, name: str) -> bytes:
    """The body of an IDB with another name for the interface, and everything else as it was. Raises FormatError."""
    others = (_option(code, value) for code, value in options(description, 8) if code != _IF_NAME)
    return description[:8] + _option(_IF_NAME, name.encode("utf-8", "replace")) + b"".join(others) + _OPT_END


def packets(data: bytes | bytearray | memoryview) -> Iterator[Packet]:
    """The packets of every section, in file order. Raises FormatError."""
    for kind, body in blocks(data):
        if kind != EPB:
            continue
        if len(body) < 20:
            raise FormatError("an enhanced packet block without its fixed part")
        interface, high, low, captured, original = struct.unpack_from("<IIIII", body)
        if 20 + captured > len(body):
            raise FormatError("a packet longer than its block")
        yield Packet(interface, high << 32 | low, original, bytes(body[20 : 20 + captured]))
