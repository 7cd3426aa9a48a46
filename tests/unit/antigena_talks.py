"""Packets of connections for the tests of what is done about them; by hand, because scapy takes a millisecond."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import NamedTuple

from ossensor.antigena.checksums import checksum
from ossensor.antigena.segments import Segment, maybe_segment

FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, "A": 16}


class Talk(NamedTuple):
    """A connection: who opened it, with whom."""

    here: str = "10.0.0.1"
    here_port: int = 50_000
    there: str = "192.0.2.7"
    there_port: int = 443
    protocol: str = "tcp"

    @property
    def back(self) -> Talk:
        return Talk(self.there, self.there_port, self.here, self.here_port, self.protocol)

    def packet(
        self, flags: str = "PA", sequence: int = 1000, acknowledgment: int = 7000, payload: int = 10, window: int = 0
    ) -> bytes:
        """One from here to there, from IP on."""
        if self.protocol == "udp":
            number, data = 17, struct.pack("!HHHH", self.here_port, self.there_port, 8 + payload, 0)
        else:
            bits = sum(FLAGS[flag] for flag in flags)
            fields = (self.here_port, self.there_port, sequence, acknowledgment, 5 << 4, bits, window, 0, 0)
            number, data = 6, struct.pack("!HHIIBBHHH", *fields)
        data += bytes(payload)
        here, there = ip_address(self.here), ip_address(self.there)
        if here.version == 6:
            head = struct.pack("!IHBB", 6 << 28, len(data), number, 64) + here.packed + there.packed
            return head + data
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 0, 0, 64, number, 0) + here.packed + there.packed
        return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data

    def segment(self, flags: str = "PA", payload: int = 10, window: int = 0) -> Segment:
        found = maybe_segment(self.packet(flags, payload=payload, window=window))
        assert found is not None
        return found
