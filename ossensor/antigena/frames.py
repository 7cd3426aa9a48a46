"""The link layer of a captured frame: found, taken off, and put in front of an answer. Pure; raises for no bytes."""

from __future__ import annotations

from typing import Final, NamedTuple

# libpcap's numbers (pcap-linktype(7)). Linux's loopback has Ethernet's header, with empty addresses.
NULL, ETHERNET, RAW, LINKTYPE_RAW, LOOP, COOKED, COOKED_2 = 0, 1, 12, 101, 108, 113, 276

# How much of a frame a handle must keep: 14 bytes of Ethernet with two tags, IP with every option, 60 bytes, and TCP's
# 20. IPv6 may put more before the transport header, whence the generous rest.
SNAPLEN_BYTES: Final = 512

_IPV4, _IPV6 = 0x0800, 0x86DD
_TAGS: Final = frozenset({0x8100, 0x88A8, 0x9100})  # IEEE 802.1Q, 802.1ad, and what QinQ used before that
_MAX_TAGS: Final = 2  # QinQ: no switch sends more
# Where the ethertype lies, and where the link's header ends without tags.
_TYPED: Final = {ETHERNET: (12, 14), COOKED: (14, 16), COOKED_2: (0, 20)}
# Headers of a fixed length after which the IP version says what follows.
_BARE: Final = {RAW: 0, LINKTYPE_RAW: 0, NULL: 4, LOOP: 4}


class Frame(NamedTuple):
    """An IP packet and what stood before it. `link` is empty where an answer cannot be framed the same way."""

    link: bytes
    version: int
    ip: bytes


def maybe_frame(data: bytes, linktype: int) -> Frame | None:
    """The IP packet in a frame; None for one that carries no IP, or is cut before it."""
    link = 0
    if linktype in _BARE:
        link = _BARE[linktype]
        kind = None
    elif linktype in _TYPED:
        at, link = _TYPED[linktype]
        kind = int.from_bytes(data[at : at + 2])
        for _ in range(_MAX_TAGS):
            if kind not in _TAGS:
                break
            # A tag is its number, which the type before announced, and the type of what follows.
            kind = int.from_bytes(data[link + 2 : link + 4])
            link += 4
    else:
        return None
    if len(data) <= link:
        return None
    version = data[link] >> 4
    if version not in {4, 6} or kind not in {None, _IPV4 if version == 4 else _IPV6}:
        return None
    return Frame(data[:link] if linktype == ETHERNET else b"", version, data[link:])


def framed(link: bytes, packet: bytes, *, back: bool) -> bytes:
    """The packet behind an Ethernet header with the same tags, in the frame's direction or `back` to its sender."""
    return (link[6:12] + link[:6] + link[12:] if back else link) + packet
