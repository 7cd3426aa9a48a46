"""The packets that end a connection, read back by scapy, which shares no line with what built them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.all import raw
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, IPerror6, IPv6
from scapy.utils import checksum as scapy_checksum

from ossensor.antigena import packets
from ossensor.antigena.actions import End
from ossensor.antigena.checksums import checksum, folded
from ossensor.antigena.resets import Ahead, answerable, answers, questions
from ossensor.antigena.segments import Segment, maybe_segment

HOSTS = {4: ("10.0.0.1", "192.0.2.7"), 6: ("fd00::1", "2001:db8::7")}
LAYERS = {4: IP, 6: IPv6}


def seen(version: int, transport: Any, source: str = "", destination: str = "") -> Segment:
    a, b = HOSTS[version]
    packet = LAYERS[version](src=source or a, dst=destination or b) / transport
    found = maybe_segment(raw(packet))
    assert found is not None
    return found


def tcp(version: int, **fields: Any) -> Segment:
    payload = fields.pop("payload", b"")
    return seen(version, TCP(sport=50_000, dport=443, **fields) / payload)


def read(version: int, packet: bytes) -> Any:
    """The packet as scapy reads it, after scapy has built the same bytes from what it read, checksums anew."""
    parsed = LAYERS[version](packet)
    again = parsed.copy()
    for layer in (IP, TCP, UDP, ICMP, ICMPv6DestUnreach):
        if layer in again:
            again[layer].delfieldval("cksum" if layer is ICMPv6DestUnreach else "chksum")
    assert raw(again) == packet
    return parsed


@given(st.binary(max_size=200))
def test_the_checksum_is_scapys(data: bytes) -> None:
    # Of two zeros of ones' complement arithmetic, scapy gives either; a field that holds the other is as right.
    assert checksum(data) % 0xFFFF == scapy_checksum(data) % 0xFFFF


@given(st.binary(min_size=2, max_size=60).filter(any).map(lambda data: data + bytes(len(data) % 2)))
def test_data_with_its_checksum_sums_to_all_ones(data: bytes) -> None:
    assert folded(data + checksum(data).to_bytes(2)) == 0xFFFF


def test_the_checksum_of_rfc_1071s_own_example() -> None:
    assert folded(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    "fields,to_source,to_destination",
    [
        pytest.param({"flags": "S", "seq": 99}, (0, 100, "RA"), (100, 0, "R"), id="SYN"),
        pytest.param({"flags": "S", "seq": 99, "payload": b"ab"}, (0, 102, "RA"), (102, 0, "R"), id="SYN with data"),
        pytest.param({"flags": "SA", "seq": 99, "ack": 7}, (7, 0, "R"), (100, 7, "RA"), id="SYN and ACK"),
        pytest.param({"flags": "A", "seq": 99, "ack": 7}, (7, 0, "R"), (99, 7, "RA"), id="ACK"),
        pytest.param({"flags": "PA", "seq": 99, "ack": 7, "payload": b"abc"}, (7, 0, "R"), (102, 7, "RA"), id="data"),
        pytest.param({"flags": "FA", "seq": 99, "ack": 7}, (7, 0, "R"), (100, 7, "RA"), id="FIN"),
        pytest.param(
            {"flags": "A", "seq": 2**32 - 1, "ack": 0, "payload": b"ab"}, (0, 0, "R"), (1, 0, "RA"), id="wrap"
        ),
        pytest.param({"flags": "", "seq": 99}, (0, 99, "RA"), (99, 0, "R"), id="no flag"),
        pytest.param({"flags": "F", "seq": 99}, (0, 100, "RA"), (100, 0, "R"), id="FIN alone"),
    ],
)
def test_the_sequence_numbers_are_those_of_rfc_9293(
    version: int, fields: dict[str, Any], to_source: tuple[Any, ...], to_destination: tuple[Any, ...]
) -> None:
    first, second = answers(tcp(version, **fields))
    back, forth = read(version, first.packet), read(version, second.packet)
    here, there = HOSTS[version]

    assert (first.to, second.to) == ("source", "destination")
    assert (back.src, back.dst, back[TCP].sport, back[TCP].dport) == (there, here, 443, 50_000)
    assert (forth.src, forth.dst, forth[TCP].sport, forth[TCP].dport) == (here, there, 50_000, 443)
    assert (back[TCP].seq, back[TCP].ack, str(back[TCP].flags)) == to_source
    assert (forth[TCP].seq, forth[TCP].ack, str(forth[TCP].flags)) == to_destination
    assert (first.sequence, second.sequence) == (to_source[0], to_destination[0])
    assert len(first.packet) == len(second.packet) == {4: 40, 6: 60}[version]


@pytest.mark.parametrize("version", [4, 6])
def test_a_question_lies_just_before_what_each_end_expects(version: int) -> None:
    to_source, to_destination = questions(tcp(version, flags="PA", seq=0, ack=0, payload=b"abc"))
    back, forth = read(version, to_source.packet), read(version, to_destination.packet)
    here, there = HOSTS[version]

    assert (back.src, back.dst, back[TCP].seq, back[TCP].ack, str(back[TCP].flags)) == (there, here, 2**32 - 1, 3, "A")
    assert (forth.src, forth.dst, forth[TCP].seq, forth[TCP].ack, str(forth[TCP].flags)) == (here, there, 2, 0, "A")
    assert back[TCP].window == forth[TCP].window == packets.OUR_WINDOW


def test_a_segment_that_does_not_tell_its_length_is_answered_as_if_it_had_none() -> None:
    found = maybe_segment(raw(IP(src="10.0.0.1", dst="192.0.2.7", flags="MF") / TCP(seq=99, ack=7, flags="A") / b"x"))
    assert found is not None

    assert [one.sequence for one in answers(found)] == [7, 99]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("size", [0, 1, 500, 5000])
def test_a_datagram_is_answered_with_port_unreachable_at_both_ends(version: int, size: int) -> None:
    datagram = seen(version, UDP(sport=50_000, dport=53) / (b"q" * size))
    here, there = HOSTS[version]
    error, quoted_ip = {4: (ICMP, IPerror), 6: (ICMPv6DestUnreach, IPerror6)}[version]

    to_source, to_destination = answers(datagram)
    told = [read(version, one.packet) for one in (to_source, to_destination)]

    assert [(one.src, one.dst) for one in told] == [(there, here), (here, there)]
    assert [(one[error].type, one[error].code) for one in told] == [{4: (3, 3), 6: (1, 4)}[version]] * 2
    assert [(one[quoted_ip].src, one[quoted_ip].dst) for one in told] == [(here, there), (there, here)]
    assert [(one[UDPerror].sport, one[UDPerror].dport) for one in told] == [(50_000, 53), (53, 50_000)]
    limit, headers = {4: (576, 28), 6: (1280, 48)}[version]
    assert len(to_source.packet) == min(limit, headers + len(datagram.ip))
    assert to_source.packet.endswith(datagram.ip[: limit - headers])


def test_packets_of_ours_may_not_be_fragmented_and_need_no_identification() -> None:
    sent = [read(4, one.packet) for talk in (tcp(4, flags="A"), seen(4, UDP())) for one in answers(talk)]

    assert [(str(one.flags), one.id, one.ttl, one.tos) for one in sent] == [("DF", 0, 64, 0)] * 4
    assert [read(6, one.packet).hlim for one in answers(tcp(6, flags="A"))] == [64, 64]


def test_what_a_datagram_quotes_back_is_a_whole_datagram() -> None:
    for version, (here, there) in HOSTS.items():
        packet = packets.udp(End(ip_address(there), 53), End(ip_address(here), 50_000))
        assert read(version, packet)[UDP].len == 8


@pytest.mark.parametrize("flags", ["R", "RA", "RS"])
def test_a_reset_is_never_answered(flags: str) -> None:
    assert not answerable(tcp(4, flags=flags))


@pytest.mark.parametrize(
    "version,source,destination",
    [
        (4, "", "224.0.0.251"),
        (4, "", "255.255.255.255"),
        (4, "0.0.0.0", ""),
        (4, "0.0.0.7", ""),
        (4, "240.0.0.1", ""),
        (4, "239.255.255.250", ""),
        (6, "", "ff02::fb"),
        (6, "::", ""),
        (6, "ff02::1", ""),
    ],
)
def test_where_no_single_host_is_there_is_no_answer(version: int, source: str, destination: str) -> None:
    assert not answerable(seen(version, UDP(), source, destination))
    assert not answerable(seen(version, TCP(flags="S"), source, destination))


def test_single_hosts_are_answered() -> None:
    assert all(answerable(seen(version, transport)) for version in (4, 6) for transport in (UDP(), TCP(flags="S")))
    assert answerable(seen(4, UDP(), "127.0.0.1", "127.0.0.1"))
    assert answerable(seen(6, UDP(), "::1", "::1"))


@pytest.mark.parametrize("version", [4, 6])
def test_ahead_of_a_segment_each_end_gets_one_reset_for_each_step(version: int) -> None:
    for sequence, acknowledgment in ((2**32 - 2, 100), (7, 2**32 - 11)):
        found = tcp(version, flags="PA", seq=sequence, ack=acknowledgment)
        sent = answers(found, Ahead(steps=2, to_source=10, to_destination=3))

        assert [(one.to, one.sequence) for one in sent] == [
            ("source", acknowledgment),
            ("destination", sequence),
            ("source", (acknowledgment + 10) % 2**32),
            ("destination", (sequence + 3) % 2**32),
            ("source", (acknowledgment + 20) % 2**32),
            ("destination", (sequence + 6) % 2**32),
        ]
        assert [read(version, one.packet)[TCP].seq for one in sent] == [one.sequence for one in sent]
