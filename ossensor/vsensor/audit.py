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
from contextlib import closing
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from ossensor import pcapng
from ossensor.errors import Exit
from ossensor.transport.protocol import Account

from .layout import Layout

_PROGRESS_S: Final = 1.0
_ROWS: Final = """
SELECT b.sensor, b.interface, b.epoch, b.sequence, b.packets, b.books, b.received_ns,
  b.file, b.offset, b.length, f.length
FROM batches AS b LEFT JOIN files AS f ON f.file = b.file
ORDER BY b.sensor, b.interface, b.epoch, b.sequence
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """One stored batch. `books` is None in rows of a store that was begun before sensors sent them."""

    sequence: int
    packets: int
    books: Account | None


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
    """Every stream of the store. Raises sqlite3.Error when there is no index, or none that can be read."""
    with closing(sqlite3.connect(f"{layout.index.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)) as db:
        for stream, rows in groupby(db.execute(_ROWS), key=lambda row: row[:3]):
            yield _audit_stream(layout, stream, list(rows), deep=deep)


def _audit_stream(layout: Layout, stream: tuple[str, str, str], rows: list[tuple[Any, ...]], *, deep: bool) -> Audited:
    batches = [Batch(row[3], row[4], None if row[5] is None else Account.parse(row[5])) for row in rows]
    finding = judge(batches)
    ends = {row[7]: (row[8] + row[9], row[10]) for row in rows}  # of each file: its last batch's end, and its length
    for file, (end, length) in ends.items():
        path = layout.root / file
        size = path.stat().st_size if path.exists() else 0
        if length is None or end > min(length, size):
            finding.faults.append(f"{file} has {size} bytes, and batches up to {end}")
        elif deep:
            with path.open("rb") as opened:
                for batch, row in zip(batches, rows, strict=True):
                    if row[7] == file:
                        opened.seek(row[8])
                        finding.faults += contradictions(batch, opened.read(row[9]))
    return Audited(*stream, first_ns=rows[0][6], last_ns=rows[-1][6], finding=finding)


def contradictions(batch: Batch, section: bytes) -> list[str]:
    """What a stored section says otherwise than the fields that came with it. Pure."""
    name = f"batch {batch.sequence}"
    packets, counts = 0, None
    try:
        for kind, body in pcapng.blocks(section):
            packets += kind == pcapng.EPB
            if kind == pcapng.ISB:
                counts = pcapng.statistics_of(body)
    except pcapng.FormatError as e:
        return [f"{name} cannot be read: {e}"]
    faults = []
    if packets != batch.packets:
        faults.append(f"{name} holds {packets} packets, and was sent as {batch.packets}")
    if counts is None:
        faults.append(f"{name} has no statistics block")
    elif batch.books is not None and counts != (batch.books.received, batch.books.kernel_drops):
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
    if as_json:
        sys.stdout.write(json.dumps([audited.as_json() for audited in found], indent=2) + "\n")
    else:
        _print(found)
    return 0 if all(audited.good for audited in found) else 1


def _print(found: list[Audited]) -> None:
    columns = "{:<20} {:<15} {:<8} {:>8} {:>12} {:>12} {:>12}  {}\n"
    write = sys.stdout.write
    write(columns.format("sensor", "interface", "epoch", "batches", "packets", "received", "kernel drops", "verdict"))
    for audited in found:
        finding = audited.finding
        counts = ["-" if n is None else str(n) for n in (finding.received, finding.kernel_drops)]
        names = (audited.sensor, audited.interface, audited.epoch[:8])
        write(columns.format(*names, finding.batches, finding.packets, *counts, finding.verdict))
        for fault in finding.faults:
            write(f"    {fault}\n")
        for hole in finding.holes:
            packets = "unknown" if hole.packets is None else hole.packets
            write(f"    sequences {hole.first} to {hole.first + hole.count - 1} are not stored; packets: {packets}\n")
        if finding.dropped:
            write(f"    the sensor says that it dropped: {finding.dropped}\n")
    bad = sum(not audited.good for audited in found)
    write(f"{len(found)} streams, {bad} with something missing\n")
