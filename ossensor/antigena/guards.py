"""What no order reaches, and what only an order reaches that names it. Pure.

Invariant: whoever holds the key and errs cannot make the sensor cut its own line, nor anything in a protected network;
and cannot, by an order about something wider, cut the task off from its credentials and its name servers, without which
the application is down and not only one of its connections.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

from ossensor.filters import CREDENTIAL_ENDPOINTS, Flow

from .actions import Action, Address, End, Network, Side
from .refusals import Refusal
from .segments import Segment

# DNS, and DNS over TLS (RFC 7858). Whatever else a name server does is not the task's.
_DNS_PORTS: Final = frozenset({53, 853})
_CREDENTIALS: Final = frozenset(map(ip_address, CREDENTIAL_ENDPOINTS))


def name_servers(resolv_conf: str) -> frozenset[Address]:
    """The name servers of a resolv.conf(5). Lines that name none are passed over, as the resolver does."""
    found = set()
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            try:
                found.add(ip_address(words[1].partition("%")[0]))
            except ValueError:
                continue
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class Guards:
    """The guards of one sensor at this moment. `own` are the far ends of its upload, whichever is in use."""

    own: frozenset[Flow] = frozenset()
    protected: tuple[Network, ...] = ()
    name_servers: frozenset[Address] = frozenset()
    _own_ends: frozenset[End] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        ends = frozenset(End(ip_address(flow.address), flow.port) for flow in self.own)
        object.__setattr__(self, "_own_ends", ends)

    def objection(self, action: Action) -> Refusal | None:
        """Why an order is refused as a whole: one that names what is guarded absolutely."""
        for side in (action.source, action.destination):
            if any(_lies_in(side, network) for network in self.protected):
                return Refusal.PROTECTED
            if any(_names(side, end.address) and side.port in {None, end.port} for end in self._own_ends):
                return Refusal.OWN_FLOW
        return None

    def overlaps(self, action: Action) -> frozenset[Refusal]:
        """What an order that is taken will not be enforced against, if that is guarded absolutely.

        The kernel filter leaves such packets out (filters.py), so nobody counts them: this says it once, beforehand.
        """
        found = set()
        for side in (action.source, action.destination):
            if any(_meet(side.network, network) for network in self.protected):
                found.add(Refusal.PROTECTED)
            if action.protocol != "udp" and any(side.network is not None and side.holds(end) for end in self._own_ends):
                found.add(Refusal.OWN_FLOW)
        return frozenset(found)

    def spares(self, action: Action, segment: Segment) -> Refusal | None:
        """Why this order does not end this connection; None when it does."""
        ends = (segment.source, segment.destination)
        if segment.protocol == "tcp" and not self._own_ends.isdisjoint(ends):
            return Refusal.OWN_FLOW
        for end in ends:
            if any(end.address in network for network in self.protected):
                return Refusal.PROTECTED
            if end.address in _CREDENTIALS and not _named(action, end.address):
                return Refusal.CREDENTIAL_ENDPOINT
            if end.port in _DNS_PORTS and end.address in self.name_servers and not _named(action, end.address):
                return Refusal.NAME_SERVER
        return None


def _names(side: Side, address: Address) -> bool:
    """Exactly: the address alone, and no network around it."""
    network = side.network
    return network is not None and network.num_addresses == 1 and network.network_address == address


def _named(action: Action, address: Address) -> bool:
    return _names(action.source, address) or _names(action.destination, address)


def _lies_in(side: Side, network: Network) -> bool:
    return side.network is not None and _meet(side.network, network) and side.network.prefixlen >= network.prefixlen


def _meet(one: Network | None, other: Network) -> bool:
    return one is not None and one.version == other.version and one.overlaps(other)
