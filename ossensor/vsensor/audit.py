"""`ossensor audit DIR`: whether what is stored is what the sensors' books say they received. Reads, never writes.

The equation, per stream (sensor, interface, epoch), as integers and exact once the stream's final batch is stored:

    received = kernel_drops + packets stored + packets in sequences that are missing

How many packets a missing sequence held is known from its neighbours: each batch says how many packets of its stream
came before it. A stream without a final batch is open: its sensor runs still, or was killed.

With `deep` the sections themselves are read: their packets are counted, and the kernel's counts in their statistics
block are held against those that came signed beside them.
"""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ossensor import pcapng
from ossensor.errors import ConfigurationError, Exit
from ossensor.transport.protocol import Account

from .layout import Layout
from .ledger import Entry, Ledger
from .section import Span

_PROGRESS_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """One stored batch. `books` is None in rows of a store that was begun before sensors sent them."""

    sequence: int
    packets: int
    books: Account | None
    span: Span | None = None  # what the index says of its packets' times


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


def judge(batches: Iterable[Batch]) -> Finding:
    """The finding on one stream, given its batches in the order of their sequences. Pure."""
    finding = Finding()
    next_sequence = 0
    next_packet: int | None = 0
    last: Batch | None = None
    for batch in batches:
        first = None if batch.books is None else batch.books.first_packet
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
        next_sequence = batch.sequence + 1
        next_packet = None if first is None else first + batch.packets
        finding.batches += 1
        finding.packets += batch.packets
        last = batch
    if last is not None and last.books is not None:
        _hold_against(last.books, finding)
    return finding


def _hold_against(books: Account, finding: Finding) -> None:
    """Takes in the newest account, which in the final batch must explain every packet."""
    finding.received, finding.kernel_drops = books.received, books.kernel_drops
    drops = {"rejected": books.rejected, "too_large": books.too_large, "corrupt": books.corrupt}
    finding.dropped = {reason: count for reason, count in drops.items() if count}
    explained = books.kernel_drops + finding.packets + finding.lost
    if finding.closed and books.received != explained:
        finding.faults.append(f"{books.received} received, {explained} explained: {books.received - explained} missing")


@dataclass(frozen=True)
class Audited:
    """One stream's line in the report."""

    sensor: str
    interface: str
    epoch: str
    first_ns: int
    last_ns: int
    finding: Finding

    @property
    def good(self) -> bool:
        return not self.finding.faults and not self.finding.holes

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"verdict": self.finding.verdict, "lost": self.finding.lost}


def audit(layout: Layout, *, deep: bool = False) -> Iterator[Audited]:
    """Every stream of the store.

    Raises sqlite3.Error when there is no index, or none that can be read, and ConfigurationError for a newer one.
    """
    with Ledger(layout) as ledger:
        for entries in ledger.streams():
            yield _audit_stream(layout, entries, deep=deep)


def _audit_stream(layout: Layout, entries: list[Entry], *, deep: bool) -> Audited:
    batches = [_batch(entry) for entry in entries]
    finding = judge(batches)
    finding.repeats = sum(entry.repeats for entry in entries)
    # Of each file: its last batch's end, and its length.
    ends = {entry.file: (entry.offset + entry.length, entry.file_bytes) for entry in entries}
    for file, (end, length) in ends.items():
        path = layout.root / file
        size = path.stat().st_size if path.exists() else 0
        if length is None or end > min(length, size):
            finding.faults.append(f"{file} has {size} bytes, and batches up to {end}")
        elif deep:
            with path.open("rb") as opened:
                for batch, entry in zip(batches, entries, strict=True):
                    if entry.file == file:
                        opened.seek(entry.offset)
                        finding.faults += contradictions(batch, opened.read(entry.length))
    first, last = entries[0], entries[-1]
    stream = (first.sensor, first.interface, first.epoch)
    return Audited(*stream, first_ns=first.received_ns, last_ns=last.received_ns, finding=finding)


def _batch(entry: Entry) -> Batch:
    return Batch(entry.sequence, entry.packets, None if entry.books is None else Account.parse(entry.books), entry.span)


def contradictions(batch: Batch, section: bytes) -> list[str]:
    """What a stored section says otherwise than the fields that came with it. Pure."""
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


def run(store: str, *, as_json: bool, deep: bool = False) -> int:
    """0: all that is closed balances and nothing is missing; 1: something is; 78: there is no such store."""
    layout = Layout(Path(store))
    found = []
    told_s = time.monotonic()
    try:
        for audited in audit(layout, deep=deep):
            found.append(audited)
            if sys.stderr.isatty() and time.monotonic() - told_s > _PROGRESS_S:
                told_s = time.monotonic()
                sys.stderr.write(f"\r{len(found)} streams ")
    except sqlite3.Error as e:
        sys.stderr.write(f"ossensor: {layout.index}: {e}\n")
        return Exit.CONFIGURATION
    except ConfigurationError as e:
        sys.stderr.write("".join(f"ossensor: {fault}\n" for fault in e.faults))
        return Exit.CONFIGURATION
    if as_json:
        sys.stdout.write(json.dumps([audited.as_json() for audited in found], indent=2) + "\n")
    else:
        _print(found)
    return 0 if all(audited.good for audited in found) else 1


def _print(found: list[Audited]) -> None:
    columns = "{:<20} {:<15} {:<8} {:>8} {:>8} {:>12} {:>12} {:>12}  {}\n"
    write = sys.stdout.write
    write(
        columns.format(
            "sensor", "interface", "epoch", "batches", "repeats", "packets", "received", "kernel drops", "verdict"
        )
    )
    for audited in found:
        finding = audited.finding
        counts = ["-" if n is None else str(n) for n in (finding.received, finding.kernel_drops)]
        names = (audited.sensor, audited.interface, audited.epoch[:8])
        write(columns.format(*names, finding.batches, finding.repeats, finding.packets, *counts, finding.verdict))
        for fault in finding.faults:
            write(f"    {fault}\n")
        for hole in finding.holes:
            packets = "unknown" if hole.packets is None else hole.packets
            write(f"    sequences {hole.first} to {hole.first + hole.count - 1} are not stored; packets: {packets}\n")
        if finding.dropped:
            write(f"    the sensor says that it dropped: {finding.dropped}\n")
    bad = sum(not audited.good for audited in found)
    write(f"{len(found)} streams, {bad} with something missing\n")
