"""What the kernel may show a worker: the one filter expression in front of a capture socket. Pure.

Invariant: whatever the user's filter says, neither the sensor's own upload nor (unless asked for) the credential
endpoints pass. Forwarding the own upload would amplify without bound: every batch sent would make the next one.

The user's expression stands last: its `vlan` or `mpls` keywords shift libpcap's decoding offsets for all that follows
in the expression (pcap-filter(7)), and what guards the host must not be shifted. It is compiled on its own before it
gets here, so that it cannot close our parenthesis (`port 80) or (tcp`).
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address
from typing import Final, NamedTuple

# Where AWS hands out role credentials in clear: ECS tasks, EKS pods, the instance's own; IPv4 and IPv6.
CREDENTIAL_ENDPOINTS: Final = ("169.254.170.2", "169.254.170.23", "169.254.169.254", "fd00:ec2::254", "fd00:ec2::23")

# Addresses of a vSensor that are excluded at once: the one in use and the ones tried before it. 64 host tests and
# their jumps stay far below the kernel's 4,096 instructions.
MAX_FLOWS: Final = 64


class Flow(NamedTuple):
    """The far end of the sensor's own upload."""

    address: str
    port: int


def checked_flow(address: str, port: int) -> Flow:
    """A flow in canonical spelling. ValueError for anything that is no address and port.

    Flows come from another process, and go into an expression.
    """
    if not 0 < port < 65536:
        raise ValueError(f"port {port}")
    return Flow(str(ip_address(address.partition("%")[0])), port)


def effective(user: str, own: Iterable[Flow], *, credential_endpoints: bool) -> str:
    """The expression that libpcap compiles for every capture socket; empty when everything may pass."""
    terms = []
    by_port: dict[int, list[str]] = {}
    for flow in own:
        by_port.setdefault(flow.port, []).append(flow.address)
    for port, addresses in sorted(by_port.items()):
        hosts = " or ".join(f"host {a}" for a in sorted(addresses))
        terms.append(f"not (tcp port {port} and ({hosts}))")
    if not credential_endpoints:
        terms.append("not (" + " or ".join(f"host {a}" for a in CREDENTIAL_ENDPOINTS) + ")")
    if user.strip():
        terms.append(f"({user.strip()})")
    return " and ".join(terms)
