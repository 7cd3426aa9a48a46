"""Packets one after the other, past orders that hold (antigena/enforcer.py, watch.py, openers.py, guards.py).

Each packet has its length in two bytes before it, and how many seconds after the last it came in a third. Declared:
none. Second oracle: what would go out is only ever for a connection between an end that was ordered and one that is not
guarded; and what is counted as sent is what went out.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

from ossensor.antigena.actions import parse_action
from ossensor.antigena.enforcer import Enforcer, Outgoing
from ossensor.antigena.guards import Guards
from ossensor.antigena.table import Table
from ossensor.filters import Flow

from . import segment

_ORDERED = [ip_network(text) for text in ("10.0.0.0/24", "2001:db8::/64", "203.0.113.7/32")]
_PROTECTED = [ip_network(text) for text in ("192.0.2.128/25", "2001:db8:1::/48")]
_OWN = Flow("192.0.2.1", 8443)
_NAME_SERVER = ip_address("192.0.2.53")
_NOW_S = 1000.0
_TCP = 6
_ALWAYS = {"start_s": 0, "expires_s": 100_000}
_ACTIONS = [
    parse_action({"id": "a", "kind": "block", "source": {"network": "10.0.0.0/24"}, **_ALWAYS}),
    parse_action({"id": "b", "kind": "block", "destination": {"network": "2001:db8::/64"}, **_ALWAYS}),
    parse_action(
        {"id": "c", "kind": "quarantine", "source": {"network": "203.0.113.7"}, "direction": "outgoing", **_ALWAYS}
    ),
]


def seeds() -> Iterator[bytes]:
    packets = list(segment.seeds())
    yield b"".join(len(packet).to_bytes(2) + b"\1" + packet for packet in packets)
    for packet in packets:
        yield (len(packet).to_bytes(2) + b"\0" + packet) * 3 + b"\0\0\xff"


def target(data: bytes) -> bool:
    """True when something would have gone out."""
    guards = Guards(frozenset({_OWN}), tuple(_PROTECTED), frozenset({_NAME_SERVER}))
    table = Table(guards.objection)
    table.apply(1, _ACTIONS, _NOW_S)
    enforcer = Enforcer(table, guards)
    now_s, at, sent = _NOW_S, 0, 0
    while at + 3 <= len(data):
        length = int.from_bytes(data[at : at + 2])
        now_s += data[at + 2]
        packet = data[at + 3 : at + 3 + length]
        at += 3 + length
        outgoing = [*enforcer.process(packet[: segment.SEEN_BYTES], now_s), *enforcer.judge(now_s)]
        for one in outgoing:
            _allowed(one)
        sent += len(outgoing)
    counted = sum(tally.sent.total() + tally.asked.total() for tally in enforcer.report().values())
    assert counted == sent
    return sent > 0


def _allowed(outgoing: Outgoing) -> None:
    """Read at the places where headers without options have it; that they have none, segment.py asks scapy."""
    packet = outgoing.packet
    size, at, header, protocol = (4, 12, 20, packet[9]) if packet[0] == 0x45 else (16, 8, 40, packet[6])
    source, destination = (ip_address(packet[start : start + size]) for start in (at, at + size))
    assert destination == outgoing.to.address
    assert any(end in network for network in _ORDERED for end in (source, destination))
    assert not any(end in network for network in _PROTECTED for end in (source, destination))
    if protocol == _TCP:
        ports = (int.from_bytes(packet[start : start + 2]) for start in (header, header + 2))
        assert (_OWN.address, _OWN.port) not in zip((str(source), str(destination)), ports, strict=True)
