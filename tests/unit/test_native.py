"""The native loop: ring blocks in, enhanced packet blocks out, equal to what pcapng.py writes of the same packets."""

from __future__ import annotations

import signal
import struct

import pytest
from ring_memory import CSUM_NOT_READY, TPID, USER, VLAN, Frame, put_block

from ossensor import pcapng
from ossensor.capture import _native

BLOCK = 1 << 16
ROOM = 1 << 16
ADDRESSES = bytes.fromhex("020000000002020000000001")


def copied(
    *frames: Frame, snaplen: int = 262_144, ethernet: bool = True, checksums: bool = True
) -> list[pcapng.Packet]:
    """What the loop makes of one block of these frames."""
    ring = bytearray(BLOCK)
    put_block(ring, 0, 1, frames)
    slot = bytearray(ROOM)
    blocks, packets, used, first_ns, last_ns, full = _native.copy(
        ring, BLOCK, 1, slot, 0, ROOM, snaplen, ethernet, checksums
    )
    times = [frame.ts_ns for frame in frames]
    assert (blocks, packets, full, first_ns, last_ns) == (1, len(frames), False, min(times), max(times))
    return list(pcapng.packets(bytes(slot[:used])))


def test_what_it_writes_is_byte_for_byte_what_a_section_writes() -> None:
    frames = [Frame(bytes(range(n)), ts_ns=2**62 + n) for n in (0, 1, 14, 15, 59, 60, 61, 250)]
    ring, slot, expected = bytearray(BLOCK), bytearray(ROOM), bytearray(ROOM)
    put_block(ring, 0, 1, [Frame(f.data, ts_ns=f.ts_ns % 2**32 * 10**9 + 7) for f in frames])
    section = pcapng.Section(memoryview(expected), 0)
    for f in frames:
        assert section.add(f.ts_ns % 2**32 * 10**9 + 7, f.data, len(f.data))

    result = _native.copy(ring, BLOCK, 1, slot, 0, ROOM, 262_144, True, True)

    assert result[:3] == (1, len(frames), section.used)
    assert slot == expected


def test_times_are_the_lowest_and_the_highest_whatever_the_order() -> None:
    frames = [Frame(bytes(60), ts_ns=10**9 + n) for n in (50, 90, 40, 45)]

    assert [p.ts_ns - 10**9 for p in copied(*frames)] == [50, 90, 40, 45]


def test_a_run_of_blocks_is_copied_in_order_until_one_is_the_kernels() -> None:
    ring, slot = bytearray(4 * BLOCK), bytearray(ROOM)
    for n in range(4):
        put_block(ring, n * BLOCK, n + 5, [Frame(bytes([n]))], status=USER if n < 3 else 0)

    blocks, packets, used, *_ = _native.copy(ring, BLOCK, 5, slot, 0, ROOM, 262_144, True, True)

    assert (blocks, packets) == (3, 3)
    assert [p.data for p in pcapng.packets(bytes(slot[:used]))] == [b"\0", b"\1", b"\2"]


def test_a_block_that_does_not_fit_is_left_whole_and_said_to_be_too_much() -> None:
    ring, slot = bytearray(2 * BLOCK), bytearray(ROOM)
    put_block(ring, 0, 1, [Frame(bytes(100))])
    put_block(ring, BLOCK, 2, [Frame(bytes(100))] * 3)

    blocks, packets, used, _, _, full = _native.copy(ring, BLOCK, 1, slot, 0, 400, 262_144, True, True)

    assert (blocks, packets, used, full) == (1, 1, 132, True)
    assert bytes(slot[400:]) == bytes(ROOM - 400)


def test_released_and_unread_blocks_are_counted_also_the_one_being_filled() -> None:
    ring = bytearray(4 * BLOCK)
    put_block(ring, 0, 5, [Frame(b"a")] * 2)
    put_block(ring, BLOCK, 6, [Frame(b"b")] * 3)
    put_block(ring, 2 * BLOCK, 7, [Frame(b"c")] * 5, status=0)  # open: the kernel's, with packets in it
    put_block(ring, 3 * BLOCK, 4, [Frame(b"d")] * 7, status=0)  # given back long ago

    assert [_native.unread(ring, BLOCK, n) for n in (5, 6, 7, 8)] == [10, 8, 5, 0]
    assert _native.release_read(ring, BLOCK, 6) == 1
    assert [_native.ready(ring, BLOCK, n) for n in (5, 6, 7)] == [False, True, False]
    _native.release(ring, BLOCK, 6, 1)
    assert not _native.ready(ring, BLOCK, 6)


def test_gathering_ends_with_the_block_that_it_waits_for_or_with_its_naps() -> None:
    ring = bytearray(2 * BLOCK)
    put_block(ring, 0, 5, [Frame(b"a")])
    put_block(ring, BLOCK, 4, [Frame(b"b")])  # of the round before

    assert [_native.gather(ring, BLOCK, n, 1e-6, 3) for n in (5, 6, 7)] == [0, 3, 3]


def test_a_signal_ends_the_gathering() -> None:
    caught = []
    before = signal.signal(signal.SIGALRM, lambda number, _: caught.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    try:
        naps = _native.gather(bytearray(BLOCK), BLOCK, 1, 0.9, 1000)
    finally:
        signal.signal(signal.SIGALRM, before)

    assert (naps, caught) == (0, [signal.SIGALRM])


def test_a_block_out_of_its_place_is_damaged() -> None:
    ring = bytearray(2 * BLOCK)
    put_block(ring, 0, 9, [Frame(b"a")])

    with pytest.raises(ValueError, match="block 1 of the ring is damaged"):
        _native.copy(ring, BLOCK, 1, bytearray(ROOM), 0, ROOM, 262_144, True, True)


@pytest.mark.parametrize(
    "block_bytes,used,room", [(0, 0, 10), (40, 0, 10), (BLOCK, -4, 10), (BLOCK, 20, 10), (BLOCK, 0, ROOM + 1)]
)
def test_places_that_are_none_are_refused(block_bytes: int, used: int, room: int) -> None:
    with pytest.raises(ValueError, match="ring"):
        _native.copy(bytearray(BLOCK), block_bytes, 1, bytearray(ROOM), used, room, 262_144, True, True)


def test_a_snap_length_cuts_and_keeps_the_length_on_the_wire() -> None:
    (packet,) = copied(Frame(bytes(200), original=1000), snaplen=96)

    assert (len(packet.data), packet.original_length) == (96, 1000)


# -- VLAN tags --------------------------------------------------------------------------------------------------------

REST = bytes.fromhex("0800") + bytes(range(50))


@pytest.mark.parametrize(
    "status,tpid,tci,tag",
    [
        (VLAN | TPID, 0x8100, 0xE064, "8100e064"),
        (VLAN | TPID, 0x88A8, 5, "88a80005"),
        (VLAN, 0, 7, "81000007"),
        (VLAN | TPID, 0x8100, 0, "81000000"),
    ],
)
def test_the_tag_that_the_kernel_took_out_is_put_back(status: int, tpid: int, tci: int, tag: str) -> None:
    (packet,) = copied(Frame(ADDRESSES + REST, status=USER | status, tci=tci, tpid=tpid))

    assert packet.data == ADDRESSES + bytes.fromhex(tag) + REST
    assert packet.original_length == len(packet.data)


def test_a_tag_counts_for_the_length_on_the_wire_and_not_beyond_the_snap_length() -> None:
    (packet,) = copied(Frame(ADDRESSES + REST, status=USER | VLAN, tci=3, original=900), snaplen=30)

    assert (packet.data, packet.original_length) == (ADDRESSES + bytes.fromhex("81000003") + REST[:14], 904)


def test_no_tag_is_put_into_what_has_no_ethernet_header() -> None:
    (bare,) = copied(Frame(REST, status=USER | VLAN, tci=3), ethernet=False)
    (short,) = copied(Frame(ADDRESSES[:11], status=USER | VLAN, tci=3))

    assert (bare.data, short.data) == (REST, ADDRESSES[:11])


# -- checksums --------------------------------------------------------------------------------------------------------


def words(data: bytes) -> int:
    """RFC 1071, in the plainest way."""
    total = sum(struct.unpack(f">{len(data + bytes(len(data) % 2)) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def segment(protocol: int, payload: bytes, checksum: int) -> bytes:
    if protocol == 6:
        return struct.pack(">HHIIBBHHH", 80, 5000, 1, 2, 0x50, 0x18, 100, checksum, 0) + payload
    return struct.pack(">HHHH", 53, 5000, 8 + len(payload), checksum) + payload


def packet_of(
    version: int, protocol: int, payload: bytes, extensions: bytes = b"", *, tags: bytes = b""
) -> tuple[bytes, bytes]:
    """The frame as the kernel leaves it to the card, and as the card would send it."""
    length = len(segment(protocol, payload, 0))
    if version == 4:
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        total = 20 + len(extensions) + length
        header = struct.pack(">BBHHHBBH", 0x45 + len(extensions) // 4, 0, total, 1, 0, 64, protocol, 0)
        network = header + addresses + extensions
    else:
        addresses = bytes(range(32))
        first = extensions[:1] or bytes([protocol])  # each case names the kind of its extension in its first byte,
        extensions = extensions and bytes([protocol]) + extensions[1:]  # which then says what follows
        network = struct.pack(">IH", 6 << 28, len(extensions) + length) + first + b"\x40" + addresses + extensions
    pseudo = words(addresses + struct.pack(">II", length, protocol))
    ethernet = ADDRESSES + tags + (b"\x08\x00" if version == 4 else b"\x86\xdd")
    left = ethernet + network + segment(protocol, payload, pseudo)
    final = 0xFFFF - words(addresses + struct.pack(">II", length, protocol) + segment(protocol, payload, 0))
    return left, ethernet + network + segment(protocol, payload, final or 0xFFFF)


CASES = [
    pytest.param(4, 6, b"x" * 1000, b"", b"", id="tcp over ipv4"),
    pytest.param(4, 6, b"odd", b"", b"", id="odd length"),
    pytest.param(4, 17, b"", b"", b"", id="empty udp"),
    pytest.param(4, 17, b"dns", b"\x94\x04\0\0", b"", id="ipv4 options"),
    pytest.param(6, 6, b"y" * 5000, b"", b"", id="tcp over ipv6"),
    pytest.param(6, 17, b"z" * 7, b"", b"\x81\x00\x00\x05", id="udp over ipv6 in a vlan"),
    pytest.param(6, 17, b"z" * 7, b"\x00\x00" + bytes(6), b"", id="hop-by-hop options"),
    pytest.param(6, 6, b"z" * 7, b"\x3c\x00" + bytes(6), b"\x88\xa8\0\1\x81\0\0\2", id="destination options in qinq"),
    pytest.param(6, 17, b"z" * 7, b"\x2c\x00" + bytes(6), b"", id="atomic fragment"),
]


@pytest.mark.parametrize("version,protocol,payload,extensions,tags", CASES)
def test_a_checksum_left_to_the_card_is_finished(
    version: int, protocol: int, payload: bytes, extensions: bytes, tags: bytes
) -> None:
    left, final = packet_of(version, protocol, payload, extensions, tags=tags)

    (finished,) = copied(Frame(left, status=USER | CSUM_NOT_READY))
    (untouched,) = copied(Frame(left, status=USER | CSUM_NOT_READY), checksums=False)
    (ready,) = copied(Frame(left))

    assert (finished.data, untouched.data, ready.data) == (final, left, left)
    assert final != left


def test_a_field_that_does_not_hold_the_pseudo_headers_sum_is_left_alone() -> None:
    """The outer header of a tunnel; or a frame that was cut, whose sum nobody can know."""
    left, final = packet_of(4, 6, b"x" * 100)

    (good,) = copied(Frame(final, status=USER | CSUM_NOT_READY))
    (cut,) = copied(Frame(left[:-10], original=len(left), status=USER | CSUM_NOT_READY))

    assert (good.data, cut.data) == (final, left[:-10])


def test_bare_ip_is_finished_too() -> None:
    left, final = packet_of(6, 6, b"x" * 100)

    (finished,) = copied(Frame(left[14:], status=USER | CSUM_NOT_READY), ethernet=False)

    assert finished.data == final[14:]
