"""What the uploader holds: queues of interfaces, and batches that wait in slots or on disk."""

from __future__ import annotations

from dataclasses import dataclass, field

from ossensor.accounting import Reason
from ossensor.slots import Batch, Consumer
from ossensor.spoolfile import Spooled
from ossensor.transport.compression import Advice, Policy
from ossensor.transport.introduction import Introduction
from ossensor.transport.protocol import Account, BatchId
from ossensor.transport.window import Window

from .route import Destination
from .scheduler import AntigenaPlan


@dataclass(frozen=True)
class Plan:
    """What the uploader was forked for."""

    to: Destination
    compression: Policy
    introduction: Introduction  # what of it does not change
    antigena: AntigenaPlan | None = None  # None: the sensor's owner does not want it
    spool_folder: str = ""  # empty: no spool
    spool_bytes: int = 0


@dataclass(frozen=True)
class InSlot:
    """A batch in shared memory."""

    queue_id: int
    batch: Batch
    section: memoryview

    @property
    def packets(self) -> int:
        return self.batch.packets


@dataclass(frozen=True)
class OnDisk:
    """A batch in the spool."""

    spooled: Spooled

    @property
    def packets(self) -> int:
        return self.spooled.packets


Item = InSlot | OnDisk


@dataclass
class Line:
    """One interface's queue, as the uploader sees it."""

    interface: str
    consumer: Consumer
    fds: list[int]
    advice: Advice
    retiring: bool = False
    in_slots: dict[BatchId, InSlot] = field(default_factory=dict)  # unsettled, in the order in which they came

    def account(self, batch: Batch) -> Account:
        dropped = self.consumer.region.dropped()
        drops = (dropped[reason] for reason in (Reason.REJECTED, Reason.TOO_LARGE, Reason.CORRUPT))
        return Account(batch.first_packet, batch.received, batch.kernel_drops, int(batch.final), *drops)


@dataclass
class Totals:
    """For the statistics lines; exact counts of packets are in shared memory."""

    batches: int = 0
    packets: int = 0
    wire_bytes: int = 0
    attempts: int = 0
    spooled: int = 0  # packets written to the disk,
    unspooled: int = 0  # acknowledged from there, what earlier lives left included,
    spool_lost: int = 0  # and damaged or refused there
    direct_refused: int = 0  # direct addresses that the vSensor named and that cannot be


@dataclass(frozen=True)
class Holdings:
    """All of it. The uploader's main thread has one; its parts look and write in the same."""

    window: Window[Item]
    lines: dict[int, Line] = field(default_factory=dict)  # by queue
    totals: Totals = field(default_factory=Totals)


def stream_of(batch: BatchId) -> str:
    """A stream's name in the window: a worker can put batches into an order of its own interface only."""
    return f"{batch.stream.interface}/{batch.stream.epoch}"
