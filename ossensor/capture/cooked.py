"""Packet sockets that show the network layer of every interface: what Antigena watches with, and what it sends through.

Invariant: a watch socket shows what its filter lets through and nothing else, and one that is asleep costs the host
nothing: it is hooked to no protocol that a packet has, so the kernel does not run its filter over any.

One socket sees all interfaces, also those that appear later, which a process without privilege could not open a handle
on. It is cooked (SOCK_DGRAM, packet(7)): what it gives, and what its filter sees, begins with the IP header whatever
the link layer. pypcap's handles, one an interface, would have a ring each, and would have to be opened ahead for orders
that may never come.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from ossensor.antigena.segments import SEEN_BYTES

from . import bpf

_ETH_P_ALL: Final = 0x0003  # linux/if_ether.h
# Reserved (RFC 1701, IANA's EtherTypes), so no packet has it. Zero does not do: bind(2) takes it for "as before"
# (net/packet/af_packet.c, packet_bind). The kernel looks among such sockets by number; past those of ETH_P_ALL it goes
# one by one.
_NO_PROTOCOL: Final = 0xFFFF
_PACKET_OUTGOING: Final = 4  # linux/if_packet.h
# Programs that may be needed at once: 256 orders of IPv6 take four of 4,096 instructions, or more shorter ones.
WATCHES: Final = 16
# For packets that wait, on each watch that is awake: 2,500 small ones, at 832 bytes each as the kernel counts them [M];
# 500 where net.core.rmem_max is 208 KiB, as it was for long. The kernel doubles the number (socket(7)).
_ROOM_BYTES: Final = 1 << 20

_libc = ctypes.CDLL(None, use_errno=True)


def _hook(sock: socket.socket, protocol: int) -> None:
    """Binds to a protocol on all interfaces. Not socket.bind: that one wants an interface's name.

    Needs no privilege; CAP_NET_RAW was asked for when the socket was made (net/packet/af_packet.c, packet_create).
    """
    address = struct.pack("=HHiHBB8s", socket.AF_PACKET, socket.htons(protocol), 0, 0, 0, 0, b"")  # sockaddr_ll
    if _libc.bind(sock.fileno(), address, len(address)) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))


class Seen(NamedTuple):
    """A packet that a watch let through."""

    interface: str
    outgoing: bool
    packet: bytes  # from the IP header on, SEEN_BYTES at most


class Watch:
    """One watch socket, asleep until it is shown a program."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._awake = False

    def fileno(self) -> int:
        return self._sock.fileno()

    def show(self, program: bytes | None) -> None:
        """Lets through what `program` does from now on; None puts it to sleep, and throws away what waits.

        Raises OSError: ENOMEM on many hosts for 4,096 instructions, which is more than net.core.optmem_max.
        """
        wanted = bpf.REJECT_ALL if program is None else program
        try:
            bpf.attach(self._sock, wanted)
        except OSError:
            # Until it has taken its place, a program counts beside the one before it (net/core/filter.c).
            bpf.attach(self._sock, bpf.REJECT_ALL)
            bpf.attach(self._sock, wanted)
        if self._awake is not (program is not None):
            self._awake = not self._awake
            _hook(self._sock, _ETH_P_ALL if self._awake else _NO_PROTOCOL)
        if program is None:
            for _ in self.read(1 << 20):
                pass

    def read(self, most: int) -> Iterator[Seen]:
        """What waits, so many packets at most."""
        for _ in range(most):
            try:
                packet, (interface, _protocol, kind, *_) = self._sock.recvfrom(SEEN_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except (OSError, UnicodeDecodeError):
                # ENETDOWN: one of the interfaces went down, which is told once and concerns no other. Or the packet
                # came by one whose name CPython cannot give; none that is called so is captured.
                continue
            yield Seen(interface, kind == _PACKET_OUTGOING, packet)

    def statistics(self) -> bpf.Statistics:
        """Since the last call: packets that matched, and those that found no room."""
        return bpf.statistics(self._sock)


@dataclass(frozen=True)
class Sockets:
    """All that an enforcer is lent. Whoever opened them may close them once the enforcer has its copies."""

    watches: tuple[Watch, ...]
    raw4: socket.socket
    raw6: socket.socket | None  # None: this host has no IPv6
    _owned: tuple[socket.socket, ...]

    @property
    def descriptors(self) -> tuple[int, ...]:
        return tuple(sock.fileno() for sock in self._owned)

    def send(self, packet: bytes, destination: str, scope: int = 0) -> None:
        """Sends a whole IP packet by the host's own routes, the host itself included. Raises OSError.

        The kernel takes the source address as it stands (raw(7), IP_HDRINCL, which IPPROTO_RAW implies) and no reverse
        path filter meets what is sent to the host itself: such a packet has its route already.
        """
        if ":" not in destination:
            self.raw4.sendto(packet, (destination, 0))
        elif self.raw6 is None:  # this host has no IPv6, and yet saw some
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        else:
            self.raw6.sendto(packet, (destination, 0, 0, scope))

    def close(self) -> None:
        for sock in self._owned:
            sock.close()


def open_sockets() -> Sockets:
    """Needs CAP_NET_RAW, which what is opened does not need any more. Raises OSError."""
    with contextlib.ExitStack() as opened:
        watches = []
        for _ in range(WATCHES):
            # Protocol 0: hooked to nothing before there is a filter.
            sock = opened.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0))
            bpf.attach(sock, bpf.REJECT_ALL)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _ROOM_BYTES)
            watches.append(sock)
        raw4 = opened.enter_context(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
        raw6 = None
        with contextlib.suppress(OSError):  # EAFNOSUPPORT
            raw6 = opened.enter_context(socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW))
        owned = (*watches, raw4, *(() if raw6 is None else (raw6,)))
        for sock in owned:
            sock.setblocking(False)
        opened.pop_all()
    return Sockets(tuple(map(Watch, watches)), raw4, raw6, owned)
