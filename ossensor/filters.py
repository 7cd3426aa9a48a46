"""What the kernel may show a worker: the one filter expression in front of a capture socket. Pure.

Invariant: whatever the user's filter says, neither the sensor's own upload nor (unless asked for) the credential
endpoints pass. Forwarding the own upload would amplify without bound: every batch sent would make the next one.

Each guard asks for the packet's length first. A BPF program that loads past a packet's end ends by refusing the packet
(net/core/filter.c; RFC 9669 calls it an abort), so an unguarded look at addresses would lose short and malformed
frames, which are the ones that an analyst wants most.

The vSensor's expression comes after the guards, and only narrows. The user's stands last: its `vlan` or `mpls` keywords
shift libpcap's decoding offsets for all that follows in the expression (pcap-filter(7)), and what guards the host must
not be shifted. Each is compiled on its own before it gets here, so that it cannot close our parenthesis (`port 80) or
(tcp`); and the vSensor's must have none of those keywords where the user's follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple

# Where AWS hands out role credentials in clear: ECS tasks, EKS pods, the instance's own; IPv4 and IPv6.
CREDENTIAL_ENDPOINTS: Final = ("169.254.170.2", "169.254.170.23", "169.254.169.254", "fd00:ec2::254", "fd00:ec2::23")

# Ethernet and the IP header up to its addresses' end. Link layers with a shorter header let a few bytes more through.
_LEAST_IPV4_BYTES: Final = 14 + 20
_LEAST_IPV6_BYTES: Final = 14 + 40

_HOP_BY_HOP, _TCP = 0, 6

# pcap-filter(7): each of them moves the offsets of all that stands behind it.
_SHIFTING: Final = re.compile(r"\b(vlan|mpls|pppoed|pppoes|geneve|vxlan)\b")

# Addresses of a vSensor that are excluded at once: the one in use and the ones tried before it. 64 host tests and
# their jumps stay far below the kernel's 4,096 instructions, unless each has a port of its own.
MAX_FLOWS: Final = 64


class Flow(NamedTuple):
    """The far end of the sensor's own upload."""

    address: str
    port: int


def checked_flow(address: str, port: int) -> Flow:
    """A flow in canonical spelling. ValueError for anything that is no address and port.

    Flows come from another process, and go into an expression.
    """
    if type(port) is not int or not 0 < port < 65536:
        raise ValueError(f"port {port}")
    parsed = ip_address(address.partition("%")[0])
    # ::ffff:10.0.0.1 is a way to write an IPv4 address to an IPv6 socket; on the wire it is IPv4.
    return Flow(str(getattr(parsed, "ipv4_mapped", None) or parsed), port)


def shifts(expression: str) -> bool:
    """True for an expression that changes what the next one means: see the module."""
    return _SHIFTING.search(expression) is not None


def described(user: str, vsensor: str) -> str:
    """What both ask for, as one expression: what a section names as its filter."""
    given = [text.strip() for text in (vsensor, user) if text.strip()]
    return given[0] if len(given) == 1 else " and ".join(f"({text})" for text in given)


def effective(
    user: str, own: Iterable[Flow], *, credential_endpoints: bool, ethernet: bool = True, vsensor: str = ""
) -> str:
    """The expression that libpcap compiles for a capture socket; empty when everything may pass."""
    terms = []
    by_port: dict[int, list[str]] = {}
    for flow in own:
        by_port.setdefault(flow.port, []).append(flow.address)
    for port, addresses in sorted(by_port.items()):
        # Addresses before ports: the port's place in the packet is computed from what a malformed packet claims.
        super_frame = _super_frame("ip6", 40, port, 14 + 40 + 8 + 4)
        terms += _unless(addresses, f" and tcp port {port}", f" and (tcp port {port} or {super_frame})")
        if ethernet:
            terms += _unless_tagged(addresses, port)
    if not credential_endpoints:
        terms += _unless(CREDENTIAL_ENDPOINTS)
        if ethernet:
            terms += _unless_tagged(CREDENTIAL_ENDPOINTS)
    terms += [f"({text.strip()})" for text in (vsensor, user) if text.strip()]
    return " and ".join(terms)


def _unless(addresses: Iterable[str], over_ipv4: str = "", over_ipv6: str = "") -> list[str]:
    """Terms that refuse packets from or to the addresses, and that packets too short to tell pass."""
    terms = []
    for protocol, least_bytes, version, further in (
        ("ip", _LEAST_IPV4_BYTES, 4, over_ipv4),
        ("ip6", _LEAST_IPV6_BYTES, 6, over_ipv6),
    ):
        hosts = [f"{protocol} host {a}" for a in sorted(addresses) if ip_address(a).version == version]
        if hosts:
            terms.append(f"not (greater {least_bytes} and ({' or '.join(hosts)}){further})")
    return terms


def _super_frame(base: str, at: int, port: int, least_bytes: int) -> str:
    """True for TCP of the port behind the hop-by-hop header that lies at this offset.

    BIG TCP: a super-frame of IPv6 that is longer than its length field can say has that header, of eight bytes, for the
    jumbo option (RFC 2675), and Linux shows it so to a capture (ip6_xmit, ipv6_gro_complete). `tcp` does not look
    behind it.
    """
    next_at, header, ports_at = at - 34, f"{base}[{at}:2] = {_TCP << 8:#x}", at + 8
    ports = f"({base}[{ports_at}:2] = {port} or {base}[{ports_at} + 2:2] = {port})"
    return f"(greater {least_bytes} and {base}[{next_at}] = {_HOP_BY_HOP} and {header} and {ports})"


def _unless_tagged(addresses: Iterable[str], port: int | None = None) -> list[str]:
    """The same behind one VLAN tag that lies in the frame; with a port, for TCP of that.

    Linux keeps the tag beside the packet, out of these offsets' way, except on the parent of a VLAN device whose driver
    cannot insert it: there the kernel writes it into what we send before the capture sees it (validate_xmit_vlan, then
    dev_queue_xmit_nit). Offsets instead of the word `vlan`, which would shift the decoding of all that follows.
    """
    tagged = "(ether[12:2] = 0x8100 or ether[12:2] = 0x88a8)"
    terms = []
    for version, kind, protocol_at, source_at, ports_at, least_bytes in (
        (4, 0x0800, 27, 30, "(ether[18] & 0xf) * 4 + 18", 38),
        (6, 0x86DD, 24, 26, "58", 58),
    ):
        further = ""
        if port is not None:
            ports = f"(ether[{ports_at}:2] = {port} or ether[{ports_at} + 2:2] = {port})"
            otherwise = f" or {_super_frame('ether', 58, port, 70)}" if version == 6 else ""
            further = f" and (ether[{protocol_at}] = {_TCP} and {ports}{otherwise})"
            least_bytes += 4  # noqa: PLW2901  the ports
        hosts = [ip_address(a).packed for a in sorted(addresses) if ip_address(a).version == version]
        if hosts:
            ends = " or ".join(_words(h, source_at) + " or " + _words(h, source_at + len(h)) for h in hosts)
            terms.append(f"not (greater {least_bytes} and {tagged} and ether[16:2] = {kind:#x} and ({ends}){further})")
    return terms


def _words(address: bytes, at: int) -> str:
    """True where these bytes lie at the offset; libpcap compares four at a time."""
    pieces = (f"ether[{at + i}:4] = {int.from_bytes(address[i : i + 4], 'big'):#x}" for i in range(0, len(address), 4))
    return "(" + " and ".join(pieces) + ")"
