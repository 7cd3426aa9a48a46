"""`ossensor extract DIR`: packets of a time, of sensors and interfaces, of an expression, as one pcapng file.

The index says which batches may hold them, and only those are read. Reads the store, never writes to it; a vSensor may
be running. Packets come in the order of their times as far as each interface's are: the interfaces' streams are merged,
and what a stream has out of order (a clock that was set, two CPUs) stays as it was captured.

In memory at a time: of each interface, the packets that were picked from one batch.
"""

from __future__ import annotations

import argparse
import heapq
import json
import sqlite3
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Final, TextIO

from ossensor import __version__
from ossensor.errors import ConfigurationError, Exit
from ossensor.pcapng import FormatError

from . import moments
from .layout import Layout
from .ledger import Entry, Ledger, removed_now
from .packetfilter import PacketFilter
from .picking import Collection, Passes, Picked, picked
from .section import Span
from .stored import DamagedError, GoneError, Stored

_PROGRESS_S: Final = 1.0
_ERASE_REST: Final = "\x1b[K"  # of the terminal's line (ECMA-48, EL)
_OUT_BYTES: Final = 1 << 20
_ALWAYS: Final = Span(0, (1 << 63) - 1)
_STDOUT: Final = "-"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be extracted."""

    window: Span
    interfaces: list[tuple[str, str]]
    passes: Passes | None


@dataclass(slots=True)
class Summary:
    """What came of it. `bytes_stored` is what the chosen interfaces' files hold in all."""

    packets: int = 0
    batches_read: int = 0
    bytes_read: int = 0
    bytes_stored: int = 0
    removed_packets: int = 0  # at most so many were of the time, and were removed by retention
    damaged_batches: int = 0

    @property
    def text(self) -> str:
        told = f"{self.packets:,} packets; read {self.bytes_read:,} of {self.bytes_stored:,} bytes stored"
        if self.removed_packets:
            told += f"; retention removed up to {self.removed_packets:,} packets of this time"
        return told + (f"; {self.damaged_batches} BATCHES ARE DAMAGED" if self.damaged_batches else "")


class Extraction:
    """One run over a store."""

    def __init__(self, ledger: Ledger, stored: Stored, wanted: Wanted, errors: TextIO) -> None:
        self._ledger = ledger
        self._stored = stored
        self._wanted = wanted
        self._errors = errors
        self._told_s = time.monotonic()
        self.summary = Summary()

    def run(self, collection: Collection) -> None:
        """Adds every packet that is wanted. Raises ConfigurationError for a link layer that the filter is not for."""
        window = self._wanted.window
        for interface in self._wanted.interfaces:
            self.summary.bytes_stored += self._ledger.stored_bytes(*interface)
            self.summary.removed_packets += self._ledger.removed_within(*interface, window)
        streams = (self._packets(*interface) for interface in self._wanted.interfaces)
        for _, name, packet in heapq.merge(*streams, key=itemgetter(0)):
            collection.add(name, packet)
            self.summary.packets += 1

    def _packets(self, sensor: str, interface: str) -> Iterator[tuple[int, str, Picked]]:
        name = f"{sensor}/{interface}"
        window, passes = self._wanted.window, self._wanted.passes
        for entry in self._ledger.within(sensor, interface, window):
            try:
                # Whole, before any is given: a batch that is damaged in its middle is damaged.
                found = list(picked(self._stored.read(entry.file, entry.offset, entry.length), window, passes))
            except GoneError as e:
                if removed_now(Layout(self._stored.root), entry.file):
                    self.summary.removed_packets += entry.packets  # since its row was read
                else:
                    self._damaged(name, entry, e)
                continue
            except (DamagedError, FormatError) as e:
                self._damaged(name, entry, e)
                continue
            self.summary.batches_read += 1
            self.summary.bytes_read = self._stored.read_bytes
            self._progress(entry)
            for packet in found:
                yield packet.ts_ns, name, packet

    def _damaged(self, name: str, entry: Entry, error: Exception) -> None:
        self.summary.damaged_batches += 1
        self._errors.write(f"ossensor: {name}: batch {entry.sequence} of {entry.file} is damaged: {error}\n")

    def _progress(self, entry: Entry) -> None:
        now_s = time.monotonic()
        if self._errors.isatty() and now_s - self._told_s > _PROGRESS_S:
            self._told_s = now_s
            at = f"{moments.show(entry.earliest_ns // 10**9 * 10**9)}: " if entry.earliest_ns else ""
            self._errors.write(f"\r{at}{self.summary.text}{_ERASE_REST}\r")
            self._errors.flush()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="DIR", help="the store's directory; the vSensor may be running")
    parser.add_argument("--from", dest="since", metavar="TIME", help=f"the first moment: {moments.ALLOWED}")
    parser.add_argument("--to", dest="until", metavar="TIME", help="the first moment that is not wanted any more")
    parser.add_argument("--sensor", action="append", metavar="NAME", help="of this sensor only; may be repeated")
    parser.add_argument("--interface", action="append", metavar="NAME", help="of this interface only; may be repeated")
    parser.add_argument("--bpf", metavar="EXPRESSION", help="what passes this filter only: pcap-filter(7)")
    parser.add_argument("-w", dest="out", required=True, metavar="FILE", help="where to write pcapng to; - for stdout")
    parser.add_argument("--json", action="store_true", help="the summary as JSON; on stderr when -w is -")


def run(args: argparse.Namespace) -> int:
    """0; 1 when something that is stored cannot be read; 78 for wrong arguments, after saying all that is wrong."""
    layout = Layout(Path(args.store))
    try:
        with Ledger(layout) as ledger:
            try:
                return _run(args, layout, ledger)
            except (TypeError, ValueError):  # a bug; or what SQLite gave out of a damaged page, which is looked for now
                ledger.check_sound()
                raise
    except sqlite3.Error as e:
        return _refuse([f"{layout.index}: {e}"])
    except ConfigurationError as e:
        return _refuse(e.faults)
    except BrokenPipeError:
        return 0  # whoever reads has enough


def _refuse(faults: list[str]) -> int:
    sys.stderr.write("".join(f"ossensor: {fault}\n" for fault in faults))
    return Exit.CONFIGURATION


def _run(args: argparse.Namespace, layout: Layout, ledger: Ledger) -> int:
    wanted = _wanted(args, layout, ledger)
    to_stdout = args.out == _STDOUT
    extraction = Extraction(ledger, Stored(layout.root), wanted, sys.stderr)
    try:
        with open(sys.stdout.fileno() if to_stdout else args.out, "wb", _OUT_BYTES, closefd=not to_stdout) as out:
            extraction.run(Collection(out.write, f"ossensor {__version__} extract"))
    except BrokenPipeError:
        raise
    except OSError as e:
        raise ConfigurationError([f"-w: {args.out}: {e.strerror}"]) from e
    summary = extraction.summary
    told = sys.stderr if to_stdout else sys.stdout
    told.write((json.dumps(asdict(summary)) if args.json else summary.text) + "\n")
    return 1 if summary.damaged_batches else 0


def _wanted(args: argparse.Namespace, layout: Layout, ledger: Ledger) -> Wanted:
    """What the arguments ask for. Raises ConfigurationError with everything that is wrong with them."""
    faults: list[str] = []
    since_ns = _moment("--from", args.since, faults)
    until_ns = _moment("--to", args.until, faults)
    if since_ns is not None and until_ns is not None and since_ns >= until_ns:
        faults.append(f"--from {args.since} is not before --to {args.until}")
    known = ledger.interfaces()
    _check_known("--sensor", args.sensor, {sensor for sensor, _ in known}, faults)
    _check_known("--interface", args.interface, {interface for _, interface in known}, faults)
    chosen = [
        (sensor, interface)
        for sensor, interface in known
        if sensor in (args.sensor or [sensor]) and interface in (args.interface or [interface])
    ]
    if known and not chosen and not faults:
        faults.append("--sensor, --interface: no sensor of this name has an interface of that one")
    passes = None
    if args.bpf is not None:
        try:
            passes = PacketFilter(args.bpf).passes
        except ConfigurationError as e:
            faults += e.faults
    _check_out(args.out, layout, faults)
    if faults:
        raise ConfigurationError(faults)
    # What is beyond is beyond SQLite's integers, too (2262), and has no packet.
    earliest_ns = _ALWAYS.earliest_ns if since_ns is None else _held(since_ns)
    latest_ns = _ALWAYS.latest_ns if until_ns is None else _held(until_ns - 1)
    return Wanted(Span(earliest_ns, latest_ns), chosen, passes)


def _held(ns: int) -> int:
    return min(max(ns, _ALWAYS.earliest_ns), _ALWAYS.latest_ns)


def _moment(name: str, text: str | None, faults: list[str]) -> int | None:
    try:
        return None if text is None else moments.parse(text)
    except ValueError as e:
        faults.append(f"{name}: {text!r}: {e}")
        return None


def _check_known(name: str, given: list[str] | None, known: set[str], faults: list[str]) -> None:
    for text in given or []:
        if text not in known:
            there = ", ".join(sorted(known)) or "nothing yet"
            faults.append(f"{name}: {text!r}: not in this store; there: {there}")


def _check_out(out: str, layout: Layout, faults: list[str]) -> None:
    if out == _STDOUT:
        if sys.stdout.isatty():
            faults.append("-w: pcapng is nothing for a terminal; name a file, or a program behind a pipe")
        return
    path = Path(out)
    if path.resolve().is_relative_to(layout.root.resolve()):
        faults.append(f"-w: {out}: is inside the store")  # it could be one of its own files
    elif path.is_dir() or not path.parent.is_dir():
        faults.append(f"-w: {out}: {'is a directory' if path.is_dir() else 'its directory is not there'}")
