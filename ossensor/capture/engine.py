"""What a capture engine is: the one interface between the kernel's packets and the worker.

The supervisor opens an engine (privileged), keeps `socket` to set filters and read statistics, and forks; the worker
reads. The TPACKET_V3 ring will be a second implementation of `Engine`, and `open_engine` the place that chooses.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Protocol

from ossensor.errors import ConfigurationError
from ossensor.interfaces import Interface

# time in nanoseconds since 1970, captured bytes, original length
Take = Callable[[int, bytes, int], None]


class Engine(Protocol):
    """An open capture on one interface: one socket, hence one epoch of the books."""

    socket: socket.socket
    linktype: int

    def fileno(self) -> int:
        """What to poll for packets."""

    def read(self, take: Take, at_most: int) -> int:
        """Gives up to `at_most` waiting packets to `take`, and says how many; never blocks.

        Raises InterfaceGoneError when the kernel says so.
        """

    def lend(self) -> None:
        """Called in the supervisor after the fork: lets go of what only the worker needs."""


def open_engine(choice: str, interface: Interface, program: bytes, ring_bytes: int, timeout_ms: int) -> Engine:
    """An engine capturing on the interface, its filter in place before the first packet that it will show.

    Raises PrivilegeError, InterfaceGoneError, or OSError for what may pass (an interface that is down).
    """
    from .pypcap_engine import PypcapEngine  # noqa: PLC0415  (an engine is loaded when it is chosen)

    engines = {"auto": PypcapEngine, "pypcap": PypcapEngine}
    if choice not in engines:
        raise ConfigurationError([f"OSSENSOR_ENGINE: no engine {choice!r}; one of {', '.join(engines)}"])
    return engines[choice].open(interface, program, ring_bytes, timeout_ms)
