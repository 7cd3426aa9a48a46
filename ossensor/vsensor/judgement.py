"""What the books of one stream say of its batches. Pure.

The equation, as integers and exact once the stream's final batch is stored:

    received = kernel_drops + packets stored + packets removed by retention + packets in sequences that are missing

How many packets a missing sequence held is known from its neighbours: each batch says how many packets of its stream
came before it. A stream without a final batch is open: its sensor runs still, or was killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ossensor import pcapng
from ossensor.transport.protocol import Account

from .section import Span


@dataclass(frozen=True, slots=True)
class Batch:
    """One stored batch. `books` is None in rows of a store that was begun before sensors sent them."""

    sequence: int
    packets: int
    books: Account | None
    span: Span | None = None  # what the index says of its packets' times
    is_removed: bool = False  # by retention

    @property
    def last(self) -> int:
        return self.sequence

    @property
    def first_packet(self) -> int | None:
        return None if self.books is None else self.books.first_packet


@dataclass(frozen=True, slots=True)
class RemovedRun:
    """Batches that followed one another until retention removed them. `books` are the last one's."""

    sequence: int
    last: int
    packets: int
    first_packet: int | None
    books: Account | None
    is_removed: bool = True


@dataclass(frozen=True, slots=True)
class Hole:
    """Sequences that are not stored, and how many packets they held."""

    first: int
    count: int
    packets: int | None


@dataclass
class Finding:
    """What is to be said of one stream."""

    batches: int = 0
    packets: int = 0
    received: int | None = None
    kernel_drops: int | None = None
    dropped: dict[str, int] = field(default_factory=dict)
    closed: bool = False
    holes: list[Hole] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    repeats: int = 0  # times that a batch came which was stored already
    removed_batches: int = 0  # by retention; of the next two, too, neither is lost nor a fault
    removed_packets: int = 0
    doubles: int = 0  # batches that another of the stores has as well: their acknowledgement was lost on its way

    @property
    def lost(self) -> int:
        return sum(hole.packets or 0 for hole in self.holes)

    @property
    def verdict(self) -> str:
        if self.faults:
            return "NOT BALANCED"
        if self.holes:
            return f"LOST {self.lost}" if self.closed else f"open, LOST {self.lost}"
        return "balanced" if self.closed else "open"


def judge(batches: Iterable[Batch | RemovedRun]) -> Finding:
    """The finding on one stream, given its batches in the order of their sequences."""
    finding = Finding()
    next_sequence = 0
    next_packet: int | None = 0
    books: Account | None = None
    for batch in batches:
        finding.doubles += max(0, min(next_sequence, batch.last + 1) - batch.sequence)
        if batch.last < next_sequence:
            continue
        first, packets, count = batch.first_packet, batch.packets, batch.last + 1 - max(batch.sequence, next_sequence)
        if batch.sequence < next_sequence and first is not None and next_packet is not None:
            # A run whose beginning another store has: what is new of it begins where that ends.
            first, packets = next_packet, first + packets - next_packet
        if batch.sequence > next_sequence:
            missing = None if first is None or next_packet is None else first - next_packet
            finding.holes.append(Hole(next_sequence, batch.sequence - next_sequence, missing))
            if missing is not None and missing < 0:
                finding.faults.append(f"batch {batch.sequence} says that fewer packets came before it than are stored")
        elif first is not None and next_packet is not None and first != next_packet:
            finding.faults.append(f"batch {batch.sequence} begins at packet {first}, and {next_packet} came before it")
        if finding.closed:
            finding.faults.append(f"batch {batch.sequence} came after the final one")
        finding.closed = finding.closed or (batch.books is not None and batch.books.final == 1)
        next_sequence = batch.last + 1
        next_packet = None if first is None else first + packets
        if batch.is_removed:
            finding.removed_batches += count
            finding.removed_packets += packets
        else:
            finding.batches += count
            finding.packets += packets
        books = batch.books
    if books is not None:
        _hold_against(books, finding)
    return finding


def _hold_against(books: Account, finding: Finding) -> None:
    """Takes in the newest account, which in the final batch must explain every packet."""
    finding.received, finding.kernel_drops = books.received, books.kernel_drops
    drops = {"rejected": books.rejected, "too_large": books.too_large, "corrupt": books.corrupt}
    finding.dropped = {reason: count for reason, count in drops.items() if count}
    explained = books.kernel_drops + finding.packets + finding.removed_packets + finding.lost
    if finding.closed and books.received != explained:
        finding.faults.append(f"{books.received} received, {explained} explained: {books.received - explained} missing")


def contradictions(batch: Batch, section: bytes) -> list[str]:
    """What a stored section says otherwise than the fields that came with it."""
    name = f"batch {batch.sequence}"
    counts = None
    try:
        times = [packet.ts_ns for packet in pcapng.packets(section)]
        for kind, body in pcapng.blocks(section):
            if kind == pcapng.ISB:
                counts = pcapng.statistics_of(body)
    except pcapng.FormatError as e:
        return [f"{name} cannot be read: {e}"]
    faults = []
    if len(times) != batch.packets:
        faults.append(f"{name} holds {len(times)} packets, and was sent as {batch.packets}")
    if (
        batch.span is not None
        and times
        and not batch.span.earliest_ns <= min(times) <= max(times) <= batch.span.latest_ns
    ):
        faults.append(f"{name} holds packets of other times than it was sent with")
    if counts is None:
        faults.append(f"{name} has no statistics block")
    elif batch.books is not None and counts[:2] != (batch.books.received, batch.books.kernel_drops):
        told = f"{batch.books.received} received, {batch.books.kernel_drops} dropped"
        faults.append(f"{name} says {counts.received} received, {counts.dropped} dropped inside, and {told} beside")
    return faults
