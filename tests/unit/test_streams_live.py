"""Stored sections as one endless file, and what a VXLAN datagram is made of: pure, against readers of our own."""

from __future__ import annotations

import ipaddress
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_vsensor_kit import payload, section

from ossensor import pcapng
from ossensor.vsensor.streams import live, vxlan

SEED = 20261128


def with_interface(linktype: int, payloads: list[bytes]) -> bytes:
    """The kit's section with another link type; the description follows the section's header of 28 bytes."""
    made = bytearray(section(payloads))
    assert struct.unpack_from("<I", made, 28) == (1,)
    struct.pack_into("<H", made, 36, linktype)
    return bytes(made)


def interfaces_and_packets(data: bytes) -> list[tuple[bytes, bytes]]:
    """(the sensor's name, packet) of a pcapng stream, by the numbers that it gives; sections begin numbering anew."""
    names: list[bytes] = []
    found = []
    at = 0
    while at < len(data):
        kind, total = struct.unpack_from("<II", data, at)
        assert struct.unpack_from("<I", data, at + total - 4) == (total,)
        if kind == 0x0A0D0D0A:
            names = []
        elif kind == 1:
            code, length = struct.unpack_from("<HH", data, at + 16)
            assert code == 3  # if_description
            names.append(data[at + 20 : at + 20 + length])
        elif kind == 6:
            number, _, _, captured = struct.unpack_from("<IIII", data, at + 8)
            found.append((names[number], data[at + 28 : at + 28 + captured]))
        else:
            assert kind == 5
            assert names[struct.unpack_from("<I", data, at + 8)[0]]
        at += total
    return found


def test_interfaces_are_numbered_once_for_each_sensor_and_description() -> None:
    file = live.Pcapng("test")
    pieces = [
        file.prologue(),
        file.take("one", section([payload(1)])).data,
        file.take("two", section([payload(2)])).data,
        file.take("one", with_interface(113, [payload(3)])).data,
    ]
    late = file.prologue()
    rest = [file.take(sensor, section([payload(n)])).data for n, sensor in ((4, "two"), (5, "one"))]

    assert interfaces_and_packets(b"".join(pieces + rest)) == [
        (sensor, payload(n)) for sensor, n in ((b"one", 1), (b"two", 2), (b"one", 3), (b"two", 4), (b"one", 5))
    ]
    assert interfaces_and_packets(late + b"".join(rest)) == [(b"two", payload(4)), (b"one", payload(5))]
    assert [len(p) for p in rest] == [len(p) for p in [section([payload(0)])[48:]] * 2]  # no description again


def test_a_new_section_begins_when_there_are_too_many_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "INTERFACES_MAX", 3)
    file = live.Pcapng("test")
    data = [file.prologue()]
    data += [file.take(f"s{n}", section([payload(n)])).data for n in range(10)]

    assert interfaces_and_packets(b"".join(data)) == [(b"s%d" % n, payload(n)) for n in range(10)]
    assert b"".join(data).count(struct.pack("<I", 0x0A0D0D0A)) == 4
    assert len(file.prologue()) < 400


def test_a_section_that_is_refused_leaves_no_interface_behind_that_readers_were_not_told_of() -> None:
    file = live.Pcapng("test")
    start = file.prologue()
    bad = bytearray(with_interface(113, [payload(1)]))
    struct.pack_into("<I", bad, 48 + 8, 7)  # the packet's interface
    with pytest.raises(pcapng.FormatError):
        file.take("one", bytes(bad))
    after = file.take("one", section([payload(2)])).data

    assert interfaces_and_packets(start + after) == [(b"one", payload(2))]


def test_pcap_has_ethernet_and_counts_the_rest() -> None:
    file = live.Pcap()
    piece = file.take("one", section([payload(1), payload(2, 61)]))
    other = file.take("one", with_interface(113, [payload(3)]))

    assert piece == (
        struct.pack("<IIII", 0, 0, 60, 60) + payload(1) + struct.pack("<IIII", 0, 1, 61, 61) + payload(2, 61), 2, 0
    )  # fmt: skip
    assert other == (b"", 0, 1)


def test_a_damaged_section_is_refused_and_never_a_crash() -> None:
    rng = random.Random(SEED)
    refused = 0
    for _ in range(3000):
        damaged = bytearray(section([payload(1), payload(2)]))
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        for take in (live.Pcapng("test").take, live.Pcap().take, lambda _, data: live.frames(data)):
            try:
                take("one", bytes(damaged))
            except pcapng.FormatError:
                refused += 1
    print(f"seed {SEED}: {refused} of 9000 refused")

    assert 1000 < refused < 9000


# --- VXLAN -----------------------------------------------------------------------------------------------------------


def ethernet(kind: int, packet: bytes, tags: tuple[int, ...] = ()) -> memoryview:
    return memoryview(bytes(12) + b"".join(struct.pack(">HH", t, 5) for t in tags) + struct.pack(">H", kind) + packet)


def ip(source: str, destination: str, *, ports: bytes = b"\x12\x34\x12\xb5" + bytes(4), fragment: int = 0) -> bytes:
    """A UDP packet, or the fragment of one at this offset in units of eight bytes."""
    one, other = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if one.version == 4:
        head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(ports), 1, fragment, 64, 17, 0)
        return head + one.packed + other.packed + ports
    inner = struct.pack(">BBHI", 17, 0, fragment << 3, 1) + ports if fragment else ports
    kind = 44 if fragment else 17
    return struct.pack(">IHBB", 6 << 28, len(inner), kind, 64) + one.packed + other.packed + inner


PAIRS = [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")]


def kind_of(host: str) -> int:
    return 0x86DD if ":" in host else 0x0800


@pytest.mark.parametrize("one,other", PAIRS)
@pytest.mark.parametrize("tags", [(), (0x8100,), (0x88A8, 0x8100)])
def test_both_directions_of_a_connection_leave_by_one_port(one: str, other: str, tags: tuple[int, ...]) -> None:
    there, back = (ethernet(kind_of(one), ip(a, b), tags) for a, b in ((one, other), (other, one)))

    assert vxlan.lane(there) == vxlan.lane(back)


def test_connections_are_spread_over_all_ports() -> None:
    lanes = {vxlan.lane(ethernet(0x0800, ip("10.0.0.1", f"10.0.1.{n}"))) for n in range(200)}

    assert lanes == set(range(vxlan.LANES))


@pytest.mark.parametrize("other,me", PAIRS)
@pytest.mark.parametrize("tags", [(), (0x8100,)])
def test_our_own_datagrams_are_known_and_nobody_elses_are(other: str, me: str, tags: tuple[int, ...]) -> None:
    own = vxlan.Own(me, 0x12B5)
    kind = kind_of(me)
    wrong_port = b"\x12\xb5\x12\x34" + bytes(4)
    judged = {
        "own": own(ethernet(kind, ip(other, me), tags)),
        "a later fragment": own(ethernet(kind, ip(other, me, fragment=185, ports=wrong_port), tags)),
        "the answer": own(ethernet(kind, ip(me, other, ports=wrong_port), tags)),
        "another port": own(ethernet(kind, ip(other, me, ports=wrong_port), tags)),
        "another host": own(ethernet(kind, ip(other, other), tags)),
        "another kind": own(ethernet(0x88B5, ip(other, me), tags)),
    }

    assert judged == {name: name in {"own", "a later fragment"} for name in judged}


@given(st.binary(min_size=14, max_size=120), st.sampled_from([b"\x08\x00", b"\x86\xdd", b"\x81\x00"]))
def test_any_frame_has_a_port_and_is_ours_or_not(frame: bytes, kind: bytes) -> None:
    made = memoryview(frame[:12] + kind + frame[14:])

    assert 0 <= vxlan.lane(made) < vxlan.LANES
    assert vxlan.Own("10.0.0.1", 4789)(made) in {True, False}
    assert vxlan.Own("fd00::1", 4789)(made) in {True, False}


def test_the_header_is_the_one_of_rfc_7348() -> None:
    assert vxlan.header(0xABCDEF) == bytes.fromhex("08000000abcdef00")
