"""What the service manager is told: sd_notify(3), a datagram a time. Nothing, where there is no manager that listens.

Telling never waits: the socket does not block, and what the manager does not take is told again or not missed. A
manager that hears no watchdog message for WatchdogSec ends the supervisor, so these come from its loop alone: they
say that it turns, and it in turn watches its children (spawn.py).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

# Of the watchdog's time: systemd advises half (sd_watchdog_enabled(3)); a tick that comes late must not be fatal.
_SHARE: Final = 4
_LONGEST_STATUS: Final = 500


class Manager:
    """The manager that started this process, by its environment; `pid` is this process's."""

    def __init__(self, environ: Mapping[str, str], pid: int) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self.listens = address[:1] in {"/", "@"}  # vsock: is for machines that tell their host
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = environ.get("WATCHDOG_USEC", "")
        # Set for the service's main process; a child of it that inherited the variable is not meant.
        ours = environ.get("WATCHDOG_PID", str(pid)) == str(pid)
        self._every_s = int(usec) / 1e6 / _SHARE if usec.isascii() and usec.isdigit() and ours else 0.0
        self._alive_at_s = 0.0
        self._status = ""

    def ready(self) -> None:
        """Start-up, or a reload, is over."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """A reload begins: `ready` ends it. The time tells two reloads apart, on the clock that the manager uses."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        self._tell("STOPPING=1")

    def status(self, text: str) -> None:
        """What `systemctl status` shows, if it is not what it shows already."""
        line = " ".join(text.split())[:_LONGEST_STATUS]
        if line != self._status:
            self._status = line
            self._tell(f"STATUS={line}")

    def alive(self, now_s: float) -> None:
        """The loop turns; told as often as the watchdog wants."""
        if self._every_s and now_s >= self._alive_at_s:
            self._alive_at_s = now_s + self._every_s
            self._tell("WATCHDOG=1")

    def _tell(self, message: str) -> None:
        if not self.listens:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as to:
            to.sendto(message.encode("utf-8", "replace"), self._address)
