"""What kind of link an interface is, which decides how its packets begin and what libpcap compiles for it."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from typing import Final

_SIOCGIFHWADDR: Final = 0x8927  # linux/sockios.h

# Values of pcapng's LinkType, which differ from libpcap's DLT_ for raw IP (12 on Linux).
LINKTYPE_ETHERNET: Final = 1
LINKTYPE_RAW: Final = 101
_DLT_RAW: Final = 12

# linux/if_arp.h. What libpcap's map_arphrd_to_dlt reads as Ethernet (loopback has its header, with empty addresses)
# and as bare IP (tun devices, and cellular ones).
_ETHER, _LOOPBACK = 1, 772
_RAWIP, _NONE = 519, 0xFFFE
_LINKTYPES: Final = {
    _ETHER: LINKTYPE_ETHERNET,
    _LOOPBACK: LINKTYPE_ETHERNET,
    _NONE: LINKTYPE_RAW,
    _RAWIP: LINKTYPE_RAW,
}


def hardware_type(interface: str) -> int:
    """The interface's ARPHRD_ number. OSError when it is gone, or has a name by which it cannot be opened.

    A live rename can give it any bytes; socket.bind() and pypcap take UTF-8.
    """
    try:
        name = interface.encode()
    except UnicodeEncodeError:
        raise OSError(errno.EILSEQ, "its name is not UTF-8") from None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        answer = fcntl.ioctl(sock, _SIOCGIFHWADDR, struct.pack("16s24x", name[:15]))
    (kind,) = struct.unpack_from("H", answer, 16)
    return int(kind)


def ethernet_framed(kind: int) -> bool:
    return maybe_linktype(kind) == LINKTYPE_ETHERNET


def maybe_linktype(kind: int) -> int | None:
    """How packets of such an interface begin on a packet socket; None for what needs libpcap's cooked mode."""
    return _LINKTYPES.get(kind)


def linktype_of_dlt(dlt: int) -> int:
    """The number for a file of what libpcap calls `dlt` in a program."""
    return LINKTYPE_RAW if dlt == _DLT_RAW else dlt
