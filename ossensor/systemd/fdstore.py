"""The manager's descriptor store (sd_notify(3), sd_listen_fds(3)): what it keeps for the next process of this service.

Descriptors go and come in groups of one name: a group is sent in one datagram, so it is kept whole or not at all. A
name is used once, and forgotten before what it names is closed.

Only where $FDSTORE says that there is a store, which systemd 254 sets, and our unit for those before: a group that
nobody keeps would be a capture that nobody shuts.
"""

from __future__ import annotations

import array
import fcntl
import secrets
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Final

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START


class Store:
    """Keeps groups for the next process, as many as there is room for."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        address, most = environ.get("NOTIFY_SOCKET", ""), environ.get("FDSTORE", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usable = address[:1] in {"/", "@"} and most.isascii() and most.isdigit()
        self._most = int(most) if usable else 0
        self._kept: dict[str, int] = {}

    def kept_before(self, name: str, count: int) -> None:
        """A group that came from the store is still in it; where nothing is to be kept any more, it is not for long."""
        self._kept[name] = count
        if not self._most:
            self.forget(name)

    def holds(self, name: str) -> bool:
        return name in self._kept

    def keep(self, prefix: str, fds: Iterable[int]) -> str:
        """The name of the new group; empty when there is no store, or no room in it."""
        descriptors = array.array("i", fds)
        if sum(self._kept.values()) + len(descriptors) > self._most:
            return ""
        name = f"{prefix}-{secrets.token_hex(6)}"
        # FDPOLL=0: or the manager would let go of a socket when its interface goes down (POLLERR).
        if not self._tell(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", descriptors):
            return ""
        self._kept[name] = len(descriptors)
        return name

    def forget(self, name: str) -> None:
        """Has the manager close its copies."""
        if self._kept.pop(name, None) is not None:
            self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _tell(self, message: str, descriptors: array.array[int] | None = None) -> bool:
        beside = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
        # It blocks, for a while: to be kept or not is the difference between a hand-over and a loss.
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
                to.settimeout(1.0)
                to.sendmsg([message.encode()], beside, 0, self._address)
        except OSError:
            return False
        return True


def passed(environ: Mapping[str, str], pid: int) -> dict[str, list[int]]:
    """The groups that the manager gives back, by name. Empty for a process that they are not meant for."""
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not (count.isascii() and count.isdigit()):
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    groups: dict[str, list[int]] = {}
    for number in range(int(count)):
        fd = _FIRST_FD + number
        with suppress(OSError):  # one that is not there
            fcntl.fcntl(fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
            groups.setdefault(names[number] if number < len(names) else "unknown", []).append(fd)
    return groups
