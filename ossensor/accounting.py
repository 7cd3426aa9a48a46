"""The books: every packet that the kernel counted for us is delivered, dropped under a named reason, or in flight.

Invariant, per interface, as an equality of integers:

    received = kernel_drops + delivered + spooled + sum(dropped by reason) + in_flight

`received` is the kernel's tp_packets, which *includes* tp_drops (libpcap pcap-linux.c, pcap_stats_linux; measured: 1000
sent, tp_packets 1000, tp_drops 951, 49 read), so the two are never added. `in_flight` is 0 after a drain. What is
`spooled` has left the interface's books for the disk, which outlives them; the uploader counts what becomes of it.

Every reason has exactly one owner, the process that writes its counter, so no counter needs a lock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Reason(Enum):
    """Why a packet that the kernel gave us was not delivered. Closed: a loss without a reason here is a bug."""

    # Owner: uploader.
    REJECTED = "rejected"  # the vSensor, in a signed reply, called the batch malformed
    TOO_LARGE = "too_large"  # the vSensor, in a signed reply, called the batch too large
    CORRUPT = "corrupt"  # a worker published a slot whose header cannot be true

    # Owner: uploader, in its own log and metrics: the interface's books have it as spooled.
    SPOOL_DAMAGED = "spool_damaged"  # a file of the spool was not what had been written

    # Owner: supervisor.
    WORKER_DIED = "worker_died"  # read, or left in a ring that only the dead worker could read, and never committed
    INTERFACE_GONE = "interface_gone"  # left in the ring of an interface that went away
    SHUTDOWN = "shutdown"  # still in the ring or in a slot when the drain's time was over


UPLOADER_REASONS = (Reason.REJECTED, Reason.TOO_LARGE, Reason.CORRUPT)
SUPERVISOR_REASONS = (Reason.WORKER_DIED, Reason.INTERFACE_GONE, Reason.SHUTDOWN)


@dataclass(frozen=True)
class Books:
    """One interface's counts at one moment, all of them cumulative packets."""

    received: int
    kernel_drops: int
    delivered: int
    in_flight: int
    dropped: dict[Reason, int] = field(default_factory=dict)
    spooled: int = 0

    @property
    def missing(self) -> int:
        """Packets that nothing explains: 0, or a bug. Negative when something was counted twice."""
        explained = self.kernel_drops + self.delivered + self.spooled + sum(self.dropped.values()) + self.in_flight
        return self.received - explained

    @property
    def balanced(self) -> bool:
        return self.missing == 0

    def counts(self) -> dict[str, int]:
        """By name; a reason that nothing was dropped for is left out."""
        totals = {
            "received": self.received,
            "kernel_drops": self.kernel_drops,
            "delivered": self.delivered,
            "in_flight": self.in_flight,
        }
        if self.spooled:
            totals["spooled"] = self.spooled
        return totals | {reason.value: count for reason, count in self.dropped.items() if count}

    def __str__(self) -> str:
        verdict = "balanced" if self.balanced else f"NOT BALANCED: missing={self.missing}"
        return " ".join(f"{name}={count}" for name, count in self.counts().items()) + f" ({verdict})"
