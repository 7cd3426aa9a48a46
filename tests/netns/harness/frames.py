"""Distinct Ethernet frames made from a seed, and the capture file that tcpreplay sends them from.

Invariant: every frame, down to the shortest of 14 bytes, carries its number in the last four bytes of its source
address and its link's tag in the byte before those, so a frame found anywhere can be held against what was sent.

Nothing here can be answered: the unicast destinations belong to nobody, and the addresses are those set aside for
benchmarks and documentation (RFC 2544, RFC 3849).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

LARGEST = 65_226  # the largest super frame seen on a veth pair with default offloads (reliability.md, F14)
_ETHERNET = 14
_BROADCAST = b"\xff" * 6
_NOBODY = b"\x02\x00\x5e\x00\x53\xff"
_IPV4, _ARP, _IPV6 = 0x0800, 0x0806, 0x86DD
# The kernel moves these tags out of the frame, and whether they come back is a test of its own.
_VLAN_TYPES = {0x8100, 0x88A8}
_SMALL = struct.Struct(">6sBBIH BBHHHBBHII HHHH")

# Lengths where code goes wrong: empty, one byte, one short of an IPv4 header and exactly one, the Ethernet minimum,
# the standard maximum and with a tag, jumbo, the largest. One frame in a hundred has one of them.
_EDGES = (14, 15, 33, 34, 59, 60, 1514, 1518, 9014, LARGEST)
# The rest: mostly small, a long tail; the mean comes out near the 663 bytes of the traffic in dependencies.md.
_BANDS = ((14, 59), (60, 200), (201, 999), (1000, 1514), (1515, 9014), (9015, LARGEST))
_WEIGHTS = (3, 57, 24, 15, 0.6, 0.4)


def _ipv4(rng: random.Random, size: int, protocol: int) -> bytes:
    source, destination = (0xC6120000 | rng.getrandbits(17) for _ in range(2))  # 198.18.0.0/15
    return struct.pack(">BBHHHBBHII", 0x45, 0, size, rng.getrandbits(16), 0, 64, protocol, 0, source, destination)


def _ipv6(rng: random.Random, size: int, protocol: int) -> bytes:
    source, destination = (b"\x20\x01\x0d\xb8" + rng.randbytes(12) for _ in range(2))
    return struct.pack(">IHBB", 6 << 28, size - 40, protocol, 64) + source + destination


def _transport(rng: random.Random, size: int, protocol: int) -> bytes:
    source, destination = rng.randint(1024, 65535), rng.randint(1024, 65535)
    if protocol == 17:
        return struct.pack(">HHHH", source, destination, size, 0)
    return struct.pack(">HHIIHHHH", source, destination, rng.getrandbits(32), rng.getrandbits(32), 0x5018, 512, 0, 0)


def _internet(rng: random.Random, size: int, ethertype: int) -> bytes:
    """The first bytes of a packet of `size`, with correct lengths in every header."""
    protocol = rng.choice((6, 17))
    make, header = (_ipv4, 20) if ethertype == _IPV4 else (_ipv6, 40)
    return make(rng, size, protocol) + _transport(rng, size - header, protocol)


def _garbage_type(rng: random.Random) -> int:
    """Any EtherType or 802.3 length: also those of protocols whose headers will not follow."""
    while (ethertype := rng.choice((_IPV4, _IPV6, _ARP, rng.getrandbits(16)))) in _VLAN_TYPES:
        pass
    return ethertype


def _size(rng: random.Random, number: int) -> int:
    if number % 100 == 0:
        return _EDGES[number // 100 % len(_EDGES)]
    return rng.randint(*rng.choices(_BANDS, _WEIGHTS)[0])


def _cut(rng: random.Random, size: int) -> bytes:
    """A TCP packet that ends in its headers, and may lie about where those end.

    A packet filter that looks past the end of a frame rejects it, also where the question was "not (tcp port 80)".
    """
    if rng.random() < 0.5:
        return bytes([0x40 | rng.randint(5, 15)]) + _ipv4(rng, size, 6)[1:] + _transport(rng, size, 6)
    return _ipv6(rng, max(size, 40), 6) + _transport(rng, size, 6)


def _frame(rng: random.Random, tag: int, number: int) -> bytes:
    size = _size(rng, number)
    payload = size - _ETHERNET
    kind = rng.choices(("ipv4", "ipv6", "arp", "cut", "garbage"), (60, 20, 5, 5, 10))[0]
    destination, ethertype, head = _NOBODY, _garbage_type(rng), b""
    if kind == "arp":
        destination, ethertype = _BROADCAST, _ARP
        head = struct.pack(">HHBBH", 1, _IPV4, 6, 4, 1)
    elif kind == "ipv4" and payload >= 40:
        ethertype, head = _IPV4, _internet(rng, payload, _IPV4)
    elif kind == "ipv6" and payload >= 60:
        ethertype, head = _IPV6, _internet(rng, payload, _IPV6)
    elif kind == "cut" and payload < 66:
        head = _cut(rng, payload)
        ethertype = _IPV4 if head[0] >> 4 == 4 else _IPV6
    frame = _header(destination, tag, number, ethertype) + head
    return (frame + rng.randbytes(max(0, size - len(frame))))[:size]


def _header(destination: bytes, tag: int, number: int, ethertype: int) -> bytes:
    return destination + struct.pack(">BBIH", 0x02, tag, number, ethertype)


def mixed(seed: int, tag: int, count: int) -> list[bytes]:
    """`count` distinct frames of 14 to 65,226 bytes, numbered from 0: TCP and UDP, ARP, runts and garbage."""
    rng = random.Random(seed)
    return [_frame(rng, tag, number) for number in range(count)]


def small(tag: int, number: int) -> bytes:
    """The one UDP datagram of 60 to 299 bytes that belongs to this number."""
    payload = 46 + number * 7 % 240
    # A multiplicative hash (Knuth, 6.4) in place of a generator, which would be most of what sending takes.
    bits = number * 0x9E3779B97F4A7C15 & 0xFFFF_FFFF_FFFF_FFFF
    source, destination = 0xC6120000 | bits >> 47, 0xC6120000 | bits >> 30 & 0x1FFFF
    ethernet = _NOBODY, 0x02, tag, number, _IPV4
    ip = 0x45, 0, payload, bits >> 16 & 0xFFFF, 0, 64, 17, 0, source, destination
    udp = 1024 + (bits >> 24) % 64_512, 1024 + (bits >> 40) % 64_512, payload - 20, 0
    return _SMALL.pack(*ethernet, *ip, *udp).ljust(_ETHERNET + payload, b".")


def number_of(frame: bytes) -> int:
    """The number that the frame was made with."""
    number: int = struct.unpack_from(">I", frame, 8)[0]
    return number


def tag_of(frame: bytes) -> int | None:
    """The tag that the frame was made with; None when it is not one of ours, but the kernel's own traffic."""
    return frame[7] if len(frame) >= _ETHERNET and frame[6] == 0x02 and frame[:6] in {_NOBODY, _BROADCAST} else None


def ours(frames: Iterable[bytes], tag: int) -> Iterator[int]:
    """The numbers, in order, of those of the frames that were made with this tag."""
    return (number_of(frame) for frame in frames if tag_of(frame) == tag)


def verdict(sent: Sequence[T], found: Sequence[T]) -> str:
    """Empty when both are equal; otherwise how they differ, in one line: pytest would compare megabytes for minutes."""
    if list(found) == list(sent):
        return ""
    missing, spurious, repeated = set(sent) - set(found), set(found) - set(sent), len(found) - len(set(found))
    first = next((at for at, (one, other) in enumerate(zip(sent, found, strict=False)) if one != other), "the end")
    counts = f"{len(missing)} missing, {len(spurious)} spurious or altered, {repeated} repeated"
    return f"sent {len(sent)}, found {len(found)}: {counts}; they part at {first}"


def write_pcap(path: Path, frames: Iterable[bytes]) -> None:
    """Leaves a nanosecond pcap file; its times are of no meaning, since tcpreplay is told the rate."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1))
        for number, frame in enumerate(frames):
            seconds, nanoseconds = divmod(number * 50_000, 1_000_000_000)
            file.write(struct.pack("<IIII", seconds, nanoseconds, len(frame), len(frame)) + frame)
