"""`ossensor audit DIR ...`: whether what is stored is what the sensors' books say they received. Reads, never writes.

The equation and the verdicts are judgement.py's. Several stores are audited as one: a sensor that went from one vSensor
to another has left a part of an epoch in each, and what one misses another may have.

With `deep` the sections themselves are read: their packets are counted, and the kernel's counts in their statistics
block are held against those that came signed beside them.
"""

from __future__ import annotations

import heapq
import json
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from ossensor.errors import ConfigurationError, Exit
from ossensor.transport.protocol import Account, MalformedError

from .judgement import Batch, Finding, RemovedRun, contradictions, judge
from .layout import PACKED, PART, Layout
from .ledger import Entry, Ledger, Removal, removed_now
from .progress import Progress
from .stored import DamagedError, GoneError, Stored


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


@dataclass(frozen=True, slots=True)
class _Found:
    """A batch, and the store that it is in."""

    stored: Stored
    batch: Entry | Removal

    @property
    def place(self) -> tuple[Any, ...]:
        # Of a batch that one store has and another has removed, the stored one comes first, and counts.
        return (*_stream(self), self.batch.first, isinstance(self.batch, Removal))

    @property
    def judged(self) -> Batch | RemovedRun:
        batch = self.batch
        if isinstance(batch, Entry):
            return _batch(batch)
        return RemovedRun(batch.first, batch.last, batch.packets, batch.first_packet, _account(batch.books))


def _batch(entry: Entry) -> Batch:
    return Batch(entry.sequence, entry.packets, _account(entry.books), entry.span, bool(entry.is_removed))


def _account(books: str | None) -> Account | None:
    """None also for what cannot be read, which is told as a fault of its stream."""
    try:
        return None if books is None else Account.parse(books)
    except MalformedError:
        return None


def _stream(found: _Found) -> tuple[str, str, str]:
    return found.batch.sensor, found.batch.interface, found.batch.epoch


def audit(layouts: Sequence[Layout], progress: Progress, *, deep: bool = False) -> Iterator[Audited]:
    """Every stream of the stores; `progress` is told of each batch, and of what is read of it.

    Raises ConfigurationError, with all of them, for stores without an index, or with one that cannot be read.
    """
    with ExitStack() as stack:
        ledgers = [(stack.enter_context(ledger), Stored(layout.root)) for layout, ledger in _opened(layouts)]
        every = heapq.merge(
            *(_of(ledger, stored, progress) for ledger, stored in ledgers), key=lambda found: found.place
        )
        for stream, found in groupby(every, key=_stream):
            yield _audit_stream(stream, list(found), progress, deep=deep)


def _of(ledger: Ledger, stored: Stored, progress: Progress) -> Iterator[_Found]:
    for batch in ledger.batches():
        progress.batch()
        yield _Found(stored, batch)


def _opened(layouts: Sequence[Layout]) -> list[tuple[Layout, Ledger]]:
    opened, faults = [], []
    for layout in layouts:
        try:
            ledger = Ledger(layout)
            opened.append((layout, ledger))
            ledger.check_sound()
        except sqlite3.Error as e:
            faults.append(f"{layout.index}: {e}")
        except ConfigurationError as e:
            faults += e.faults
    if faults:
        for _, each in opened:
            each.close()
        raise ConfigurationError(faults)
    return opened


def _audit_stream(stream: tuple[str, str, str], all_found: list[_Found], progress: Progress, *, deep: bool) -> Audited:
    judged = [found.judged for found in all_found]
    finding = judge(judged)
    finding.faults += (
        f"batch {one.last}: the index's account of it cannot be read"
        for one, found in zip(judged, all_found, strict=True)
        if one.books is None and found.batch.books is not None
    )
    finding.repeats = sum(found.batch.repeats for found in all_found)
    there = [(f.stored, f.batch) for f in all_found if isinstance(f.batch, Entry) and not f.batch.is_removed]
    # Of each file: its last batch's end, and its length.
    ends = {(stored, entry.file): (entry.offset + entry.length, entry.file_bytes) for stored, entry in there}
    readable = set()
    for (stored, file), (end, length) in ends.items():
        try:
            size = stored.length(file)
        except GoneError as e:
            # Or retention came by since the index was read; then nothing is wrong.
            if not removed_now(Layout(stored.root), file):
                finding.faults.append(f"{e}, and had batches up to {end}")
        except DamagedError as e:
            finding.faults.append(str(e))
        else:
            if length is None or end > min(length, size):
                finding.faults.append(f"{file} has {size} bytes, and batches up to {end}")
            else:
                readable.add((stored, file))
    if deep:
        finding.faults += (
            f for stored, entry in there if (stored, entry.file) in readable for f in _deep(stored, entry, progress)
        )
    first_ns = min(found.batch.first_received_ns for found in all_found)
    last_ns = max(found.batch.last_received_ns for found in all_found)
    return Audited(*stream, first_ns, last_ns, finding)


def _deep(stored: Stored, entry: Entry, progress: Progress) -> list[str]:
    progress.read(entry.length)
    try:
        return contradictions(_batch(entry), stored.read(entry.file, entry.offset, entry.length))
    except GoneError:
        return []  # it was there a moment ago: retention
    except DamagedError as e:
        return [f"batch {entry.sequence} cannot be read: {e}"]


def strays(layout: Layout) -> list[Path]:
    """Files where the store keeps its own, that its index does not name: nobody counts or removes them."""
    # The folders before the index: a file's row is there before the file is (Files._create).
    there = sorted(layout.root.glob("*/*/*.pcapng*"))
    with Ledger(layout) as ledger:
        ours = {file + suffix for file in ledger.files() for suffix in ("", PACKED, PART)}
    # And once more: retention may have taken both away in between.
    return [path for path in there if str(path.relative_to(layout.root)) not in ours and path.exists()]


def run(stores: Sequence[str], *, as_json: bool, deep: bool = False) -> int:
    """0: all that is closed balances and nothing is missing; 1: something is; 78: there is no such store."""
    layouts = [Layout(Path(store)) for store in stores]
    progress = Progress(sys.stderr)
    try:
        found = list(audit(layouts, progress, deep=deep))
        progress.end()
        strangers = [path for layout in layouts for path in strays(layout)]
    except sqlite3.Error as e:
        sys.stderr.write(f"ossensor: {', '.join(stores)}: {e}\n")
        return Exit.CONFIGURATION
    except ConfigurationError as e:
        sys.stderr.write("".join(f"ossensor: {fault}\n" for fault in e.faults))
        return Exit.CONFIGURATION
    try:
        if as_json:
            sys.stdout.write(json.dumps([audited.as_json() for audited in found], indent=2) + "\n")
        else:
            _print(found)
        sys.stdout.flush()
        # Beside the findings, on which they have no bearing: what no index names was acknowledged to nobody.
        sys.stderr.write("".join(f"ossensor: {path}: no index names this file\n" for path in strangers))
    except BrokenPipeError:  # whoever was reading has enough; the verdict is for whoever asks for the exit code
        with suppress(OSError):
            sys.stdout.close()
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
        if finding.removed_batches:
            write(f"    removed by retention: {finding.removed_batches} batches, {finding.removed_packets} packets\n")
        if finding.doubles:
            write(f"    {finding.doubles} batches are in more than one of the stores\n")
        if finding.dropped:
            write(f"    the sensor says that it dropped: {finding.dropped}\n")
    bad = sum(not audited.good for audited in found)
    write(f"{len(found)} streams, {bad} with something missing\n")
