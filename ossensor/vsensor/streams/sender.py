"""The sockets that VXLAN datagrams leave by. What the network does not take is counted, and not tried again."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from . import vxlan
from .books import Books, Count
from .live import ETHERNET, Frame

# linux/in.h and linux/in6.h; Python's socket does not name them.
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER = 10, 23
_PMTUDISC_DONT, _PMTUDISC_DO = 0, 2
# A full queue of a network card empties in milliseconds; one that has not by then is not ours to wait for.
_PATIENCE_MS: Final = 50
# A section's worth, so that a burst does not wait for the card packet by packet.
_SNDBUF_BYTES: Final = 4 << 20
_ETHERNET_BYTES: Final = 14


def open_lanes(address: tuple[str, int], *, fragment: bool) -> list[socket.socket]:
    """Sockets for the datagrams, one for each source port. Raises OSError when there is no such family here.

    Not connected: a detector listens to the wire and has no socket, so its kernel answers "port unreachable", and a
    connected socket would be told by failing sends. Made before the fork: a successor goes on with the same ports.
    """
    six = ":" in address[0]
    level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if six else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
    lanes = []
    for _ in range(vxlan.LANES):
        lane = socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
        lane.setsockopt(level, option, _PMTUDISC_DONT if fragment else _PMTUDISC_DO)
        lane.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SNDBUF_BYTES)
        lane.setblocking(False)
        lanes.append(lane)
    return lanes


class Sender:
    """Sends frames, each in a datagram of its own, to one address."""

    def __init__(
        self,
        lanes: Sequence[socket.socket],
        address: tuple[str, int],
        vni: int,
        books: Books,
        complain: Callable[[str, str], None],
    ) -> None:
        self._lanes = lanes
        self._address = address
        self._header = vxlan.header(vni)
        self._own = vxlan.Own(*address)
        self._books = books
        self._complain = complain

    def send(self, frames: Sequence[Frame]) -> None:
        """Each frame is counted as sent, or under its reason."""
        counts: Counter[Count] = Counter()
        for frame in frames:
            if frame.linktype != ETHERNET or len(frame.data) < _ETHERNET_BYTES:
                counts[Count.VXLAN_NOT_ETHERNET] += 1
            elif self._own(frame.data):
                counts[Count.VXLAN_OWN] += 1
            else:
                counts[self._send(frame.data)] += 1
        for count, packets in counts.items():
            self._books.add(count, packets)

    def _send(self, frame: memoryview) -> Count:
        lane = self._lanes[vxlan.lane(frame)]
        for _ in range(2):
            try:
                lane.sendto(self._header + frame, self._address)
            except BlockingIOError:
                self._wait(lane)
            except OSError as e:
                return self._failed(e)
            else:
                return Count.VXLAN_SENT
        return Count.VXLAN_NO_ROOM

    def _failed(self, error: OSError) -> Count:
        if error.errno == errno.EMSGSIZE:
            return Count.VXLAN_TOO_LONG
        if error.errno == errno.ENOBUFS:
            return Count.VXLAN_NO_ROOM
        reason = os.strerror(error.errno or 0)
        self._complain("unreachable", f"streams: cannot send VXLAN to {self._address[0]}: {reason}")
        return Count.VXLAN_UNREACHABLE

    @staticmethod
    def _wait(lane: socket.socket) -> None:
        poll = select.poll()
        poll.register(lane, select.POLLOUT)
        poll.poll(_PATIENCE_MS)
