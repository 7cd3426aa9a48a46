"""What no order reaches, and what only an order reaches that names it."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from scapy.all import raw
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from ossensor.antigena.actions import Action, parse_action
from ossensor.antigena.guards import Guards, name_servers
from ossensor.antigena.refusals import Refusal
from ossensor.antigena.segments import Segment, maybe_segment
from ossensor.filters import CREDENTIAL_ENDPOINTS, Flow

GUARDS = Guards(
    own=frozenset({Flow("192.0.2.9", 443), Flow("2001:db8::9", 443)}),
    protected=(ip_network("172.16.0.0/12"), ip_network("fd77::/16")),
    name_servers=frozenset({ip_address("10.0.0.2"), ip_address("fd00::2")}),
)


def block(network: str, port: int | None = None, **members: Any) -> Action:
    given = {
        "id": "a",
        "kind": "block",
        "start_s": 0,
        "expires_s": 60,
        "destination": {"network": network, "port": port},
    }
    return parse_action(given | members)


def seen(there: str, port: int, transport: Any = TCP) -> Segment:
    layer, here = (IPv6, "fd00::1") if ":" in there else (IP, "10.0.0.1")
    found = maybe_segment(raw(layer(src=here, dst=there) / transport(sport=50_000, dport=port)))
    assert found is not None
    return found


WIDE = {4: block("0.0.0.0/1"), 6: block("2000::/3")}
QUARANTINE = {
    4: block("10.0.0.1", kind="quarantine", source={"network": "10.0.0.1"}, destination=None),
    6: block("fd00::1", kind="quarantine", source={"network": "fd00::1"}, destination=None),
}


@pytest.mark.parametrize(
    "action,refusal",
    [
        (block("192.0.2.9", 443), Refusal.OWN_FLOW),
        (block("192.0.2.9"), Refusal.OWN_FLOW),
        (block("2001:db8::9"), Refusal.OWN_FLOW),
        (block("192.0.2.9", kind="quarantine", source={"network": "192.0.2.9"}, destination=None), Refusal.OWN_FLOW),
        (block("192.0.2.9", 80), None),
        (block("192.0.2.8", 443), None),
        (block("192.0.2.0/24"), None),
        (block("172.16.0.1"), Refusal.PROTECTED),
        (block("172.16.0.0/12"), Refusal.PROTECTED),
        (block("172.20.0.0/16", 22), Refusal.PROTECTED),
        (block("172.0.0.0/8"), None),
        (block("172.32.0.1"), None),
        (block("fd77:1::/32"), Refusal.PROTECTED),
        (block("fd78::1"), None),
        (block("198.51.100.1", source={"network": "172.16.0.1"}), Refusal.PROTECTED),
    ],
)
def test_an_order_that_names_what_is_guarded_absolutely_is_refused_as_a_whole(
    action: Action, refusal: Refusal | None
) -> None:
    assert GUARDS.objection(action) is refusal


@pytest.mark.parametrize(
    "action,overlap",
    [
        (block("192.0.2.0/24"), {Refusal.OWN_FLOW}),
        (block("192.0.2.0/24", 443), {Refusal.OWN_FLOW}),
        (block("192.0.2.0/24", 80), set()),
        (block("192.0.2.0/24", protocol="udp"), set()),
        (block("172.0.0.0/8"), {Refusal.PROTECTED}),
        (block("128.0.0.0/1"), {Refusal.PROTECTED, Refusal.OWN_FLOW}),
        (block("198.51.100.0/24"), set()),
        (block("f000::/4"), {Refusal.PROTECTED}),
    ],
)
def test_an_order_that_is_wider_says_what_it_will_spare(action: Action, overlap: set[Refusal]) -> None:
    assert GUARDS.objection(action) is None
    assert GUARDS.overlaps(action) == overlap


@pytest.mark.parametrize("actions", [WIDE, QUARANTINE])
@pytest.mark.parametrize(
    "there,port,transport,refusal",
    [
        ("192.0.2.9", 443, TCP, Refusal.OWN_FLOW),
        ("2001:db8::9", 443, TCP, Refusal.OWN_FLOW),
        ("192.0.2.9", 444, TCP, None),
        ("192.0.2.9", 443, UDP, None),
        ("172.31.255.255", 80, TCP, Refusal.PROTECTED),
        ("172.32.0.0", 80, TCP, None),
        ("fd77::1", 80, UDP, Refusal.PROTECTED),
        *[(address, 80, TCP, Refusal.CREDENTIAL_ENDPOINT) for address in CREDENTIAL_ENDPOINTS],
        ("169.254.170.3", 80, TCP, None),
        ("10.0.0.2", 53, UDP, Refusal.NAME_SERVER),
        ("10.0.0.2", 53, TCP, Refusal.NAME_SERVER),
        ("10.0.0.2", 853, TCP, Refusal.NAME_SERVER),
        ("10.0.0.2", 80, TCP, None),
        ("10.0.0.3", 53, UDP, None),
        ("fd00::2", 53, UDP, Refusal.NAME_SERVER),
    ],
)
def test_an_order_about_something_wider_spares_what_is_guarded(
    actions: dict[int, Action], there: str, port: int, transport: Any, refusal: Refusal | None
) -> None:
    segment = seen(there, port, transport)

    assert GUARDS.spares(actions[segment.source.address.version], segment) is refusal


@pytest.mark.parametrize(
    "there,port",
    [*[(address, 80) for address in CREDENTIAL_ENDPOINTS], ("10.0.0.2", 53), ("fd00::2", 853)],
)
def test_an_order_that_names_exactly_one_of_them_reaches_it(there: str, port: int) -> None:
    around = str(ip_network(there).supernet())

    assert GUARDS.spares(block(there), seen(there, port)) is None
    assert GUARDS.spares(block(around), seen(there, port)) in {Refusal.CREDENTIAL_ENDPOINT, Refusal.NAME_SERVER}
    named = block(there, kind="quarantine", source={"network": there}, destination=None)
    assert GUARDS.spares(named, seen(there, port)) is None


def test_without_guards_nothing_but_the_credential_endpoints_is_spared() -> None:
    assert Guards().objection(block("192.0.2.9")) is None
    assert Guards().overlaps(WIDE[4]) == frozenset()
    assert Guards().spares(WIDE[4], seen("192.0.2.9", 443)) is None
    assert Guards().spares(WIDE[4], seen("169.254.170.2", 80)) is Refusal.CREDENTIAL_ENDPOINT


def test_name_servers_are_read_as_the_resolver_reads_them() -> None:
    text = """# comment
nameserver 10.0.0.2
nameserver\tfd00::2  # trailing
 nameserver 127.0.0.53
nameserver fe80::1%eth0
nameserver
nameserver example.com
; nameserver 10.0.0.9
options ndots:5
search nameserver 10.0.0.8
"""
    assert name_servers(text) == {ip_address(a) for a in ("10.0.0.2", "fd00::2", "127.0.0.53", "fe80::1")}
    assert name_servers("") == frozenset()
