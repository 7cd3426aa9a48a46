"""The Internet checksum (RFC 1071). Pure."""

from __future__ import annotations


def folded(data: bytes) -> int:
    """The ones' complement sum of the data's 16-bit words: 0xFFFF over a header whose own checksum is right."""
    # 2**16 is 1 modulo 0xFFFF, so the sum of the words is the number itself, modulo 0xFFFF (RFC 1071 section 2 puts it
    # as carries that wrap around). That makes it one division, in C. Zero and 0xFFFF are the two zeros of this
    # arithmetic: only data that is all zeros sums to the first.
    number = int.from_bytes(data + bytes(len(data) % 2))
    return number % 0xFFFF or (0xFFFF if number else 0)


def checksum(data: bytes) -> int:
    """What goes into the checksum's field, where that held zero."""
    return 0xFFFF - folded(data)
