"""The effective filter of this moment, compiled: the supervisor's one place to ask what may pass.

Invariant: a change (other addresses, another user filter) is taken whole or not at all: it is compiled for every
hardware type in use before anything is replaced.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Iterable
from typing import Final

from ossensor import filters
from ossensor.filters import Flow

from . import bpf

_SIOCGIFHWADDR: Final = 0x8927  # linux/sockios.h


# ARPHRD_ETHER and ARPHRD_LOOPBACK of linux/if_arp.h: what libpcap reads as DLT_EN10MB.
_ETHERNET_FRAMED: Final = {1, 772}


def hardware_type(interface: str) -> int:
    """The interface's ARPHRD_ number, which decides what libpcap compiles for. OSError when it is gone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()[:15]))
    (kind,) = struct.unpack_from("H", answer, 16)
    return int(kind)


class FilterBank:
    """Programs by hardware type, for one user filter and one set of the sensor's own flows."""

    def __init__(self, user: str, *, credential_endpoints: bool, flows: Iterable[Flow] = ()) -> None:
        self.user = user
        self.flows = frozenset(flows)
        self._credential_endpoints = credential_endpoints
        self._programs: dict[int, bytes] = {}

    def program(self, interface: str) -> bytes:
        """The program for this interface. Raises what bpf.compile_on raises."""
        kind = hardware_type(interface)
        if kind not in self._programs:
            expression = filters.effective(
                self.user,
                self.flows,
                credential_endpoints=self._credential_endpoints,
                ethernet=kind in _ETHERNET_FRAMED,
            )
            self._programs[kind] = bpf.compile_on(interface, expression)
        return self._programs[kind]

    def with_flows(self, flows: Iterable[Flow]) -> FilterBank:
        """A bank that leaves out these flows in place of the present ones."""
        return FilterBank(self.user, credential_endpoints=self._credential_endpoints, flows=flows)

    def with_user(self, user: str, *, credential_endpoints: bool) -> FilterBank:
        """A bank for another user filter."""
        return FilterBank(user, credential_endpoints=credential_endpoints, flows=self.flows)
