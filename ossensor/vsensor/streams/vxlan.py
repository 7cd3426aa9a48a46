"""VXLAN (RFC 7348): a captured Ethernet frame in a UDP datagram. Pure.

The kernel makes the outer headers. What is decided here: eight bytes in front, which of our ports a frame leaves by,
and which frames are our own datagrams, captured on their way, and would go round for ever.
"""

from __future__ import annotations

import ipaddress
import zlib
from typing import Final

PORT: Final = 4789  # RFC 7348 section 8: IANA's
VNI_MAX: Final = (1 << 24) - 1
HEADER_BYTES: Final = 8
# RFC 7348 section 5 wants a source port from a hash of the inner frame, so that routers and receive queues spread flows
# over paths. Each port is a socket here; receivers have no more queues than this.
LANES: Final = 16

_VLAN: Final = {b"\x81\x00", b"\x88\xa8"}
_IPV4, _IPV6 = b"\x08\x00", b"\x86\xdd"
_UDP: Final = 17
_FRAGMENT: Final = 44  # RFC 8200 section 4.5; Linux puts it first


def header(vni: int) -> bytes:
    """The VXLAN header: flag I alone, and the network identifier (RFC 7348 section 5)."""
    return b"\x08\0\0\0" + vni.to_bytes(3, "big") + b"\0"


def _network(frame: memoryview) -> int:
    """Where the network header begins, behind the Ethernet header and any VLAN tags; the type stands before it."""
    at = 14
    while bytes(frame[at - 2 : at]) in _VLAN and at + 4 <= len(frame):
        at += 4
    return at


def lane(frame: memoryview) -> int:
    """Which of LANES sockets a frame leaves by: both directions of a connection by the same, so their order is kept."""
    at = _network(frame)
    kind = frame[at - 2 : at]
    if kind == _IPV4 and len(frame) >= at + 20:
        one, other = frame[at + 12 : at + 16], frame[at + 16 : at + 20]
    elif kind == _IPV6 and len(frame) >= at + 40:
        one, other = frame[at + 8 : at + 24], frame[at + 24 : at + 40]
    else:
        one, other = frame[:6], frame[6:12]
    # Addresses alone: a fragment has no ports, and must not overtake the packet that it is a part of.
    return (zlib.crc32(one) ^ zlib.crc32(other)) % LANES


class Own:
    """Knows datagrams to this address and port, and fragments of such."""

    def __init__(self, address: str, port: int) -> None:
        self._address = ipaddress.ip_address(address.partition("%")[0]).packed
        self._port = port.to_bytes(2, "big")

    def __call__(self, frame: memoryview) -> bool:
        """True when the frame holds our own output, which a sensor on its way captured."""
        at = _network(frame)
        if len(self._address) == 4:
            return frame[at - 2 : at] == _IPV4 and len(frame) >= at + 28 and self._in_ipv4(frame[at:])
        return frame[at - 2 : at] == _IPV6 and len(frame) >= at + 48 and self._in_ipv6(frame[at:])

    def _in_ipv4(self, packet: memoryview) -> bool:
        if packet[16:20] != self._address or packet[9] != _UDP:
            return False
        later_fragment = bool(packet[6] & 0x1F or packet[7])
        ports = (packet[0] & 0x0F) * 4
        return later_fragment or packet[ports + 2 : ports + 4] == self._port

    def _in_ipv6(self, packet: memoryview) -> bool:
        if packet[24:40] != self._address:
            return False
        upper, ports = packet[6], 40
        if upper == _FRAGMENT:
            upper, ports = packet[40], 48
            if upper == _UDP and (packet[42] or packet[43] & 0xF8):  # not the first
                return True
        return upper == _UDP and packet[ports + 2 : ports + 4] == self._port
