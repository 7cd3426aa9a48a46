"""What the index keeps of batches whose file retention removed: runs of sequences, in place of a row for each batch.

Invariant: at each commit every sequence that was ever stored is either a row of `batches` or inside a run of
`removals`, never both. So a batch that comes again after its file went is still "present", and the audit can tell what
was removed from what is missing.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from typing import Final

from ossensor.transport.protocol import Account, BatchId

# The writer answers nobody meanwhile: some milliseconds.
FOLD_ROWS: Final = 1024

_ROWS: Final = """
SELECT sensor, epoch, interface, sequence, packets, books, repeats, received_ns, earliest_ns, latest_ns
FROM batches WHERE file = ? ORDER BY offset LIMIT ?
"""


@dataclass(slots=True)
class Run:
    """Batches that followed one another; in the order of the table's columns."""

    sensor: str
    epoch: str
    interface: str
    first: int
    last: int
    packets: int
    first_packet: int | None
    books: str | None  # of the last
    repeats: int
    first_received_ns: int
    last_received_ns: int
    earliest_ns: int | None
    latest_ns: int | None

    def extends(self, other: Run) -> bool:
        """True when `other` comes right after this one, and its books say so, too."""
        return (
            (self.sensor, self.epoch, self.interface, self.last + 1)
            == (other.sensor, other.epoch, other.interface, other.first)
            and (self.first_packet is None) == (other.first_packet is None)
            and (self.first_packet is None or self.first_packet + self.packets == other.first_packet)
            # What came after the end of an epoch contradicts it, and goes on being told.
            and not (self.books is not None and ", final=1," in self.books)
        )

    def take(self, other: Run) -> None:
        self.last, self.books, self.last_received_ns = other.last, other.books, other.last_received_ns
        self.packets += other.packets
        self.repeats += other.repeats
        # Both know when, or neither does: a file's rows are of one layout. A batch without packets has no time.
        times = [(r.earliest_ns, r.latest_ns) for r in (self, other) if r.earliest_ns is not None]
        if times:
            self.earliest_ns = min(earliest for earliest, _ in times if earliest is not None)
            self.latest_ns = max(latest for _, latest in times if latest is not None)


def runs(batches: Iterable[Run]) -> Iterator[Run]:
    """Runs as long as they can be, of runs in the order of streams and sequences. Pure."""
    current: Run | None = None
    for batch in batches:
        if current is not None and current.extends(batch):
            current.take(batch)
            continue
        if current is not None:
            yield current
        current = batch
    if current is not None:
        yield current


def fold(db: sqlite3.Connection, file: str, most: int = FOLD_ROWS) -> bool:
    """Turns up to `most` of a removed file's rows into runs, in the caller's transaction. False when none are left."""
    # Taken in the order of the index by file, or each part would sort what is left of a million rows; a stream's
    # sequences rise with the offset, so a part has a run of each.
    rows = sorted(db.execute(_ROWS, (file, most)))
    found = [
        Run(sensor, epoch, interface, n, n, packets, _first_packet(books), books, repeats, at_ns, at_ns, *times)
        for sensor, epoch, interface, n, packets, books, repeats, at_ns, *times in rows
    ]
    db.executemany("INSERT INTO removals VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", [astuple(run) for run in runs(found)])
    db.executemany(
        "DELETE FROM batches WHERE sensor=? AND epoch=? AND interface=? AND sequence=?", [row[:4] for row in rows]
    )
    return len(rows) == most


def _first_packet(books: str | None) -> int | None:
    return None if books is None else Account.parse(books).first_packet


def holds(db: sqlite3.Connection, batch: BatchId) -> bool:
    """Whether the batch is inside a run."""
    return _first_of_run(db, batch) is not None


def count_repeat(db: sqlite3.Connection, batch: BatchId) -> None:
    """A batch inside a run came once more."""
    db.execute(
        "UPDATE removals SET repeats=repeats+1 WHERE sensor=? AND epoch=? AND interface=? AND first=?",
        (*batch.stream, _first_of_run(db, batch)),
    )


def _first_of_run(db: sqlite3.Connection, batch: BatchId) -> int | None:
    row = db.execute(
        "SELECT first, last FROM removals WHERE sensor=? AND epoch=? AND interface=? AND first<=?"
        " ORDER BY first DESC LIMIT 1",
        (*batch.stream, batch.sequence),
    ).fetchone()
    return int(row[0]) if row is not None and row[1] >= batch.sequence else None
