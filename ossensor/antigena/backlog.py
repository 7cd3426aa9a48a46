"""Which of the packets that wait are worth an answer: of the segments of one sender, the newest. Pure.

A reset is believed by its sequence number, and the newest segment tells the one that is right. Two programs that answer
each other without a pause send tens of thousands of segments a second, more than are answered: taken in order, each
answer would be later than the one before it, and all of them beside the window for ever.

Segments that open or end a connection are kept, whatever came after: who opened it, and that it is over, is in them. So
are datagrams, fragments, and what has options or extension headers before TCP, where this does not look.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .segments import FIN, RST, SYN

_TCP: Final = 6
_TURNS: Final = FIN | SYN | RST


def newest(packets: Sequence[bytes]) -> list[int]:
    """The places of those that are worth an answer, in their order."""
    last: dict[bytes, int] = {}
    kept = []
    for place, packet in enumerate(packets):
        sender = _sender(packet)
        if sender is None:
            kept.append(place)
        else:
            last[sender] = place
    return sorted([*kept, *last.values()])


def _sender(packet: bytes) -> bytes | None:
    """One direction of a connection: both addresses and both ports, for a segment that a later one may stand for."""
    if len(packet) >= 40 and packet[0] == 0x45 and packet[9] == _TCP:
        whole = not (packet[6] & 0x3F or packet[7])  # no fragment, neither the first nor a later one
        return packet[12:24] if whole and not packet[33] & _TURNS else None
    if len(packet) >= 60 and packet[0] >> 4 == 6 and packet[6] == _TCP:
        return packet[8:44] if not packet[53] & _TURNS else None
    return None
