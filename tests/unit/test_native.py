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
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)  # again and again: the first may come before the gathering begins
    try:
        naps = _native.gather(bytearray(BLOCK), BLOCK, 1, 0.9, 1000)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert (naps, set(caught)) == (0, {signal.SIGALRM})


# Of a block's and a packet's header, as ring_memory.put_block writes them (linux/if_packet.h).
BLOCK_LENGTH, FIRST_PACKET = 20, 16
NEXT, SNAPLEN, MAC = 0, 12, 24
# Where the headers of two packets of 60 bytes lie in a block.
FIRST, LAST = 48, 48 + 144


def test_a_whole_ring_is_copied_once() -> None:
    ring = bytearray(2 * BLOCK)
    for n in range(2):
        put_block(ring, n * BLOCK, n + 1, [Frame(bytes([n]))])

    assert _native.copy(ring, BLOCK, 1, bytearray(ROOM), 0, ROOM, 262_144, True, True)[:2] == (2, 2)


@pytest.mark.parametrize(
    "claimed,needed",
    [
        pytest.param(48 + 3 * 184, 48 + 3 * (184 - 32), id="by the guess"),  # as put_block writes it, see SHRINKS_BY
        pytest.param(0, 3 * (32 + 100), id="by what it is, when it says that it is short"),
    ],
)
def test_a_block_is_taken_when_there_is_room_to_the_byte(claimed: int, needed: int) -> None:
    ring = bytearray(BLOCK)
    put_block(ring, 0, 1, [Frame(bytes(100), ts_ns=5)] * 3)
    struct.pack_into("=I", ring, BLOCK_LENGTH, claimed)

    results = [
        _native.copy(ring, BLOCK, 1, bytearray(ROOM), 8, 8 + room, 262_144, True, True) for room in (needed, needed - 1)
    ]

    assert results == [(1, 3, 8 + 3 * (32 + 100), 5, 5, False), (0, 0, 8, 0, 0, True)]


def test_what_was_in_the_slot_is_in_no_padding() -> None:
    sizes = range(1, 9)
    ring, slot = bytearray(BLOCK), bytearray(b"\xff" * ROOM)
    put_block(ring, 0, 1, [Frame(bytes(n)) for n in sizes])

    used = _native.copy(ring, BLOCK, 1, slot, 0, ROOM, 262_144, True, True)[2]

    at = 0
    for n in sizes:
        length = 32 + n + -n % 4
        assert slot[at + 28 : at + length - 4] == bytes(length - 32)
        at += length
    assert (at, slot[used:]) == (used, b"\xff" * (ROOM - used))


@pytest.mark.parametrize(
    "at,value",
    [
        pytest.param(BLOCK_LENGTH, BLOCK + 1, id="longer than it is"),
        pytest.param(FIRST_PACKET, BLOCK - 47, id="its first packet has no room for its header"),
        pytest.param(FIRST_PACKET, BLOCK + FIRST, id="its first packet is the next block's"),
        pytest.param(FIRST + NEXT, 82 + 59, id="a packet lies over the one before"),
        pytest.param(FIRST + NEXT, 0, id="a packet follows itself"),
        pytest.param(FIRST + SNAPLEN, 2**32 - 1, id="a packet is as long as can be"),
        pytest.param(LAST + SNAPLEN, BLOCK - LAST - 82 + 1, id="its last packet ends behind it"),
        pytest.param(FIRST + MAC, 47, id="a packet begins in its own header"),
        pytest.param(LAST + MAC, 2**16 - 1, id="its last packet begins behind it"),
    ],
)
def test_a_block_that_cannot_be_true_is_damaged_and_what_came_before_it_is_not(at: int, value: int) -> None:
    ring, slot = bytearray(3 * BLOCK), bytearray(2 * ROOM)
    for n, frames in enumerate(([Frame(b"good")], [Frame(bytes(60))] * 2, [Frame(b"next")] * 3)):
        put_block(ring, n * BLOCK, n + 1, frames)
    struct.pack_into("=H" if at % 48 == MAC else "=I", ring, BLOCK + at, value)

    assert _native.copy(ring, BLOCK, 1, slot, 0, 2 * ROOM, 262_144, True, True)[:3] == (1, 1, 36)
    with pytest.raises(ValueError, match="block 2 of the ring is damaged"):
        _native.copy(ring, BLOCK, 2, slot, 36, 2 * ROOM, 262_144, True, True)


def test_a_packet_that_lies_in_the_one_before_is_damage_also_when_it_is_whole() -> None:
    inner, ring = bytearray(BLOCK), bytearray(BLOCK)
    put_block(inner, 0, 1, [Frame(b"")])
    put_block(ring, 0, 1, [Frame(bytes(inner[FIRST : FIRST + 48]) + bytes(82)), Frame(b"")])
    struct.pack_into("=I", ring, FIRST + NEXT, 82)  # to where the first packet's frame begins

    with pytest.raises(ValueError, match="block 1 of the ring is damaged"):
        _native.copy(ring, BLOCK, 1, bytearray(ROOM), 0, ROOM, 262_144, True, True)


def test_a_packet_may_end_with_its_block() -> None:
    ring = bytearray(BLOCK)
    size = BLOCK - 48 - 82
    put_block(ring, 0, 1, [Frame(bytes(size))])

    assert _native.copy(ring, BLOCK, 1, bytearray(2 * ROOM), 0, 2 * ROOM, 262_144, True, True)[:3] == (1, 1, size + 34)


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


def test_a_tag_counts_for_the_snap_length_and_is_left_out_where_that_would_cut_it() -> None:
    plain, tagged = ADDRESSES + REST, ADDRESSES + bytes.fromhex("81000003") + REST
    for snaplen in (0, 11, 12, 15, 16, 17, len(plain), len(plain) + 1, len(tagged), len(tagged) + 1):
        (packet,) = copied(Frame(plain, status=USER | VLAN, tci=3), snaplen=snaplen)

        assert packet.data == (tagged[:snaplen] if snaplen >= 16 else plain[:snaplen])


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


@pytest.mark.parametrize("version,length_at", [(4, 16), (6, 18)])
def test_a_packet_that_is_too_long_to_say_its_length_is_finished_and_left_alone_if_it_was_cut(
    version: int, length_at: int
) -> None:
    """BIG TCP: the field holds 0, and where the frame ends, the packet does."""
    left, final = (frame[:length_at] + bytes(2) + frame[length_at + 2 :] for frame in packet_of(version, 6, b"x" * 100))

    (finished,) = copied(Frame(left, status=USER | CSUM_NOT_READY))
    (cut,) = copied(Frame(left, original=len(left) + 1, status=USER | CSUM_NOT_READY))

    assert (finished.data, cut.data) == (final, left)


def test_the_trailer_of_a_short_frame_is_no_part_of_its_checksum() -> None:
    left, final = packet_of(4, 17, b"x")

    (finished,) = copied(Frame(left + b"trailer", status=USER | CSUM_NOT_READY))

    assert finished.data == final + b"trailer"


def test_a_sum_of_zero_is_written_as_its_other_zero() -> None:
    """In UDP's field, 0 says that there is no checksum (RFC 768)."""
    _, final = packet_of(4, 17, b"\0\0")
    left, final = packet_of(4, 17, final[40:42])  # a payload that makes the whole sum zero

    (finished,) = copied(Frame(left, status=USER | CSUM_NOT_READY))

    assert (finished.data, final[40:42]) == (final, b"\xff\xff")


@pytest.mark.parametrize("fragment", [b"\x20\x00", b"\x00\x01", b"\x20\x01"], ids=["first", "last", "between"])
def test_a_fragment_is_left_alone(fragment: bytes) -> None:
    left, _ = packet_of(4, 17, b"x" * 8)
    left = left[:20] + fragment + left[22:]

    (untouched,) = copied(Frame(left, status=USER | CSUM_NOT_READY))

    assert untouched.data == left


@pytest.mark.parametrize("version", [4, 6])
def test_a_segment_shorter_than_its_header_is_left_alone(version: int) -> None:
    """The field of one of four bytes lies in what follows it, and holds what it must."""
    whole, _ = packet_of(version, 17, b"")
    network = bytearray(whole[:-8])
    length_at, length = (16, 24) if version == 4 else (18, 4)
    network[length_at : length_at + 2] = struct.pack(">H", length)
    addresses = bytes(network[26:34]) if version == 4 else bytes(network[22:54])
    left = bytes(network) + bytes(6) + struct.pack(">H", words(addresses + struct.pack(">II", 4, 17))) + bytes(4)

    (untouched,) = copied(Frame(left, status=USER | CSUM_NOT_READY))

    assert untouched.data == left


def test_bare_ip_is_finished_too() -> None:
    left, final = packet_of(6, 6, b"x" * 100)

    (finished,) = copied(Frame(left[14:], status=USER | CSUM_NOT_READY), ethernet=False)

    assert finished.data == final[14:]
