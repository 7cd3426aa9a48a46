"""The kernel filter, compiled by libpcap and shown crafted frames: what may pass and what may never."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pcap
import pytest

from ossensor.filters import CREDENTIAL_ENDPOINTS, MAX_FLOWS, Flow, checked_flow, described, effective, shifts

OWN = Flow("192.0.2.1", 8443)
OWN6 = Flow("2001:db8::1", 8443)
HERE, HERE6 = "10.0.0.5", "2001:db8:ffff::5"
TCP, UDP = 6, 17


def frame(
    source: str, sport: int, target: str, dport: int, protocol: int = TCP, vlan: int | None = None, tag: int = 0x8100
) -> bytes:
    """An Ethernet frame, IPv4 or IPv6 as the addresses are, with a whole TCP or UDP header."""
    src, dst = ip_address(source), ip_address(target)
    ports = struct.pack("!HH", sport, dport)
    payload = ports + (struct.pack("!IIBBHHH", 1, 2, 5 << 4, 0x10, 1000, 0, 0) if protocol == TCP else bytes(4))
    if src.version == 4:
        kind = 0x0800
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + src.packed + dst.packed
    else:
        kind = 0x86DD
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + src.packed + dst.packed
    tagged = b"" if vlan is None else struct.pack("!HH", tag, vlan)
    return bytes(12) + tagged + struct.pack("!H", kind) + head + payload


def arp(target: str) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + bytes(6) + ip_address(HERE).packed + bytes(6)
    return bytes(12) + b"\x08\x06" + body + ip_address(target).packed


def passes(data: bytes, user: str = "", own: tuple[Flow, ...] = (OWN, OWN6), *, credentials: bool = False) -> bool:
    expression = effective(user, own, credential_endpoints=credentials)
    if not expression:
        return True
    return bool(pcap.bpf(expression.encode(), pcap.DLT_EN10MB).filter(data))


# `vlan` and `mpls` stand last: they shift the decoding of what follows them, within the user's own filter too.
USERS = ["", "tcp or udp", "tcp or vlan", "ip or ip6 or mpls", "not port 1", "  tcp  ", "greater 1"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(HERE, 50_000, OWN.address, 8443), id="out, IPv4"),
        pytest.param(frame(OWN.address, 8443, HERE, 50_000), id="back, IPv4"),
        pytest.param(frame(HERE6, 50_000, OWN6.address, 8443), id="out, IPv6"),
        pytest.param(frame(OWN6.address, 8443, HERE6, 50_000), id="back, IPv6"),
    ],
)
def test_the_own_upload_never_passes(data: bytes, user: str) -> None:
    assert not passes(data, user)
    assert passes(data, user, own=())  # so it is the guard, not the frame


def jumbo(source: str, sport: int, target: str, dport: int, protocol: int = TCP, vlan: int | None = None) -> bytes:
    """A super-frame of BIG TCP, cut behind the TCP header: the length is in the hop-by-hop header (RFC 2675)."""
    plain = frame(source, sport, target, dport, protocol, vlan)
    at = 14 if vlan is None else 18
    head = plain[: at + 4] + bytes(2) + b"\x00" + plain[at + 7 : at + 40]
    return head + struct.pack("!BBBBI", protocol, 0, 0xC2, 4, 262_144) + plain[at + 40 :]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("vlan", [None, 5])
@pytest.mark.parametrize("ends", [(HERE6, 50_000, OWN6.address, 8443), (OWN6.address, 8443, HERE6, 50_000)])
def test_the_own_upload_in_super_frames_of_big_tcp_does_not_pass(
    ends: tuple[str, int, str, int], vlan: int | None, user: str
) -> None:
    assert not passes(jumbo(*ends, vlan=vlan), user)
    assert passes(jumbo(*ends, vlan=vlan), own=())


@pytest.mark.parametrize("vlan", [None, 5])
@pytest.mark.parametrize(
    "ends",
    [
        pytest.param((HERE6, 50_000, OWN6.address, 443, TCP), id="another port"),
        pytest.param((HERE6, 50_000, "2001:db8::2", 8443, TCP), id="another host"),
        pytest.param((HERE6, 50_000, OWN6.address, 8443, UDP), id="UDP"),
    ],
)
def test_super_frames_that_only_resemble_the_upload_pass(
    ends: tuple[str, int, str, int, int], vlan: int | None
) -> None:
    data = jumbo(*ends, vlan=vlan)

    assert [n for n in range(14, len(data) + 1) if not passes(data[:n])] == []


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(HERE, 50_000, OWN.address, 443), id="another port of the vSensor"),
        pytest.param(frame(HERE, 50_000, "192.0.2.2", 8443), id="the same port of another host"),
        pytest.param(frame(HERE, 50_000, OWN.address, 8443, UDP), id="UDP"),
        pytest.param(frame(HERE6, 50_000, "2001:db8::2", 8443), id="another host, IPv6"),
        pytest.param(frame(HERE6, 50_000, OWN6.address, 8444), id="another port, IPv6"),
        pytest.param(arp(OWN.address), id="ARP for the vSensor"),
    ],
)
def test_what_only_resembles_the_upload_passes(data: bytes) -> None:
    assert passes(data)


@pytest.mark.parametrize("own", [(OWN,), (OWN6,), (OWN, OWN6)], ids=["IPv4", "IPv6", "both"])
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(HERE, 50_000, "198.51.100.1", 80), id="IPv4"),
        pytest.param(frame(HERE6, 50_000, "2001:db8::2", 80), id="IPv6"),
        pytest.param(arp("198.51.100.1"), id="ARP"),
        pytest.param(bytes(12) + b"\x88\xb5" + bytes(40), id="unknown protocol"),
        pytest.param(frame(HERE, 50_000, "198.51.100.1", 80, vlan=5), id="IPv4 in a VLAN"),
        pytest.param(frame(HERE6, 50_000, "2001:db8::2", 80, vlan=5), id="IPv6 in a VLAN"),
        pytest.param(frame(HERE, 50_000, "198.51.100.1", 80)[:14] + b"\x4f" + b"\xff" * 30, id="false header length"),
    ],
)
def test_a_frame_cut_anywhere_passes_the_guards_for_a_filter_that_reads_past_its_end_refuses_it(
    data: bytes, own: tuple[Flow, ...]
) -> None:
    assert [n for n in range(14, len(data) + 1) if not passes(data[:n], own=own)] == []


@pytest.mark.parametrize("data", [frame(HERE, 50_000, OWN.address, 8443), frame(OWN6.address, 8443, HERE6, 50_000)])
def test_an_own_frame_is_refused_as_soon_as_its_addresses_and_ports_are_there(data: bytes) -> None:
    ports_end = len(data) - 16

    assert [n for n in range(ports_end, len(data) + 1) if passes(data[:n])] == []


@pytest.mark.parametrize("address", CREDENTIAL_ENDPOINTS)
@pytest.mark.parametrize("user", USERS)
def test_credential_endpoints_pass_only_when_asked_for(address: str, user: str) -> None:
    here = HERE if "." in address else HERE6
    for data in (frame(here, 50_000, address, 80), frame(address, 80, here, 50_000)):
        assert not passes(data, user)
        assert passes(data, user, credentials=True)


@pytest.mark.parametrize("tag", [0x8100, 0x88A8])
@pytest.mark.parametrize("address", CREDENTIAL_ENDPOINTS)
def test_a_vlan_tag_in_the_frame_does_not_let_credential_endpoints_pass(address: str, tag: int) -> None:
    """A token on its way there, on the parent of the VLAN device that it leaves by: a trunk ENI inserts no tags."""
    here = HERE if "." in address else HERE6
    for ends in ((here, 50_000, address, 80), (address, 80, here, 50_000)):
        data = frame(*ends, vlan=5, tag=tag)
        assert not passes(data)
        assert not passes(data, own=())
        assert passes(data, credentials=True)
    other = frame(here, 50_000, "169.254.169.253" if "." in address else "fd00:ec2::253", 80, vlan=5, tag=tag)
    assert [n for n in range(14, len(other) + 1) if not passes(other[:n])] == []


def test_asking_for_credential_endpoints_does_not_let_the_upload_pass() -> None:
    assert not passes(frame(HERE, 50_000, OWN.address, 8443), "tcp", credentials=True)


@pytest.mark.parametrize(
    "user,data,expected",
    [
        ("port 80", frame(HERE, 50_000, "198.51.100.1", 80), True),
        ("port 80", frame(HERE, 50_000, "198.51.100.1", 81), False),
        ("udp", frame(HERE, 50_000, "198.51.100.1", 80), False),
        ("port 80 or port 81", frame(HERE, 50_000, "198.51.100.1", 81), True),
        ("vlan 7", frame(HERE, 50_000, "198.51.100.1", 81, vlan=7), True),
        ("vlan 7", frame(HERE, 50_000, "198.51.100.1", 81, vlan=8), False),
        ("vlan and tcp port 81", frame(HERE, 50_000, "198.51.100.1", 81, vlan=8), True),
        ("vlan 7", frame(HERE, 50_000, "198.51.100.1", 81), False),
    ],
)
def test_the_users_filter_decides_over_the_rest(user: str, data: bytes, *, expected: bool) -> None:
    assert passes(data, user) is expected


@pytest.mark.parametrize("user", ["tcp or vlan", "tcp or (vlan and vlan)", "greater 1 or mpls", "tcp or pppoes"])
def test_keywords_that_shift_offsets_do_not_shift_the_guards(user: str) -> None:
    upload = frame(HERE, 50_000, OWN.address, 8443)
    guard = effective("", (OWN,), credential_endpoints=True)

    assert not passes(upload, user)
    # Why the order matters: with the user's filter first, the same guard is blind.
    assert pcap.bpf(f"({user}) and {guard}".encode(), pcap.DLT_EN10MB).filter(upload)


@pytest.mark.parametrize("user", ["port 80) or (tcp", "tcp) or (", ")", "port 80)"])
def test_what_would_close_our_parenthesis_does_not_compile_alone(user: str) -> None:
    with pytest.raises(OSError, match=r"."):
        pcap.bpf(user.encode(), pcap.DLT_EN10MB)


def test_the_breakout_that_settings_must_refuse_is_one() -> None:
    """Why the user's expression is compiled alone first: joined, this one compiles, and lets the upload out."""
    assert passes(frame(HERE, 50_000, OWN.address, 8443), "port 80) or (tcp")


def test_the_vsensors_expression_narrows_the_users_and_neither_opens_the_guards() -> None:
    expression = effective("tcp", (OWN,), credential_endpoints=True, vsensor="port 80 or port 8443")
    program = pcap.bpf(expression.encode(), pcap.DLT_EN10MB)
    other = "198.51.100.1"

    passed = [
        (port, kind) for port in (80, 81) for kind in (TCP, UDP) if program.filter(frame(HERE, 1, other, port, kind))
    ]
    assert passed == [(80, TCP)]
    assert not program.filter(frame(HERE, 50_000, OWN.address, OWN.port))


@pytest.mark.parametrize(
    "user,vsensor,expected",
    [("", "", ""), ("tcp", " ", "tcp"), ("", "udp", "udp"), ("tcp or arp", "ip", "(ip) and (tcp or arp)")],
)
def test_a_section_names_both_filters_and_not_the_guards(user: str, vsensor: str, expected: str) -> None:
    assert described(user, vsensor) == expected


def test_words_that_move_the_offsets_of_what_follows_are_known() -> None:
    texts = ["vlan", "tcp or vlan 7", "mpls and ip", "pppoes", "pppoed", "geneve", "tcp", "host vlan-7.test", "my_vlan"]

    assert [text for text in texts if not shifts(text)] == ["tcp", "my_vlan"]


def test_nothing_to_exclude_and_nothing_asked_is_the_empty_expression() -> None:
    assert effective("   ", (), credential_endpoints=True) == ""


def test_the_expression_does_not_depend_on_the_order_of_the_flows() -> None:
    flows = [OWN, OWN6, Flow("192.0.2.9", 443)]

    assert effective("tcp", flows, credential_endpoints=False) == effective(
        "tcp", reversed(flows), credential_endpoints=False
    )


def test_as_many_flows_as_are_allowed_are_all_refused_by_one_program() -> None:
    flows = [Flow(f"2001:db8::{n:x}", 8443) for n in range(1, MAX_FLOWS + 1)]
    expression = effective("tcp port 80 or udp port 53 or icmp", flows, credential_endpoints=False)
    program = pcap.bpf(expression.encode(), pcap.DLT_EN10MB)

    refused = [not program.filter(frame(HERE6, 50_000, f.address, 8443)) for f in flows]
    assert [not program.filter(jumbo(HERE6, 50_000, f.address, 8443)) for f in flows] == refused
    assert refused == [True] * MAX_FLOWS
    assert program.filter(frame(HERE6, 50_000, "2001:db8::ffff", 80))


@pytest.mark.parametrize(
    "address,expected",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_a_flow_is_spelt_canonically(address: str, expected: str) -> None:
    assert checked_flow(address, 443) == Flow(expected, 443)


@pytest.mark.parametrize(
    "address,port",
    [
        ("192.0.2.1", 0),
        ("192.0.2.1", 65_536),
        ("192.0.2.1", -1),
        ("", 443),
        ("vsensor.test", 443),
        ("192.0.2.1 or tcp", 443),
        ("192.0.2.1) or (tcp", 443),
        ("192.0.2.1/8", 443),
        ("0300.0.2.1", 443),
    ],
)
def test_what_is_no_address_and_port_is_refused(address: str, port: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  ipaddress words its own
        checked_flow(address, port)


def test_an_ipv4_address_in_ipv6_spelling_is_excluded_as_what_it_is_on_the_wire() -> None:
    """The kernel connects to ::ffff:192.0.2.1 over IPv4."""
    own = checked_flow("::ffff:192.0.2.1", 8443)

    assert not passes(frame(HERE, 50_000, "192.0.2.1", 8443), own=(own,))


@pytest.mark.parametrize("user", ["", "vlan", "tcp or vlan"])
@pytest.mark.parametrize("tag", [0x8100, 0x88A8])
@pytest.mark.parametrize(
    "ends",
    [
        (HERE, 50_000, OWN.address, 8443),
        (OWN.address, 8443, HERE, 50_000),
        (HERE6, 50_000, OWN6.address, 8443),
        (OWN6.address, 8443, HERE6, 50_000),
    ],
)
def test_the_own_upload_inside_a_vlan_tag_does_not_pass(ends: tuple[str, int, str, int], tag: int, user: str) -> None:
    """Seen on a parent whose VLAN device carries the upload, where the driver has no tag offload.

    The kernel writes the tag into such a frame (validate_xmit_vlan) before the capture sees it (dev_queue_xmit_nit).
    """
    data = frame(*ends, vlan=5, tag=tag)

    assert not passes(data, user)
    if not user or tag == 0x8100:
        assert passes(data, user, own=())


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(frame(HERE, 50_000, OWN.address, 443, vlan=5), id="another port"),
        pytest.param(frame(HERE, 50_000, "192.0.2.2", 8443, vlan=5), id="another host"),
        pytest.param(frame(HERE, 50_000, OWN.address, 8443, UDP, vlan=5), id="UDP"),
        pytest.param(frame(HERE6, 50_000, OWN6.address, 443, vlan=5), id="another port, IPv6"),
        pytest.param(frame(HERE6, 50_000, "2001:db8::2", 8443, vlan=5), id="another host, IPv6"),
    ],
)
def test_what_only_resembles_the_upload_passes_inside_a_vlan_tag_too(data: bytes) -> None:
    assert passes(data)


@pytest.mark.parametrize("options_words", range(1, 11))
def test_ip_options_do_not_hide_the_tagged_upload(options_words: int) -> None:
    plain = frame(HERE, 50_000, OWN.address, 8443, vlan=5)
    data = plain[:18] + bytes([0x45 + options_words]) + plain[19:38] + bytes(4 * options_words) + plain[38:]

    assert not passes(data)


def test_without_an_ethernet_header_no_offset_of_one_is_compiled() -> None:
    expression = effective("", (OWN, OWN6), credential_endpoints=False, ethernet=False)

    assert "ether[" not in expression
    raw_ip = frame(HERE, 50_000, OWN.address, 8443)[14:]
    program = pcap.bpf(expression.encode(), pcap.DLT_RAW)
    assert not program.filter(raw_ip)
    assert not program.filter(jumbo(HERE6, 50_000, OWN6.address, 8443)[14:])
