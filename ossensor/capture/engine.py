"""What a capture engine is: the one interface between the kernel's packets and the worker.

The supervisor opens an engine (privileged), keeps `socket` to set filters and read statistics, and forks; the worker
reads. Two implementations: the TPACKET_V3 ring, and pypcap where the ring cannot be.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from ossensor.errors import ConfigurationError
from ossensor.interfaces import Interface

from .bpf import SNAPLEN_BYTES
from .hardware import hardware_type, maybe_linktype

CHOICES: Final = ("auto", "ring", "pypcap")


class Place(NamedTuple):
    """Where pcapng may be written: from `used` to `room` in a slot."""

    slot: memoryview
    used: int
    room: int


class Grown(NamedTuple):
    """What was written there: its new end, packets with their lowest and highest time, ring blocks used up."""

    used: int
    packets: int
    blocks: int
    first_ns: int
    last_ns: int


class Sink(Protocol):
    """The batch being filled, as an engine sees it."""

    def room(self) -> int:
        """How many units (Engine.unit_bytes) certainly fit."""

    def add(self, ts_ns: int, packet: bytes, original_length: int) -> None:
        """Adds one packet; `room` said that it fits. To be committed by the caller of Engine.read."""

    def place(self) -> Place | None:
        """The present slot, or the next; None when no slot is free."""

    def grown(self, grown: Grown) -> None:
        """Takes in, and commits, what was written into `place`."""

    def publish(self) -> None:
        """The slot is full: hands it on."""


class Engine(Protocol):
    """An open capture on one interface: one socket, hence one epoch of the books."""

    socket: socket.socket
    linktype: int
    unit_bytes: int  # the most of a slot that one unit of reading (a packet, a block) can take
    survives_reader: bool  # what a killed worker has not committed is still there, for a successor

    def fileno(self) -> int:
        """What to poll for packets."""

    def resume(self, consumed_blocks: int) -> None:
        """Called in the worker before all else: goes on after what predecessors have committed."""

    def read(self, sink: Sink, at_most: int) -> int:
        """Moves waiting packets to the sink, about `at_most`, and says how many; never blocks.

        Raises InterfaceGoneError when the kernel says so.
        """

    def gather(self, at_most_s: float) -> None:
        """After a read that found packets: waits for more of them, where that is cheaper than to read few at a time."""

    def maybe_trouble(self) -> str | None:
        """What the kernel holds against the socket after POLLERR, taken away by being asked for."""

    def maybe_unread(self, consumed_blocks: int) -> int | None:
        """Packets that nobody has committed, seen from the supervisor; None when there is no way to look."""

    def lend(self) -> None:
        """Called in the supervisor after the fork: lets go of what only the worker needs."""


@dataclass(frozen=True)
class Tuning:
    """How an engine is to capture."""

    ring_bytes: int
    timeout_ms: int  # how long the kernel may hold a packet before it shows it
    snaplen: int = SNAPLEN_BYTES
    complete_checksums: bool = True


def chosen(choice: str, kind: int) -> str:
    """The engine for an interface of this hardware type: `ring` wherever it can be, unless told otherwise.

    Raises ConfigurationError for a ring where there can be none: its worker would have to make libpcap's cooked
    headers, which a handful of link types need that carry no container's traffic.
    """
    if choice not in CHOICES:
        raise ConfigurationError([f"OSSENSOR_ENGINE: no engine {choice!r}; one of {', '.join(CHOICES)}"])
    if choice == "pypcap" or (choice == "auto" and maybe_linktype(kind) is None):
        return "pypcap"
    if maybe_linktype(kind) is None:
        raise ConfigurationError([f"OSSENSOR_ENGINE: no ring for hardware type {kind}; use auto or pypcap"])
    return "ring"


def load(choice: str) -> None:
    """Loads the engines that this choice may come to.

    While this process can still read them: without CAP_DAC_OVERRIDE, root may not enter the home that we lie in.
    """
    if choice != "pypcap":
        from . import ring_engine  # noqa: F401, PLC0415  not where the other is chosen
    if choice != "ring":
        from . import pypcap_engine  # noqa: F401, PLC0415  likewise


def filter_snaplen(choice: str, kind: int, snaplen: int) -> int:
    """The snap length to compile into the kernel's filter.

    pypcap does not tell the original length, so with it the kernel must not cut: the engine does.
    """
    return snaplen if chosen(choice, kind) == "ring" else SNAPLEN_BYTES


def inherited_engine(sock: socket.socket, linktype: int, tuning: Tuning) -> Engine:
    """The ring on a socket that an earlier life of the sensor opened. Raises OSError."""
    from .ring_engine import RingEngine  # noqa: PLC0415  see load()

    return RingEngine.inherited(sock, linktype, tuning)


def open_engine(choice: str, interface: Interface, program: bytes, tuning: Tuning) -> Engine:
    """An engine capturing on the interface, its filter in place before the first packet that it will show.

    Raises ConfigurationError, PrivilegeError, InterfaceGoneError, or OSError for what may pass (an interface that is
    down).
    """
    opener: Callable[[Interface, bytes, Tuning], Engine]
    if chosen(choice, hardware_type(interface.name)) == "ring":
        from .ring_engine import RingEngine  # noqa: PLC0415  see load()

        opener = RingEngine.open
    else:
        from .pypcap_engine import PypcapEngine  # noqa: PLC0415  see load()

        opener = PypcapEngine.open
    return opener(interface, program, tuning)
