"""IP packets written out: TCP resets, and ICMP's word that a port is unreachable. Pure.

They are plain: no IP option, no tag of a flow, the hop limit that most hosts start with. IPv4 packets forbid their
fragmentation and so need no identification (RFC 6864 section 4.1).
"""

from __future__ import annotations

import struct
from typing import Final

from .actions import Address, End
from .checksums import checksum

_HOPS: Final = 64
_DONT_FRAGMENT: Final = 0x4000
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58

# The window of our segments. No receiver looks at that of a reset (RFC 9293 section 3.10.7), and other resets leave it
# at zero. By it, what is ours is known where it is seen again: by another handle or sensor, at another interface.
OUR_WINDOW: Final = int.from_bytes(b"OS")

# RFC 1812 section 4.3.2.3: as much of the datagram as fits without the error exceeding 576 bytes.
_MAX_ICMP_BYTES: Final = 576
# RFC 4443 section 3.1: the same, for IPv6's least MTU.
_MAX_ICMPV6_BYTES: Final = 1280


def ip(source: Address, destination: Address, protocol: int, payload: bytes) -> bytes:
    """An IP packet of the addresses' version around a payload whose checksum is right already."""
    if source.version == 6:
        return (
            struct.pack("!IHBB", 6 << 28, len(payload), protocol, _HOPS) + source.packed + destination.packed + payload
        )
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(payload), 0, _DONT_FRAGMENT, _HOPS, protocol)
    addresses = source.packed + destination.packed
    return start + struct.pack("!H", checksum(start + bytes(2) + addresses)) + addresses + payload


def tcp(source: End, destination: End, sequence: int, acknowledgment: int, flags: int) -> bytes:
    """A segment without payload or options in its IP packet."""
    fields = (source.port, destination.port, sequence, acknowledgment, 5 << 4, flags)
    segment = struct.pack("!HHIIBBHHH", *fields, OUR_WINDOW, 0, 0)
    segment = _with_checksum(segment, 16, _pseudo(source.address, destination.address, _TCP, len(segment)))
    return ip(source.address, destination.address, _TCP, segment)


def udp(source: End, destination: End) -> bytes:
    """An empty datagram in its IP packet."""
    datagram = struct.pack("!HHHH", source.port, destination.port, 8, 0)
    datagram = _with_checksum(datagram, 6, _pseudo(source.address, destination.address, _UDP, len(datagram)))
    return ip(source.address, destination.address, _UDP, datagram)


def port_unreachable(source: Address, destination: Address, datagram: bytes) -> bytes:
    """`source` tells `destination` that nobody is at the port that this IP packet of its was for."""
    if source.version == 4:
        quoted = datagram[: _MAX_ICMP_BYTES - 20 - 8]
        return ip(source, destination, _ICMP, _with_checksum(bytes((3, 3)) + bytes(6) + quoted, 2))  # RFC 792
    quoted = datagram[: _MAX_ICMPV6_BYTES - 40 - 8]
    message = bytes((1, 4)) + bytes(6) + quoted  # RFC 4443 section 3.1
    message = _with_checksum(message, 2, _pseudo(source, destination, _ICMPV6, len(message)))
    return ip(source, destination, _ICMPV6, message)


def _pseudo(source: Address, destination: Address, protocol: int, length: int) -> bytes:
    """The part of the IP header that a checksum covers: RFC 9293 section 3.1, RFC 8200 section 8.1."""
    return source.packed + destination.packed + struct.pack("!II", length, protocol)


def _with_checksum(data: bytes, at: int, pseudo: bytes = b"") -> bytes:
    """The data with its checksum put where it holds zeros.

    Zero is not replaced by 0xFFFF for UDP: an empty datagram's sum cannot be zero but by its ports and addresses, and
    it is only ever quoted, where nobody looks.
    """
    return data[:at] + struct.pack("!H", checksum(pseudo + data)) + data[at + 2 :]
