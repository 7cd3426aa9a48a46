"""Whether a body may be stored: decompressed within bounds, and shaped like one complete pcapng section.

Pure and constant time: the ends of the section are looked at, never each packet. Sections are stored side by side in
one file, so what matters is that this one ends where it says: a wrong length here would make the *next* one unreadable.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import zstandard

from ossensor import pcapng
from ossensor.transport.protocol import MAX_SECTION_BYTES, Outcome

_SHB: Final = 0x0A0D0D0A
_IDB: Final = 1
_ISB: Final = 5
_MAGIC: Final = 0x1A2B3C4D
_MINORS: Final = frozenset({0, 2})  # the same format under two numbers (the draft, section 4.1); tools take no other
_SHB_HEAD: Final = struct.Struct("<IIIHHq")  # type, total length, magic, major, minor, section length
_BLOCK_HEAD: Final = struct.Struct("<II")  # type, total length
_TAIL: Final = struct.Struct("<I")  # total length, repeated
_SHB_MIN: Final = _SHB_HEAD.size + _TAIL.size
_IDB_MIN: Final = 20
_ISB_MIN: Final = 24

_FRAME_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_FRAME_HEADER_MAX: Final = 18  # ZSTD_FRAMEHEADERSIZE_MAX of zstd.h


class SectionError(Exception):
    """The body is not what this protocol stores. Carries the outcome to tell the sensor."""

    def __init__(self, outcome: Outcome, why: str) -> None:
        super().__init__(why)
        self.outcome = outcome


class Span(NamedTuple):
    """Unix times in nanoseconds: no packet of a section is older than the one, or newer than the other."""

    earliest_ns: int
    latest_ns: int


# SQLite's largest integer: the year 2262. A time beyond it is kept as this, and is found by who asks for all times.
_LAST_NS: Final = (1 << 63) - 1


def _malformed(why: str) -> SectionError:
    return SectionError(Outcome.MALFORMED, why)


def inflated_bytes(body: bytes | bytearray) -> int:
    """The size that the zstd frame in `body` declares, before anything is decompressed.

    Raises SectionError: TOO_LARGE above MAX_SECTION_BYTES, MALFORMED for what is no frame, or one that is empty or does
    not declare its size. A frame without a size can only be bounded by stopping in the middle of it, and
    python-zstandard then does not say whether bytes followed it; our sensor compresses in one call, which always
    declares.
    """
    if body[:4] != _FRAME_MAGIC:  # skippable frames have other magics, and nothing to store
        raise _malformed("not a zstd frame")
    try:
        size = zstandard.get_frame_parameters(bytes(body[:_FRAME_HEADER_MAX])).content_size
    except zstandard.ZstdError as e:
        raise _malformed("the zstd frame's header is damaged") from e
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise _malformed("the zstd frame does not declare its size")
    if size == 0:
        # No section is empty; and python-zstandard makes nothing of such a frame without looking at what is in it.
        raise _malformed("the zstd frame declares that it is empty")
    if size > MAX_SECTION_BYTES:
        raise SectionError(Outcome.TOO_LARGE, "the section is over the limit")
    return size


def inflate(body: bytes | bytearray) -> bytes:
    """What the single zstd frame in `body` holds.

    Raises SectionError as `inflated_bytes` does, and MALFORMED when the frame is cut, damaged, holds another number
    of bytes than it declares, or is followed by anything. zstd writes no further than the declared size, so a bomb
    costs at most MAX_SECTION_BYTES.
    """
    inflated_bytes(body)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_SECTION_BYTES)
    try:
        return decompressor.decompress(body, allow_extra_data=False)
    except zstandard.ZstdError as e:
        raise _malformed("the zstd frame is damaged") from e


def _length_of_block(section: bytes | bytearray, offset: int, kind: int, least: int) -> int:
    """The length of the block of this kind at `offset`. Raises SectionError when it is not one, or not whole."""
    if offset + least > len(section):
        raise _malformed(f"the section ends before block {kind}")
    found, length = _BLOCK_HEAD.unpack_from(section, offset)
    if found != kind:
        raise _malformed(f"block {found} where block {kind} must be")
    if length < least or length % 4 or offset + length > len(section):
        raise _malformed(f"block {kind} has an impossible length")
    if _TAIL.unpack_from(section, offset + length - _TAIL.size) != (length,):
        raise _malformed(f"block {kind} gives two lengths")
    return int(length)


def check(section: bytes | bytearray) -> None:
    """Returns when `section` is one complete section: SHB, IDB, packets, ISB. Raises SectionError otherwise."""
    if len(section) > MAX_SECTION_BYTES:
        raise SectionError(Outcome.TOO_LARGE, "the section is over the limit")
    shb = _length_of_block(section, 0, _SHB, _SHB_MIN)
    _, _, magic, major, minor, section_bytes = _SHB_HEAD.unpack_from(section)
    if magic != _MAGIC or major != 1 or minor not in _MINORS:
        raise _malformed("not little-endian pcapng 1.0")
    # -1, "not specified", is legal pcapng; then a reader must walk to find the next section. Ours always says.
    if section_bytes != len(section) - shb:
        raise _malformed("the section's length is not the body's")
    idb = _length_of_block(section, shb, _IDB, _IDB_MIN)
    (isb,) = _TAIL.unpack_from(section, len(section) - _TAIL.size)
    last = len(section) - isb
    if isb < _ISB_MIN or last < shb + idb:
        raise _malformed("the last block has an impossible length")
    if _length_of_block(section, last, _ISB, _ISB_MIN) != isb:
        raise _malformed("the last block gives two lengths")
    if _TAIL.unpack_from(section, last + _BLOCK_HEAD.size) != (0,):
        raise _malformed("statistics of another interface than the one")
    for start, end, options_at in ((0, shb, _SHB_MIN), (shb, shb + idb, _IDB_MIN), (last, len(section), _ISB_MIN)):
        _check_options(memoryview(section)[start + 8 : end - _TAIL.size], options_at - 8 - _TAIL.size)


def _check_options(body: memoryview, at: int) -> None:
    """Wireshark reads a file no further than to options that do not fit into their block."""
    try:
        for _ in pcapng.options(body, at):
            pass
    except pcapng.FormatError as e:
        raise _malformed(str(e)) from e


def span(section: bytes | bytearray) -> Span | None:
    """Between which times the packets of a checked section lie; None when it has none.

    Told by the statistics block, which our sensor fills with the lowest and highest time, so that a small packet costs
    no more than a large one. A section whose sensor leaves them out is walked; SectionError when it cannot be.
    """
    shb = _length_of_block(section, 0, _SHB, _SHB_MIN)
    packets_at = shb + _length_of_block(section, shb, _IDB, _IDB_MIN)
    (isb,) = _TAIL.unpack_from(section, len(section) - _TAIL.size)
    if packets_at == len(section) - isb:
        return None
    try:
        told = pcapng.statistics_of(memoryview(section)[len(section) - isb + 8 : -4])
        if told.start_ns is not None and told.end_ns is not None and told.start_ns <= told.end_ns:
            return Span(min(told.start_ns, _LAST_NS), min(told.end_ns, _LAST_NS))
        times = [min(packet.ts_ns, _LAST_NS) for packet in pcapng.packets(section)]
    except pcapng.FormatError as e:
        raise _malformed(str(e)) from e
    return Span(min(times), max(times)) if times else None
