"""A packet that a watch shows, from its IP header on, and what Antigena makes of it (antigena/segments.py, resets.py).

Declared: none, a packet may be anything. Second oracle: scapy finds the same addresses, ports and numbers; and the
packets that would go out are, to scapy, whole and have right checksums, and our own parser reads them.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from ipaddress import ip_address

logging.getLogger("scapy").setLevel(logging.CRITICAL)

from scapy.layers.inet import IP, TCP, UDP  # noqa: E402  it complains, when imported, of a host without routes
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop  # noqa: E402
from scapy.utils import checksum  # noqa: E402

from ossensor.antigena.resets import answerable, answers, questions  # noqa: E402
from ossensor.antigena.segments import ACK, SEEN_BYTES, Segment, maybe_segment  # noqa: E402

_ICMP = 1


def seeds() -> Iterator[bytes]:
    four, six = IP(src="10.0.0.1", dst="192.0.2.7"), IPv6(src="2001:db8::1", dst="2001:db8::2")
    tcp = TCP(sport=40000, dport=443, seq=7, ack=9, flags="PA")
    for packet in (
        *(four / tcp / b"data", four / TCP(flags="S", options=[("MSS", 1460), ("SAckOK", b"")]), four / UDP() / b"x"),
        *(IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x07\x04\0\0", flags="MF") / tcp / b"first fragment",),
        *(six / tcp, six / UDP(sport=53) / b"x", six / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / tcp / b"data"),
        six / IPv6ExtHdrFragment(m=1, id=5) / tcp / b"first fragment",
    ):
        yield bytes(packet)


def target(data: bytes) -> bool:
    segment = maybe_segment(data[:SEEN_BYTES])
    if segment is None:
        return False
    _agrees(segment)
    if answerable(segment):
        for answer in (*answers(segment), *(questions(segment) if segment.flags & ACK else ())):
            end = segment.source if answer.to == "source" else segment.destination
            packet = _parsed(answer.packet)
            assert _packed(packet.dst) == end.address.packed
            _whole(packet, answer.packet)
            if segment.protocol == "tcp":
                again = maybe_segment(answer.packet)
                assert again is not None
                assert (again.destination, again.sequence) == (end, answer.sequence)
    return True


def _parsed(ip: bytes) -> IP | IPv6:
    return IP(ip) if ip[0] >> 4 == 4 else IPv6(ip)


def _agrees(segment: Segment) -> None:
    try:
        packet = _parsed(segment.ip)
    except IndexError:
        return  # scapy, at a jumbogram that has no option of its length
    addresses = segment.source.address.packed, segment.destination.address.packed
    assert (_packed(packet.src), _packed(packet.dst)) == addresses
    layer = packet.getlayer(TCP if segment.protocol == "tcp" else UDP)
    if layer is None:
        return  # behind a header that scapy does not look behind
    assert (layer.sport, layer.dport) == (segment.source.port, segment.destination.port)
    if segment.protocol == "tcp":
        numbers = (segment.sequence, segment.acknowledgment, segment.flags, segment.window)
        assert (layer.seq, layer.ack, int(layer.flags) & 0xFF, layer.window) == numbers


def _whole(packet: IP | IPv6, sent: bytes) -> None:
    """Lengths and checksums are right: over what holds its own, scapy's sum is zero (RFC 1071)."""
    if isinstance(packet, IP):
        payload, protocol = sent[20:], packet.proto
        assert (packet.ihl, packet.len, checksum(sent[:20])) == (5, len(sent), 0)
    else:
        payload, protocol = sent[40:], packet.nh
        assert packet.plen == len(payload)
    pseudo = _packed(packet.src) + _packed(packet.dst) + struct.pack("!II", len(payload), protocol)
    assert checksum((b"" if protocol == _ICMP else pseudo) + payload) == 0


def _packed(address: str) -> bytes:
    return ip_address(address).packed
