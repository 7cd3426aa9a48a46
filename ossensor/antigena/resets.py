"""What ends the connection of a segment that was seen: one packet to each of its ends. Pure.

TCP, to the segment's *sender*: what a host without that connection would answer (RFC 9293 section 3.10.7.1). With an
ACK in the segment the reset's sequence number is SEG.ACK, which is the sender's own RCV.NXT, the one number that RFC
5961 section 3.2 accepts; without one (a SYN) it is a reset that acknowledges the SYN, which SYN-SENT accepts.

TCP, to its *receiver*: the reset follows the segment, with SEG.SEQ + SEG.LEN, which is the receiver's RCV.NXT when it
has taken the segment. When something is lost or overtakes, the reset lies beside that. Within the window, the receiver
answers with a challenge ACK, itself a segment that we see, and the answer to its sender is exact; outside, it waits for
the next segment. So one reset to each end for each segment is enough, and guessing more sequence numbers, as some tools
do, would only send more packets.

UDP: ICMP's port unreachable (RFC 792, RFC 1122 section 4.1.3.3, RFC 4443 section 3.1). To the sender it quotes the
datagram; to the receiver, whose datagrams we may not have seen, one as it would send it back.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple, TypeAlias

from . import packets
from .actions import Address
from .segments import ACK, RST, Segment

Receiver: TypeAlias = Literal["source", "destination"]


class Answer(NamedTuple):
    """An IP packet for one end of the segment's connection."""

    to: Receiver
    packet: bytes
    sequence: int  # 0 for UDP


def answerable(segment: Segment) -> bool:
    """False where the RFCs forbid an answer: to a reset, and where an address is not that of one host."""
    if segment.flags & RST:
        return False  # RFC 9293 section 3.10.7.1: or two of us would answer each other for ever
    return all(_one_host(end.address) for end in (segment.source, segment.destination))


class Ahead(NamedTuple):
    """Beyond a segment: so many steps more, of so many bytes in what each end expects."""

    steps: int = 0
    to_source: int = 1
    to_destination: int = 1


_AT_THE_SEGMENT: Final = Ahead()


def answers(segment: Segment, ahead: Ahead = _AT_THE_SEGMENT) -> list[Answer]:
    """Packets to the sender and the receiver of an answerable segment: one each, and one more for each step ahead."""
    source, destination = segment.source, segment.destination
    if segment.protocol == "udp":
        back = packets.udp(destination, source)
        return [
            Answer("source", packets.port_unreachable(destination.address, source.address, segment.ip), 0),
            Answer("destination", packets.port_unreachable(source.address, destination.address, back), 0),
        ]
    if segment.flags & ACK:
        found = []
        for step in range(ahead.steps + 1):
            at_source = segment.acknowledgment + step * ahead.to_source & 0xFFFFFFFF
            at_destination = segment.after + step * ahead.to_destination & 0xFFFFFFFF
            # With the ACK, because a receiver that is still in SYN-SENT (the segment is its SYN's answer) wants one.
            to_destination = packets.tcp(source, destination, at_destination, segment.acknowledgment, RST | ACK)
            found += [
                Answer("source", packets.tcp(destination, source, at_source, 0, RST), at_source),
                Answer("destination", to_destination, at_destination),
            ]
        return found
    to_source = packets.tcp(destination, source, 0, segment.after, RST | ACK)
    to_destination = packets.tcp(source, destination, segment.after, 0, RST)
    return [Answer("source", to_source, 0), Answer("destination", to_destination, segment.after)]


def questions(segment: Segment) -> tuple[Answer, Answer]:
    """To each end of a connection, of which this was the last segment with an ACK, what it answers whatever its state.

    A keep-alive (RFC 9293 section 3.8.4): a segment just before what is expected, without payload. An end that still
    has the connection acknowledges it; one that has not answers with a reset, which the other end gets, too.
    """
    before_source, before_destination = (n - 1 & 0xFFFFFFFF for n in (segment.acknowledgment, segment.after))
    source, destination = segment.source, segment.destination
    to_source = packets.tcp(destination, source, before_source, segment.after, ACK)
    to_destination = packets.tcp(source, destination, before_destination, segment.acknowledgment, ACK)
    return Answer("source", to_source, before_source), Answer("destination", to_destination, before_destination)


def _one_host(address: Address) -> bool:
    """RFC 1122 section 3.2.2 and RFC 4443 section 2.4(e): no answer concerning a broadcast, multicast or no address.

    The broadcast address of a subnet cannot be told from here; a program never gets a datagram's error from there.
    """
    first = address.packed[0]
    if address.version == 4:
        return 0 < first < 224  # "this network" below, multicast, class E and broadcast above
    return first != 0xFF and any(address.packed)
