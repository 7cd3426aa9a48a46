"""What a packet, from its IP header on, says of its connection: a Segment, or nothing. Pure; raises for no bytes.

Invariant: a Segment is only made of headers that are whole and agree with each other. A damaged header could name a
connection that nobody ordered ended; a packet that is passed over costs one more packet of a connection that is.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal, NamedTuple

from .actions import End
from .checksums import folded

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

# How much of a packet is looked at: IP and TCP with every option are 120 bytes; the rest is for IPv6's extension
# headers, and for an ICMP error to quote (packets.py), which may have 576 bytes in all.
SEEN_BYTES: Final = 576

_TCP, _UDP = 6, 17
_AUTHENTICATION, _FRAGMENT = 51, 44
# Extension headers of the common form (RFC 6564): hop-by-hop, routing, destination, mobility, HIP, shim6.
_EXTENSIONS: Final = frozenset({0, 43, 60, 135, 139, 140, _AUTHENTICATION, _FRAGMENT})
# RFC 8200 section 4.1 has each once, destination options twice; more are made to tire parsers.
_MAX_EXTENSIONS: Final = 8


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment or UDP datagram, as far as ending its connection needs to know it."""

    protocol: Literal["tcp", "udp"]
    source: End
    destination: End
    sequence: int
    acknowledgment: int
    flags: int
    window: int
    # The sequence space that it takes, SYN and FIN included (SEG.LEN of RFC 9293); None when the packet does not tell:
    # a first fragment, or a super-frame whose length does not fit into its field (BIG TCP). 0 for UDP.
    length: int | None
    ip: bytes  # the packet that it came in, as far as it was seen

    @property
    def after(self) -> int:
        """The sequence number that follows it."""
        return (self.sequence + (self.length or 0)) & 0xFFFFFFFF


class _Transport(NamedTuple):
    protocol: int
    source: IPv4Address | IPv6Address
    destination: IPv4Address | IPv6Address
    data: bytes
    total: int | None  # of transport header and payload; None when unknown


def maybe_segment(ip: bytes) -> Segment | None:
    """The segment in an IP packet; None for everything else, and for all that is malformed."""
    version = ip[0] >> 4 if ip else 0
    transport = _over_ipv4(ip) if version == 4 else _over_ipv6(ip) if version == 6 else None
    if transport is None:
        return None
    if transport.protocol == _TCP:
        return _tcp(ip, transport)
    if transport.protocol == _UDP:
        return _udp(ip, transport)
    return None


def _over_ipv4(ip: bytes) -> _Transport | None:
    header = (ip[0] & 0xF) * 4
    if header < 20 or len(ip) < header or folded(ip[:header]) != 0xFFFF:
        return None
    total, fragment = struct.unpack_from("!H2xH", ip, 2)
    if fragment & 0x1FFF or (total and total < header):
        return None  # a later fragment has no ports; or the length contradicts the header's own
    known = total and not fragment & 0x2000
    return _Transport(
        ip[9],
        IPv4Address(ip[12:16]),
        IPv4Address(ip[16:20]),
        ip[header : total or len(ip)],
        total - header if known else None,
    )


def _over_ipv6(ip: bytes) -> _Transport | None:
    if len(ip) < 40:
        return None
    payload, kind = struct.unpack_from("!HB", ip, 4)
    end = 40 + payload if payload else len(ip)
    at, whole = 40, payload > 0
    for _ in range(_MAX_EXTENSIONS):
        if kind not in _EXTENSIONS:
            break
        if at + 8 > min(end, len(ip)):
            return None
        if kind == _FRAGMENT:
            (fragment,) = struct.unpack_from("!H", ip, at + 2)
            if fragment & 0xFFF8:
                return None
            whole = whole and not fragment & 1
            size = 8
        elif kind == _AUTHENTICATION:
            size = (ip[at + 1] + 2) * 4  # RFC 4302 section 2.2 counts in words
        else:
            size = (ip[at + 1] + 1) * 8
        kind = ip[at]
        at += size
    if at > end:
        return None
    return _Transport(kind, IPv6Address(ip[8:24]), IPv6Address(ip[24:40]), ip[at:end], end - at if whole else None)


def _tcp(ip: bytes, transport: _Transport) -> Segment | None:
    if len(transport.data) < 20:
        return None
    sport, dport, sequence, acknowledgment, offset, flags, window = struct.unpack_from("!HHIIBBH", transport.data)
    header = (offset >> 4) * 4
    if header < 20 or (transport.total is not None and transport.total < header):
        return None
    length = None
    if transport.total is not None:
        length = transport.total - header + bool(flags & SYN) + bool(flags & FIN)
    return Segment(
        "tcp",
        End(transport.source, sport),
        End(transport.destination, dport),
        sequence,
        acknowledgment,
        flags,
        window,
        length,
        ip,
    )


def _udp(ip: bytes, transport: _Transport) -> Segment | None:
    if len(transport.data) < 8:
        return None
    sport, dport = struct.unpack_from("!HH", transport.data)
    ends = End(transport.source, sport), End(transport.destination, dport)
    return Segment("udp", *ends, 0, 0, 0, 0, 0, ip)
