"""Packets become segments or nothing. Scapy builds what is parsed; hostile bytes never raise."""

from __future__ import annotations

import random
import time
from collections import Counter
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.all import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.layers.ipsec import AH
from scapy.layers.l2 import ARP, Dot1Q

from ossensor.antigena.actions import End
from ossensor.antigena.checksums import folded
from ossensor.antigena.segments import ACK, FIN, SYN, Segment, maybe_segment

V4, V6 = IP(src="10.0.0.1", dst="192.0.2.7"), IPv6(src="fd00::1", dst="2001:db8::7")
DATA = TCP(sport=50_000, dport=443, seq=1000, ack=7000, flags="PA") / (b"x" * 100)
ENDS = {
    4: (End(ip_address("10.0.0.1"), 50_000), End(ip_address("192.0.2.7"), 443)),
    6: (End(ip_address("fd00::1"), 50_000), End(ip_address("2001:db8::7"), 443)),
}


def segment(packet: Any) -> Segment | None:
    return maybe_segment(raw(packet))


def told(found: Segment | None) -> tuple[Any, ...] | None:
    """What it says of its connection, without the bytes."""
    return found and (
        found.protocol,
        found.source,
        found.destination,
        found.sequence,
        found.acknowledgment,
        found.length,
    )


TCP_DATA = {version: ("tcp", *ends, 1000, 7000, 100) for version, ends in ENDS.items()}


@pytest.mark.parametrize(
    "packet,version",
    [
        pytest.param(V4 / DATA, 4, id="IPv4"),
        pytest.param(V6 / DATA, 6, id="IPv6"),
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7", options=[IPOption_NOP()] * 40) / DATA, 4, id="options"),
        pytest.param(V6 / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0" * 12)]) / DATA, 6, id="hop by hop"),
        pytest.param(V6 / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting() / DATA, 6, id="destination, routing"),
        pytest.param(raw(V4 / DATA) + bytes(6), 4, id="padding of the link"),
        pytest.param(raw(V4 / DATA)[: 20 + 20], 4, id="cut behind TCP's header"),
        pytest.param(raw(V6 / DATA)[: 40 + 20], 6, id="IPv6 cut behind TCP's header"),
    ],
)
def test_a_segment_is_found_behind_every_header(packet: Any, version: int) -> None:
    assert told(segment(packet)) == TCP_DATA[version]


def test_an_authentication_header_is_passed_in_words_of_four_bytes() -> None:
    ah = AH(nh=6, payloadlen=4, icv=b"\0" * 12)

    assert told(segment(V6 / ah / raw(DATA)))[:3] == ("tcp", *ENDS[6])  # type: ignore[index]


def test_the_packet_is_kept_for_an_error_to_quote() -> None:
    found = segment(V4 / DATA)

    assert found is not None
    assert found.ip == raw(V4 / DATA)


@pytest.mark.parametrize(
    "flags,payload,length",
    [
        ("S", b"", 1),
        ("SA", b"", 1),
        ("A", b"", 0),
        ("FA", b"", 1),
        ("FPA", b"abc", 4),
        ("S", b"abc", 4),
        ("PA", b"a", 1),
    ],
)
@pytest.mark.parametrize("under", [V4, V6])
def test_the_length_counts_payload_syn_and_fin(under: Any, flags: str, payload: bytes, length: int) -> None:
    found = segment(under / TCP(seq=2**32 - 1, flags=flags, options=[("MSS", 1460), ("NOP", None)]) / payload)
    assert found is not None

    assert found.length == length
    assert found.after == (length - 1) % 2**32


def test_flags_are_tcps_own() -> None:
    found = segment(V4 / TCP(flags="SFA"))

    assert found is not None
    assert found.flags == SYN | FIN | ACK


@pytest.mark.parametrize("under", [V4, V6])
def test_a_datagram_has_ports_and_no_sequence(under: Any) -> None:
    found = segment(under / UDP(sport=50_000, dport=443) / (b"x" * 9))

    assert told(found) == ("udp", *ENDS[under.version], 0, 0, 0)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7", flags="MF") / DATA, id="IPv4"),
        pytest.param(V6 / IPv6ExtHdrFragment(m=1, nh=6) / raw(DATA), id="IPv6"),
    ],
)
def test_a_first_fragment_has_ports_and_does_not_tell_its_length(packet: Any) -> None:
    found = segment(packet)

    assert found is not None
    assert (found.source.port, found.destination.port, found.sequence, found.length) == (50_000, 443, 1000, None)
    assert found.after == 1000


def test_a_super_frame_whose_length_field_is_zero_does_not_tell_its_length() -> None:
    big4 = segment(IP(src="10.0.0.1", dst="192.0.2.7", len=0) / DATA)
    big6 = segment(IPv6(src="fd00::1", dst="2001:db8::7", plen=0) / DATA)

    assert told(big4) == (*TCP_DATA[4][:5], None)
    assert told(big6) == (*TCP_DATA[6][:5], None)


def bad_sum() -> bytes:
    data = bytearray(raw(V4 / DATA))
    data[12] ^= 1  # another source address under the same checksum
    return bytes(data)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(ARP(), id="ARP"),
        pytest.param(V4 / ICMP(), id="ICMP"),
        pytest.param(IP(frag=1) / DATA, id="later fragment"),
        pytest.param(V6 / IPv6ExtHdrFragment(offset=1, nh=6) / raw(DATA), id="later IPv6 fragment"),
        pytest.param(IP(version=5) / DATA, id="another version"),
        pytest.param(Dot1Q() / V4 / DATA, id="a tag that the kernel left in its place"),
        pytest.param(bad_sum(), id="header checksum"),
        pytest.param(IP(ihl=4) / DATA, id="header too short"),
        pytest.param(raw(IP(ihl=15) / b"")[:26], id="header longer than the packet"),
        pytest.param(IP(len=19) / DATA, id="total below header"),
        pytest.param(IP(len=39) / DATA, id="total below TCP's header"),
        pytest.param(V4 / TCP(dataofs=4), id="data offset too small"),
        pytest.param(V4 / TCP(dataofs=15), id="data offset beyond the packet"),
        pytest.param(raw(V4 / DATA)[: 20 + 19], id="cut in TCP's header"),
        pytest.param(raw(V4 / UDP())[: 20 + 7], id="cut in UDP's header"),
        pytest.param(raw(V6 / DATA)[:39], id="cut in IPv6's header"),
        pytest.param(V6 / IPv6ExtHdrHopByHop(len=200) / DATA, id="extension beyond the packet"),
        pytest.param(IPv6(nh=59) / (b"x" * 40), id="no next header"),
        pytest.param(IPv6(nh=50) / (b"x" * 40), id="ESP"),
        pytest.param(IPv6(nh=60) / (b"\x3c" + bytes(7)) / raw(DATA), id="cut short by a wrong next header"),
        pytest.param(IPv6(nh=60) / (b"\x3c\0" * 40), id="extensions without end"),
    ],
)
def test_what_is_no_whole_segment_is_nothing(packet: Any) -> None:
    assert segment(packet) is None


# -- hostile bytes ----------------------------------------------------------------------------------------------------

SEEDS = tuple(
    raw(under / over)
    for under in (
        V4,
        IP(src="10.0.0.1", dst="192.0.2.7", options=[IPOption_NOP()] * 8),
        V6,
        V6 / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(),
        V6 / IPv6ExtHdrFragment(m=1),
    )
    for over in (DATA, UDP() / b"xy", TCP(flags="S"))
)


def mutated(rng: random.Random, data: bytearray) -> bytes:
    for _ in range(rng.randrange(1, 4)):
        data[int(rng.random() * len(data))] = int(rng.random() * 256)
    if rng.random() < 0.2:
        del data[int(rng.random() * len(data)) :]
    elif rng.random() < 0.5 and len(data) > 20 and data[0] >> 4 == 4:
        # As an attacker would: with the checksum put right, what lies behind it is reached.
        data[10:12] = bytes(2)
        data[10:12] = (0xFFFF - folded(bytes(data[: (data[0] & 15) * 4]))).to_bytes(2)
    return bytes(data)


@pytest.mark.slow
def test_a_million_hostile_headers_raise_nothing_and_what_is_found_lies_in_the_bytes() -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    rng = random.Random(seed)
    found: Counter[str] = Counter()
    for n in range(1_000_000):
        data = mutated(rng, bytearray(SEEDS[n % len(SEEDS)])) if n % 4 else rng.randbytes(n % 120)
        one = maybe_segment(data)
        found["nothing" if one is None else one.protocol] += 1
        if one is not None:
            assert one.ip == data
            assert one.source.address.packed + one.destination.address.packed in one.ip
            assert one.source.port.to_bytes(2) + one.destination.port.to_bytes(2) in one.ip
            assert one.length is None or 0 <= one.length <= 65_537
    print(dict(found))

    assert min(found["tcp"], found["udp"], found["nothing"]) > 50_000
