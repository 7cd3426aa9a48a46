"""What outlives the supervisor in the manager's store: for each interface its capture socket, its slots, and a note.

Invariant: the three are one epoch's. The note is made when the epoch begins, and sealed: it says whose the other two
are, and children are never lent it. What changes while the epoch lasts is in the slots' memory, written by one owner
each (region.py), or in the kernel's ring, which nobody has to write down:

    what                                   where                                     as of
    sequence, blocks read, packets         control page and slot headers             the store that commits a block
    batches that wait or are being sent    slots, READY until settled                the same
    kernel's counts                        control page (TOTAL_*, RECEIVED, ...)     the last second's reading
    packets that nobody has read           the kernel's ring                         now

So a supervisor that ends in order, and one that is killed at any instruction, leave the same: the successor does what
is done for a killed worker and a killed uploader, at the same time. One window is open: the kernel's counters are reset
by being read, and a supervisor that is killed before it has written them down, some microseconds of each second, takes
that second's count with it. It leaves a note (Control.READING), and what was captured of that second is found when the
epoch closes, because all of it is in slots or in the ring; what the kernel dropped in it nobody will know.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import stat
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, NamedTuple

from .capture import bpf
from .capture.engine import Tuning
from .filters import MAX_FLOWS, Flow, checked_flow
from .logs import fields
from .region import Region
from .systemd.fdstore import Store
from .transport.protocol import interface_name_ok

log = logging.getLogger(__name__)

PORT: Final = "port"
FLOWS: Final = "flows"
_FORMAT: Final = 1
_MOST_BYTES: Final = 64 << 10
_EPOCH_BYTES: Final = 16


class UnusableError(Exception):
    """A group that cannot be taken over; the text says why."""


@dataclass(frozen=True)
class Note:
    """What identifies an epoch, and what cannot be asked of its socket."""

    label: str
    ifindex: int
    epoch: str
    linktype: int
    ring_bytes: int
    timeout_ms: int

    def tuning(self, tuning: Tuning) -> Tuning:
        """What the ring has, in place of what it would be given today."""
        return replace(tuning, ring_bytes=self.ring_bytes, timeout_ms=self.timeout_ms)

    def sealed(self) -> int:
        """A descriptor of it; the caller's to close. Raises OSError."""
        return _sealed(asdict(self))

    @classmethod
    def read(cls, fd: int) -> Note | None:
        """None when the descriptor is none of ours."""
        with suppress(ValueError, TypeError):
            note = cls(**_unsealed(fd))
            if interface_name_ok(note.label) and len(bytes.fromhex(note.epoch)) == _EPOCH_BYTES:
                return note
        return None


def _sealed(document: dict[str, Any]) -> int:
    """A descriptor of its text, which nobody can change any more. Raises OSError."""
    fd = os.memfd_create("ossensor-note", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, json.dumps({"format": _FORMAT, **document}).encode())
    seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def _unsealed(fd: int) -> dict[str, Any]:
    """Raises ValueError for what _sealed did not make."""
    with suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
        if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE:
            values: dict[str, Any] = json.loads(os.pread(fd, _MOST_BYTES, 0))
            if values.pop("format") == _FORMAT:
                return values
    raise ValueError("no note of this version")


@dataclass(frozen=True)
class Legacy:
    """One group, understood. `alive`: the socket is still bound to its interface."""

    name: str
    note: Note
    socket: socket.socket
    region: Region

    @property
    def alive(self) -> bool:
        return bpf.bound_index(self.socket) == self.note.ifindex

    def close(self) -> None:
        """Nobody goes on with it: ring and slots are given back to the machine."""
        self.socket.close()
        self.region.close()
        os.close(self.region.fd)

    @classmethod
    def of(cls, name: str, fds: Sequence[int]) -> Legacy:
        """Takes the descriptors over. Raises UnusableError, which leaves them to the caller."""
        notes = {fd: note for fd in fds if (note := Note.read(fd)) is not None}
        sockets = [fd for fd in fds if stat.S_ISSOCK(os.fstat(fd).st_mode)]
        rest = [fd for fd in fds if fd not in notes and fd not in sockets]
        if (len(notes), len(sockets), len(rest)) != (1, 1, 1):
            raise UnusableError("it is not a socket, slots and a note of this version")
        try:
            region = Region(rest[0])
        except (OSError, ValueError) as e:
            raise UnusableError(f"its slots are of another version: {e}") from None
        sock = socket.socket(fileno=sockets[0])
        if sock.family != socket.AF_PACKET:
            sock.detach()
            region.close()
            raise UnusableError("its socket captures nothing")
        ((fd, note),) = notes.items()
        os.close(fd)
        return cls(name, note, sock, region)


class FlowKeeper:
    """Keeps the addresses that every capture leaves out, so that a successor leaves them out before it captures.

    The kernel may still be sending for the uploader of an earlier life.
    """

    def __init__(self, store: Store, flows: Iterable[Flow] = (), name: str = "") -> None:
        self.flows = frozenset(flows)
        self._store = store
        self._name = name

    def keep(self, flows: Iterable[Flow]) -> None:
        """The new ones are kept before the old ones are forgotten."""
        self.flows = frozenset(flows)
        try:
            fd = _sealed({"flows": sorted(flows)})
        except OSError:  # no descriptor to be had: those before stay kept
            return
        before, self._name = self._name, self._store.keep(FLOWS, [fd])
        os.close(fd)
        self._store.forget(before)

    @classmethod
    def of(cls, store: Store, name: str, fds: Sequence[int]) -> FlowKeeper:
        """Raises UnusableError, which leaves the descriptors to the caller."""
        try:
            (fd,) = fds
            flows = {checked_flow(str(address), port) for address, port in _unsealed(fd)["flows"]}
        except (ValueError, TypeError, KeyError):
            raise UnusableError("it is not addresses of this version") from None
        os.close(fd)
        return cls(store, sorted(flows)[:MAX_FLOWS], name)


class Estate(NamedTuple):
    """All that an earlier life left."""

    ports: list[Legacy]
    flow_keeper: FlowKeeper


def understood(groups: Mapping[str, list[int]], store: Store) -> Estate:
    """What the manager gave back, as far as it is to be understood; the rest is closed, and forgotten there, too."""
    ports: list[Legacy] = []
    flow_keeper = FlowKeeper(store)
    for name, fds in groups.items():
        store.kept_before(name, len(fds))
        try:
            if name.startswith(f"{FLOWS}-"):
                flow_keeper = FlowKeeper.of(store, name, fds)
            else:
                ports.append(Legacy.of(name, fds))
        except UnusableError as e:
            log.warning("descriptors of an earlier life are of no use", extra=fields(name=name, why=e))
            for fd in fds:
                os.close(fd)
            store.forget(name)
    return Estate(ports, flow_keeper)
