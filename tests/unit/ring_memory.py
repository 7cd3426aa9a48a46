"""A ring as the kernel would have filled it, in memory of the test's own."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from ossensor.capture.ring_engine import BLOCK_BYTES

USER, CSUM_NOT_READY, VLAN, TPID = 1, 1 << 3, 1 << 4, 1 << 6
MAC_AT = 82


@dataclass(frozen=True)
class Frame:
    """One packet in a block; `original` is its length on the wire if it was cut."""

    data: bytes
    ts_ns: int = 1_700_000_000_123_456_789
    status: int = USER
    original: int | None = None
    tci: int = 0
    tpid: int = 0


def put_block(ring: mmap.mmap | bytearray, at: int, sequence: int, frames: Sequence[Frame], status: int = USER) -> None:
    """struct tpacket_block_desc and a chain of struct tpacket3_hdr (linux/if_packet.h)."""
    where = at + 48
    for frame in frames:
        stride = (MAC_AT + len(frame.data) + 7) & ~7
        seconds, nanoseconds = divmod(frame.ts_ns, 1_000_000_000)
        original = len(frame.data) if frame.original is None else frame.original
        head = struct.pack(
            "=IIIIIIHHIIH",
            stride, seconds, nanoseconds, len(frame.data), original, frame.status, MAC_AT, 96, 0, frame.tci, frame.tpid,
        )  # fmt: skip
        ring[where : where + len(head)] = head
        ring[where + MAC_AT : where + MAC_AT + len(frame.data)] = frame.data
        where += stride
    ring[at : at + 48] = struct.pack("=IIIIIIQIIII", 3, 48, status, len(frames), 48, where - at, sequence, 0, 0, 0, 0)


def ring_of(blocks: Sequence[Sequence[Frame]]) -> int:
    """A descriptor of memory whose blocks have sequences from 1 on, all handed over."""
    fd = os.memfd_create("ring")
    os.ftruncate(fd, BLOCK_BYTES * len(blocks))
    with mmap.mmap(fd, 0) as ring:
        for n, frames in enumerate(blocks):
            put_block(ring, n * BLOCK_BYTES, n + 1, frames)
    return fd
