"""The portable engine: pypcap, used in the one way that is safe (non-blocking, polled, dispatched).

Iterating a pypcap handle runs no Python signal handler on a silent interface and never notices a deleted one; blocking
dispatch() holds the GIL. `dispatch` on a non-blocking handle after poll() has neither fault. It still runs Python per
packet, which is why it is not the engine for busy links.

A successor cannot go on reading a dead worker's ring: libpcap keeps its position in its own memory. So with this
engine an epoch ends with its worker, and what was left in the ring is counted as worker_died.
"""

from __future__ import annotations

import os
import socket
import time

import pcap

from ossensor import pcapng
from ossensor.errors import InterfaceGoneError, PrivilegeError
from ossensor.interfaces import Interface

from . import bpf
from .bpf import SNAPLEN_BYTES
from .engine import Sink, Tuning
from .hardware import linktype_of_dlt


class PypcapEngine:
    """See engine.Engine. Closed by the end of its process: pypcap's close() must not run twice, nor after fork."""

    survives_reader = False

    def __init__(self, handle: pcap.pcap, strays: int, shut_ns: int, snaplen: int) -> None:
        self._handle = handle
        self._strays = strays
        self._shut_ns = shut_ns
        self._snaplen = snaplen
        self.socket = socket.socket(fileno=os.dup(handle.fileno()))
        self.linktype = linktype_of_dlt(int(handle.datalink()))
        self.unit_bytes = pcapng.largest_block(snaplen)

    @classmethod
    def open(cls, interface: Interface, program: bytes, tuning: Tuning) -> PypcapEngine:
        # pcap_create("eth0") would read a file called eth0 in the working directory first; the supervisor runs in "/".
        try:
            handle = pcap.pcap(
                name=interface.name,
                snaplen=SNAPLEN_BYTES,
                promisc=not interface.loopback,
                timeout_ms=tuning.timeout_ms,
                timestamp_in_ns=True,
                buffer_size=tuning.ring_bytes,
            )
        except OSError as e:
            reason = e.args[0].decode("utf-8", "replace") if e.args and isinstance(e.args[0], bytes) else str(e)
            if "ermission" in reason or "not permitted" in reason:
                raise PrivilegeError(f"{interface.name}: {reason}: CAP_NET_RAW is needed") from e
            raise InterfaceGoneError(f"{interface.name}: {reason}") from e
        handle.setnonblock()
        with socket.socket(fileno=os.dup(handle.fileno())) as sock:
            # Opened by name, chosen by index: a rename in between would show us another interface's packets.
            if bpf.bound_index(sock) != interface.index:
                handle.close()
                raise InterfaceGoneError(f"{interface.name} is another interface now")
            if interface.loopback:
                bpf.ignore_outgoing(sock)
            # pypcap activates in its constructor, so a few packets can be in the ring before any filter. Shut the
            # door, and the kernel's count says exactly how many: read() passes over that many, and then opens.
            bpf.attach(sock, bpf.REJECT_ALL)
            shut_ns = time.time_ns()
            strays = bpf.statistics(sock)
            bpf.attach(sock, program)
        return cls(handle, strays.received - strays.dropped, shut_ns, tuning.snaplen)

    def fileno(self) -> int:
        return int(self._handle.fileno())

    def resume(self, consumed_blocks: int) -> None:
        """Nothing: an epoch has one reader."""

    def read(self, sink: Sink, at_most: int) -> int:
        moved, snaplen = 0, self._snaplen
        at_most = min(at_most, sink.room())
        if not at_most:
            return 0  # to dispatch(), 0 means: all that there are

        def on_packet(ts_ns: int, packet: bytes) -> None:
            nonlocal moved
            if self._strays:
                # On loopback the kernel counts both crossings and libpcap shows one: the time says where strays end.
                self._strays = self._strays - 1 if ts_ns <= self._shut_ns else 0
                if ts_ns <= self._shut_ns:
                    return
            # pypcap does not tell the original length; so the kernel keeps packets whole, and they are cut here.
            sink.add(ts_ns, packet[:snaplen], len(packet))
            moved += 1

        # An exception in the callback does not stop dispatch: it is raised when the call ends.
        if self._handle.dispatch(at_most, on_packet) < 0:
            raise InterfaceGoneError(self._handle.geterr().decode("utf-8", "replace"))
        return moved

    def gather(self, at_most_s: float) -> None:
        """Nothing: packets cost the same one by one."""

    def maybe_trouble(self) -> str | None:
        return None  # dispatch() takes it, and raises what matters

    def maybe_unread(self, consumed_blocks: int) -> int | None:  # noqa: ARG002  libpcap keeps its place to itself
        return None

    def lend(self) -> None:
        # The worker maps the ring still, so the kernel refuses libpcap's request to destroy it (EBUSY); the socket
        # lives on in `self.socket`, and with it ring, filter and promiscuity.
        self._handle.close()
