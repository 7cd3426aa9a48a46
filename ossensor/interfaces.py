"""Which interfaces there are, and which of them are captured and why.

The rules are pure: an interface and the set of default-route interfaces in, a decision out. Enumeration is a thin
shell over the kernel's answers, for the network namespace of this process. Invariant: every decision names the one
rule that made it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from .ere import Ere
from .values import DEFAULT_ROUTE
from .variables import DEVICE, EXCLUDE, INCLUDE

_SIOCGIFFLAGS: Final = 0x8913  # linux/sockios.h
_IFF_UP: Final = 0x1  # linux/if.h
_IFF_LOOPBACK: Final = 0x8
_RTF_UP: Final = 0x1  # linux/route.h
_RTF_REJECT: Final = 0x200
_IFREQ = struct.Struct("16sH22x")


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface as the kernel showed it a moment ago. The index is its identity; a name can be given anew."""

    name: str
    index: int
    loopback: bool
    up: bool


class Decision(NamedTuple):
    """Whether an interface is captured, and the rule that says so."""

    captured: bool
    why: str


class InterfaceSettings(Protocol):
    """What rules are made from: Settings, or the part of them that `ossensor interfaces` needs."""

    @property
    def network_device(self) -> tuple[str, ...] | None: ...
    @property
    def exclude(self) -> tuple[str, ...]: ...
    @property
    def include(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class Rules:
    """OSSENSOR_NETWORK_DEVICE and the two lists. Raises PatternError for a pattern that libc does not take."""

    device: tuple[str, ...] | None = None
    exclude: tuple[Ere, ...] = ()
    include: tuple[Ere, ...] = ()

    @classmethod
    def of(cls, device: Sequence[str] | None = None, exclude: Iterable[str] = (), include: Iterable[str] = ()) -> Rules:
        return cls(tuple(device) if device else None, tuple(map(Ere, exclude)), tuple(map(Ere, include)))

    @classmethod
    def from_settings(cls, settings: InterfaceSettings) -> Rules:
        return cls.of(settings.network_device, settings.exclude, settings.include)

    def decide(self, interface: Interface, default_routes: AbstractSet[str]) -> Decision:
        """Whether the interface is captured. It has to pass every rule; the first that it fails is the reason.

        Loopback needs somebody who meant it: its traffic is mostly the application talking to itself. A name in
        OSSENSOR_NETWORK_DEVICE or a pattern of the include list is such a somebody; `everything` and a default route
        are not.
        """
        included_by = _first(self.include, interface.name)
        refusal = self._refusal(interface, included_by, default_routes)
        if refusal is not None:
            return Decision(captured=False, why=refusal)
        if included_by is not None:
            return Decision(captured=True, why=f'matches {INCLUDE} pattern "{included_by}"')
        if self.device is None:
            return Decision(captured=True, why="no rule leaves it out")
        if self.device == DEFAULT_ROUTE:
            return Decision(captured=True, why=f"has a default route ({DEVICE}=default)")
        return Decision(captured=True, why=f"is named by {DEVICE}")

    def _refusal(self, interface: Interface, included_by: str | None, default_routes: AbstractSet[str]) -> str | None:
        excluded_by = _first(self.exclude, interface.name)
        if excluded_by is not None:
            return f'matches {EXCLUDE} pattern "{excluded_by}"'
        named = self.device is not None and self.device != DEFAULT_ROUTE
        if named and interface.name not in (self.device or ()):
            return f"is not named by {DEVICE}"
        if self.device == DEFAULT_ROUTE and interface.name not in default_routes:
            return f"has no default route ({DEVICE}=default)"
        if self.include and included_by is None:
            return f"matches no {INCLUDE} pattern"
        if interface.loopback and not named and included_by is None:
            return f"is loopback, which only a name in {DEVICE} or a pattern of {INCLUDE} chooses"
        return None


def _first(patterns: Iterable[Ere], name: str) -> str | None:
    return next((p.pattern for p in patterns if p.search(name)), None)


def enumerate_interfaces() -> list[Interface]:
    """Every interface of this network namespace, by index; one that vanishes meanwhile is left out."""
    found = []
    # netdevice(7): these requests work on any socket; it is only the way into the namespace.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for index, name in socket.if_nameindex():
            flags = _maybe_flags(sock, name)
            if flags is not None:
                found.append(Interface(name, index, bool(flags & _IFF_LOOPBACK), bool(flags & _IFF_UP)))
    return sorted(found, key=lambda interface: interface.index)


def _maybe_flags(sock: socket.socket, name: str) -> int | None:
    """The interface's flags; None when there is none of that name any more.

    The kernel is asked twice, by listing and by name. If another interface took the name in between, its flags go with
    the old index; the link event that this caused makes the supervisor look again.
    """
    try:
        answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, _IFREQ.pack(os.fsencode(name), 0))
    except OSError as e:
        if e.errno in {errno.ENODEV, errno.ENXIO}:
            return None
        raise
    return int(_IFREQ.unpack(answer)[1])


def default_route_interfaces() -> set[str]:
    """Names of the interfaces that default routes of IPv4 and IPv6 leave by, without loopback.

    Of the main table: policy routing is for the operator to spell out. /proc shows the first next hop only of an IPv4
    route with several.
    """
    names = _of_ipv4(_proc("route")) | _of_ipv6(_proc("ipv6_route"))
    return names - {interface.name for interface in enumerate_interfaces() if interface.loopback}


def _proc(name: str) -> bytes:
    # thread-self rather than /proc/net: the latter answers for the main thread's namespace (proc_pid_net(5)). A kernel
    # without IPv6 has no such file.
    try:
        return Path("/proc/thread-self/net", name).read_bytes()
    except FileNotFoundError:
        return b""


# Bytes below: the kernel's idea of white space is ASCII's, and a name may hold what Python takes for a line's end.


def _of_ipv4(table: bytes) -> set[str]:
    """Columns of /proc/net/route: Iface Destination Gateway Flags RefCnt Use Metric Mask ..., numbers in hex."""
    rows = [line.split() for line in table.split(b"\n")[1:]]
    return {os.fsdecode(row[0]) for row in rows if len(row) > 7 and _is_default(row[1], row[7], row[3])}


def _of_ipv6(table: bytes) -> set[str]:
    """Columns of /proc/net/ipv6_route: destination length source length gateway metric refcnt use flags Iface."""
    rows = [line.split() for line in table.split(b"\n")]
    return {os.fsdecode(row[9]) for row in rows if len(row) > 9 and _is_default(row[0], row[1], row[8])}


def _is_default(destination: bytes, mask: bytes, flags: bytes) -> bool:
    """True for a route to everywhere that is up and is not there to refuse."""
    return int(destination, 16) == int(mask, 16) == 0 and int(flags, 16) & (_RTF_UP | _RTF_REJECT) == _RTF_UP
