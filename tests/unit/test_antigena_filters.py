"""Kernel filters, run by libpcap's interpreter: they pass what the orders concern, and nothing but that."""

from __future__ import annotations

import ctypes
import random
import socket
import time
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from scapy.all import raw
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP
from scapy.layers.sctp import SCTP

from ossensor.antigena.actions import MAX_ACTIONS, Action, Side, parse_action
from ossensor.antigena.filters import Program, programs
from ossensor.antigena.guards import Guards
from ossensor.antigena.packets import OUR_WINDOW
from ossensor.antigena.segments import SEEN_BYTES, maybe_segment
from ossensor.assembler import JEQ, RET, Line, assembled
from ossensor.capture import bpf
from ossensor.filters import Flow

NOBODY = Guards()


def order(ident: str, **members: Any) -> Action:
    return parse_action({"id": ident, "kind": "block", "start_s": 0, "expires_s": 60, **members})


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint), ("instructions", ctypes.c_char_p))


class _Header(ctypes.Structure):
    _fields_ = (("time", ctypes.c_long * 2), ("captured", ctypes.c_uint), ("length", ctypes.c_uint))


_libpcap = ctypes.CDLL("libpcap.so.0.8")


def passes(program: Program, packet: Any) -> bool:
    """What libpcap's interpreter says, which shares no line with the kernel's, nor with the assembler."""
    data = raw(packet)
    given = _Program(len(program.instructions) // 8, program.instructions)
    header = _Header((0, 0), len(data), len(data))
    kept = _libpcap.pcap_offline_filter(ctypes.byref(given), ctypes.byref(header), data)
    assert kept in {0, SEEN_BYTES}
    return kept != 0


def taken_by_the_kernel(program: Program) -> bool:
    """It verifies jumps, memory and length (bpf_check_classic), whatever the socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        bpf.attach(sock, program.instructions)
        return bpf.attached(sock) == program.instructions


V4 = order(
    "v4",
    protocol="tcp",
    source={"network": "10.0.0.1", "port": 50_000},
    destination={"network": "192.0.2.7", "port": 443},
)
V6 = order(
    "v6",
    protocol="udp",
    source={"network": "fd00::1", "port": 50_000},
    destination={"network": "2001:db8::7", "port": 53},
)


def test_no_order_is_no_filter() -> None:
    assert programs([], NOBODY) == []


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7") / TCP(sport=50_000, dport=443), id="forth"),
        pytest.param(IP(src="192.0.2.7", dst="10.0.0.1") / TCP(sport=443, dport=50_000), id="back"),
        pytest.param(
            IP(src="192.0.2.7", dst="10.0.0.1", options=b"\1" * 8) / TCP(sport=443, dport=50_000), id="options"
        ),
        pytest.param(IPv6(src="fd00::1", dst="2001:db8::7") / UDP(sport=50_000, dport=53), id="IPv6"),
        pytest.param(
            IPv6(src="2001:db8::7", dst="fd00::1") / IPv6ExtHdrHopByHop() / UDP(sport=53, dport=50_000), id="extended"
        ),
        pytest.param(
            IPv6(src="2001:db8::7", dst="fd00::1") / IPv6ExtHdrFragment() / UDP(sport=53, dport=50_000), id="fragment"
        ),
    ],
)
def test_what_is_ordered_passes(packet: Any) -> None:
    (program,) = programs([V4, V6], NOBODY)

    assert program.ids == {"v4", "v6"}
    assert passes(program, packet)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7") / TCP(sport=50_001, dport=443), id="one port"),
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7") / TCP(sport=50_000, dport=444), id="the other port"),
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7") / TCP(sport=443, dport=50_000), id="ports the other way"),
        pytest.param(IP(src="10.0.0.2", dst="192.0.2.7") / TCP(sport=50_000, dport=443), id="an address"),
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7") / UDP(sport=50_000, dport=443), id="the protocol"),
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7") / SCTP(sport=50_000, dport=443), id="SCTP"),
        pytest.param(IP(src="10.0.0.1", dst="192.0.2.7", frag=7) / TCP(sport=50_000, dport=443), id="later fragment"),
        pytest.param(IPv6(src="fd00::1", dst="2001:db8::7") / UDP(sport=50_000, dport=54), id="IPv6, one port"),
        pytest.param(IPv6(src="fd00::2", dst="2001:db8::7") / IPv6ExtHdrDestOpt() / UDP(), id="IPv6, an address"),
        pytest.param(ARP(psrc="10.0.0.1", pdst="192.0.2.7"), id="ARP"),
    ],
)
def test_what_differs_in_one_point_does_not_pass(packet: Any) -> None:
    (program,) = programs([V4, V6], NOBODY)

    assert not passes(program, packet)


@pytest.mark.parametrize("under", [IP(src="10.0.0.1", dst="192.0.2.7"), IPv6(src="fd00::1", dst="2001:db8::7")])
def test_our_own_resets_do_not_pass_and_a_segment_that_has_their_window_does(under: Any) -> None:
    everything = [order(str(n), source={"network": network}) for n, network in enumerate(("10.0.0.1", "fd00::1"))]
    (program,) = programs(everything, NOBODY)

    def found(transport: Any) -> bool:
        return passes(program, under / transport)

    assert [found(TCP(flags=flags, window=OUR_WINDOW)) for flags in ("R", "RA", "A", "S")] == [False, False, True, True]
    assert [found(TCP(flags="R")), found(UDP() / (b"\xff" * 8 + OUR_WINDOW.to_bytes(2)))] == [True, True]


@pytest.mark.parametrize("size", [0, 1, 19, 20, 35, 36])
def test_a_packet_that_is_cut_before_its_ports_does_not_pass(size: int) -> None:
    (program,) = programs([order("all", source={"network": "10.0.0.1"})], NOBODY)
    packet = raw(IP(src="192.0.2.7", dst="10.0.0.1") / TCP(sport=443, dport=50_000))

    assert passes(program, packet[:size]) == (size == 36)


def test_the_own_upload_and_protected_networks_are_left_out_whatever_is_ordered() -> None:
    guards = Guards(
        own=frozenset({Flow("192.0.2.9", 443), Flow("2001:db8::9", 8443)}),
        protected=(ip_network("172.16.0.0/12"), ip_network("fd77::/16")),
    )
    everything = [
        order("4", kind="quarantine", source={"network": "10.0.0.1"}),
        order("6", kind="quarantine", source={"network": "fd00::1"}),
    ]
    (program,) = programs(everything, guards)
    v4 = ("192.0.2.9", "192.0.2.8", "172.17.0.1", "172.32.0.1")
    v6 = ("2001:db8::9", "2001:db8::8", "fd77::1", "fd78::1")

    found4 = [passes(program, IP(src="10.0.0.1", dst=a) / TCP(sport=1, dport=443)) for a in v4]
    found6 = [passes(program, IPv6(src=a, dst="fd00::1") / TCP(sport=8443, dport=1)) for a in v6]
    other_port = passes(program, IP(src="10.0.0.1", dst=v4[0]) / TCP(sport=1, dport=444))

    assert (found4, found6, other_port) == ([False, True, False, True], [False, True, False, True], True)


def many(count: int, family: int) -> list[Action]:
    """The dearest orders that there are: two hosts, two ports, and no two alike in any."""
    networks = {4: ("10.{}.{}.1", "192.168.{}.{}"), 6: ("fd{0:02x}:1:2:3:4:5:{1:x}:7", "2001:db8:{}:{}:1:2:3:4")}[
        family
    ]
    return [
        order(
            f"{family}-{n}",
            source={"network": networks[0].format(n // 256 + 1, n % 256), "port": 1000 + n},
            destination={"network": networks[1].format(n // 256 + 1, n % 256), "port": 3000 + n},
        )
        for n in range(count)
    ]


@pytest.mark.parametrize("family,count", [(4, 2), (6, 4)])
def test_all_orders_that_may_be_in_force_fit_into_programs_that_the_kernel_takes(family: int, count: int) -> None:
    guards = Guards(
        own=frozenset(Flow(f"2001:db8::{n:x}", 443) for n in range(4)),
        protected=(ip_network("fd77::/16"), ip_network("fd77::/16")),
    )
    actions = many(MAX_ACTIONS, family)

    made = programs(actions, guards)
    print(f"IPv{family}: {[len(program.instructions) // 8 for program in made]} instructions")

    assert sum(len(program.ids) for program in made) == MAX_ACTIONS
    assert frozenset().union(*(program.ids for program in made)) == {action.id for action in actions}
    assert len(made) == count
    assert all(map(taken_by_the_kernel, made))


def test_a_program_may_be_as_long_as_the_kernel_allows_and_is_never_longer() -> None:
    made = programs(many(MAX_ACTIONS, 6), NOBODY)
    lengths = [len(program.instructions) // 8 for program in made]

    assert max(lengths) <= 4096
    assert max(lengths) > 4096 - 60  # the next order would not have fitted


def test_more_guards_than_a_program_holds_are_refused_in_words() -> None:
    guards = Guards(own=frozenset(Flow(f"2001:db8::{n:x}", 443) for n in range(400)))

    with pytest.raises(ValueError, match="more own flows and protected networks than a filter holds"):
        programs([V4], guards)


def test_the_assembler_refuses_what_it_cannot_jump() -> None:
    with pytest.raises(ValueError, match="a jump over 256 instructions"):
        assembled([Line(JEQ, 1, then="far"), *[Line(RET)] * 256, "far", Line(RET)])
    with pytest.raises(ValueError, match="a jump over -2 instructions"):
        assembled(["back", Line(RET), Line(JEQ, 1, then="back"), Line(RET)])
    with pytest.raises(ValueError, match="two lines are called twice"):
        assembled(["twice", Line(RET), "twice", Line(RET)])
    with pytest.raises(KeyError, match="nowhere"):
        assembled([Line(JEQ, 1, then="nowhere"), Line(RET)])


@pytest.mark.slow
def test_the_filter_and_the_model_agree_about_random_orders_and_packets() -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    rng = random.Random(seed)
    hosts = {4: [f"10.0.{n // 4}.{n % 4}" for n in range(8)], 6: [f"fd00::{n // 4:x}:{n % 4:x}" for n in range(8)]}
    agreed = {True: 0, False: 0}
    for _ in range(200):
        actions = [random_order(rng, hosts, n) for n in range(rng.randrange(1, 4))]
        (program,) = programs(actions, NOBODY)
        for _ in range(40):
            family = rng.choice((4, 6))
            source, destination = rng.sample(hosts[family], 2)
            transport = rng.choice((TCP, UDP))(sport=rng.randrange(3), dport=rng.randrange(3))
            packet = raw({4: IP, 6: IPv6}[family](src=source, dst=destination) / transport)
            segment = maybe_segment(packet)
            assert segment is not None
            ordered = any(a.concerns(segment.protocol, segment.source, segment.destination) for a in actions)
            assert passes(program, packet) == ordered, (program, packet.hex())
            agreed[ordered] += 1
    print(agreed)

    assert min(agreed.values()) > 500


def random_order(rng: random.Random, hosts: dict[int, list[str]], n: int) -> Action:
    family = rng.choice((4, 6))
    lengths = (24, 30, 31, 32) if family == 4 else (64, 112, 126, 128)

    def side() -> Side:
        address = ip_address(rng.choice(hosts[family]))
        network = ip_network((address, rng.choice(lengths)), strict=False)
        return Side(rng.choice((network, network, None)), rng.choice((None, None, 0, 1, 2)))

    one, other = side(), side()
    if one.network is None and other.network is None:
        return random_order(rng, hosts, n)
    return Action(str(n), "block", rng.choice(("tcp", "udp", "any")), one, other, "all", "", 0, 60)
