"""A doorbell for changes of network interfaces (rtnetlink(7), group RTMGRP_LINK).

Messages are not read, only heard: after any of them, and after an overflow of the socket (ENOBUFS, some were lost), the
interfaces are enumerated again and compared by index. What a message said may be history by the time it is read.
"""

from __future__ import annotations

import socket
from typing import Final

_RTMGRP_LINK: Final = 1
# Default routes decide what `OSSENSOR_NETWORK_DEVICE=default` means (linux/rtnetlink.h).
_RTMGRP_IPV4_ROUTE: Final = 0x40
_RTMGRP_IPV6_ROUTE: Final = 0x400


class Doorbell:
    """Readable when interfaces or routes may have changed."""

    def __init__(self) -> None:
        self._sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        self._sock.setblocking(False)
        self._sock.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE))

    def fileno(self) -> int:
        return self._sock.fileno()

    def silence(self) -> None:
        """Empties the socket. To be called before enumerating, so that a change during it rings again."""
        while True:
            try:
                self._sock.recv(65536)
            except BlockingIOError:
                return
            except OSError:
                continue  # ENOBUFS: messages were lost, which is one more reason to enumerate
