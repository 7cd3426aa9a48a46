"""The default engine on Linux: an AF_PACKET ring (TPACKET_V3) that outlives whoever reads it.

Invariant: a block is the kernel's, or unread, or read; it is read from the moment when the slot's commit word counts
it, in the same store that counts its packets, and only a read block is given back. So each packet of the ring is in
exactly one slot, whatever moment a reader is killed at:

    killed while copying a block      nothing counts it; the successor copies it again, over the same bytes
    killed between commit and release the successor's commit word counts it: release_read() gives it back unread
    killed between two releases       likewise, for the rest of them

Blocks are numbered by the kernel from 1 in the order in which it opens them (af_packet.c, prb_open_block), and it opens
them in a circle: so block n lies at (n - 1) mod count, and a reader needs to remember nothing but how many it has read.

Python runs once for a run of blocks, the loop over packets is native. It is the kernel's own ring, so packets cost no
system call, and what no reader has room for is counted in tp_drops, exactly and at no cost.
"""

from __future__ import annotations

import math
import os
import socket
import struct
import time
from typing import Final

from ossensor.errors import InterfaceGoneError, PrivilegeError
from ossensor.interfaces import Interface
from ossensor.mapping import Mapping

from . import _native, bpf
from .engine import Grown, Sink, Tuning
from .hardware import LINKTYPE_ETHERNET, hardware_type, maybe_linktype

_SOL_PACKET: Final = 263
_PACKET_ADD_MEMBERSHIP: Final = 1  # linux/if_packet.h
_PACKET_RX_RING: Final = 5
_PACKET_VERSION: Final = 10
_TPACKET_V3: Final = 2
_MR_PROMISC: Final = 1
_ETH_P_ALL: Final = 3
_REQUEST = struct.Struct("7I")  # struct tpacket_req3
_MEMBERSHIP = struct.Struct("iHH8s")  # struct packet_mreq

# The kernel cuts what does not fit a block (tpacket_rcv, max_frame_len): 256 KiB takes every super-frame that a snap
# length of 262,144 lets through but the last few bytes. Larger blocks would make fewer of them, and each carries a
# slow link's packets of one timeout only: 64 in 16 MiB bridge six seconds without a reader.
BLOCK_BYTES: Final = 256 << 10
# Waking Python up costs as much as copying ten thousand small packets (its code and objects have left the caches), so
# blocks are let to gather, a quarter of the ring. The wait is made of naps that look at the ring in native code, for a
# tenth of that: no longer than what 600 MB/s out of nothing needs to fill the rest of 16 MiB, less in a smaller ring.
# Blocks that come slower than one in all these naps are better waited for by poll().
_NAP_S: Final = 0.02
_NAP_RING_BYTES: Final = 16 << 20
_NAPS: Final = 5
_GATHER: Final = 4  # one of so many parts of the ring
_LATE: Final = 1.1  # a nap that ends just before the block that it waits for takes another nap

# Only divides a block on paper in version 3; the kernel checks that it does.
_FRAME_BYTES: Final = 2048


class RingEngine:
    """See engine.Engine. The supervisor has the socket alone; each worker maps the ring."""

    survives_reader = True
    unit_bytes = BLOCK_BYTES

    def __init__(self, sock: socket.socket, linktype: int, blocks: int, tuning: Tuning) -> None:
        self.socket = sock
        self.linktype = linktype
        self._ring_bytes = blocks * BLOCK_BYTES
        self._nap_s = _NAP_S * min(1.0, self._ring_bytes / _NAP_RING_BYTES)
        self._block_s = math.inf  # how long the kernel takes to fill one, of late
        self._read_at_s = 0.0
        self._recipe = (tuning.snaplen, linktype == LINKTYPE_ETHERNET, tuning.complete_checksums)
        self._ring: memoryview | None = None
        self._next = 0

    @classmethod
    def open(cls, interface: Interface, program: bytes, tuning: Tuning) -> RingEngine:
        kind = hardware_type(interface.name)
        linktype = maybe_linktype(kind)
        if linktype is None:
            raise AssertionError("engine.chosen() lets no such interface get here")
        try:
            # Protocol 0: a socket opened for ETH_P_ALL queues frames of *every* interface until it is bound.
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        except PermissionError as e:
            raise PrivilegeError(f"{interface.name}: CAP_NET_RAW is needed") from e
        try:
            blocks = max(2, tuning.ring_bytes // BLOCK_BYTES)
            _prepare(sock, interface, program, blocks, tuning.timeout_ms)
        except BaseException:
            sock.close()
            raise
        return cls(sock, linktype, blocks, tuning)

    @classmethod
    def inherited(cls, sock: socket.socket, linktype: int, tuning: Tuning) -> RingEngine:
        """On a socket that `open` made in an earlier life of the sensor, with the same `ring_bytes`. Raises OSError.

        A ring of another size cannot be mapped (af_packet.c, packet_mmap: EINVAL), so that is tried.
        """
        engine = cls(sock, linktype, max(2, tuning.ring_bytes // BLOCK_BYTES), tuning)
        engine._map().release()
        return engine

    def fileno(self) -> int:
        return self.socket.fileno()

    def resume(self, consumed_blocks: int) -> None:
        self._ring = self._map()
        self._next = consumed_blocks + 1
        _native.release_read(self._ring, BLOCK_BYTES, self._next)

    def _map(self) -> memoryview:
        # Not by Python's mmap, which keeps a duplicate of the descriptor: a worker may make none (confine/policy.py).
        return Mapping(self.socket.fileno(), self._ring_bytes).view

    def read(self, sink: Sink, at_most: int) -> int:  # noqa: ARG002  blocks are read whole, and all of them
        ring, moved = self._ring, 0
        if ring is None:
            raise AssertionError("resume() comes first")
        # All that is there, once round at most: stopping earlier would have the pause come before the ring is empty.
        # Looked at before a slot is begun: most wake-ups of a silent interface find nothing.
        first, last = self._next, self._next + self._ring_bytes // BLOCK_BYTES
        while self._next < last and _native.ready(ring, BLOCK_BYTES, self._next):
            place = sink.place()
            if place is None:
                break
            blocks, packets, used, first_ns, last_ns, full = _native.copy(
                ring, BLOCK_BYTES, self._next, *place, *self._recipe
            )
            if blocks:
                sink.grown(Grown(used, packets, blocks, first_ns, last_ns))
                # Killed here: see the module.
                _native.release(ring, BLOCK_BYTES, self._next, blocks)
                self._next += blocks
                moved += packets
            if full:
                sink.publish()
        if moved:
            self._measure(self._next - first)
        return moved

    def _measure(self, blocks: int) -> None:
        now_s = time.monotonic()
        self._block_s = (now_s - self._read_at_s) / blocks
        self._read_at_s = now_s

    def gather(self, at_most_s: float) -> None:
        enough = max(1, self._ring_bytes // BLOCK_BYTES // _GATHER)
        nap_s = min(self._nap_s, at_most_s / _NAPS, _LATE * enough * self._block_s)
        if self._ring is not None and self._block_s < _NAPS * nap_s:
            _native.gather(self._ring, BLOCK_BYTES, self._next + enough - 1, nap_s, _NAPS)

    def maybe_trouble(self) -> str | None:
        # ENETDOWN is told once, for an interface that goes down and for one that goes away alike; netlink tells which.
        errno = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        return os.strerror(errno) if errno else None

    def maybe_unread(self, consumed_blocks: int) -> int | None:
        with self._map() as ring:
            return _native.unread(ring, BLOCK_BYTES, consumed_blocks + 1)

    def lend(self) -> None:
        """Nothing: the socket is what the supervisor keeps, and a successor's way to the ring."""


def _prepare(sock: socket.socket, interface: Interface, program: bytes, blocks: int, timeout_ms: int) -> None:
    """Version, ring and filter, then the binding: no packet comes before all of them are there."""
    sock.setsockopt(_SOL_PACKET, _PACKET_VERSION, _TPACKET_V3)
    frames = blocks * (BLOCK_BYTES // _FRAME_BYTES)
    request = _REQUEST.pack(BLOCK_BYTES, blocks, _FRAME_BYTES, frames, timeout_ms, 0, 0)
    bpf.set_option(sock, _SOL_PACKET, _PACKET_RX_RING, request)
    bpf.attach(sock, program)
    if interface.loopback:
        bpf.ignore_outgoing(sock)
    try:
        sock.bind((interface.name, _ETH_P_ALL))
        # Bound by name, chosen by index: a rename in between would show us another interface's packets.
        if bpf.bound_index(sock) != interface.index:
            raise InterfaceGoneError(f"{interface.name} is another interface now")
        if not interface.loopback:
            membership = _MEMBERSHIP.pack(interface.index, _MR_PROMISC, 0, b"")
            bpf.set_option(sock, _SOL_PACKET, _PACKET_ADD_MEMBERSHIP, membership)
    except OSError as e:
        raise InterfaceGoneError(f"{interface.name}: {e.strerror}") from e
