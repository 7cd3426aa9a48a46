"""The index: which batch lies where, in SQLite. Its row is the commit point of a batch.

Invariant: a row exists if and only if the batch's bytes lie at (file, offset, length) and were flushed before the row
was; a stream's `next` is one past its last row or gap; `files.length` is the end of a file's last row, and its times
lie around those of its rows. `repeats` says how often a batch came again; it is a figure, and no promise rests on it.

SQLite because the commit of several rows and a stream's position must be one step, and its log is tried; the packets
themselves stay in files that any tool reads without it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from ossensor.transport.protocol import BatchId, Stream

from . import removals, schema
from .section import Span


class Row(NamedTuple):
    """One batch, as it is committed. `gap` counts the sequences just below it that will never come."""

    batch: BatchId
    gap: int
    file: str
    offset: int
    length: int
    packets: int
    received_ns: int
    books: str | None = None
    span: Span | None = None  # of its packets' times


class Index:
    """One connection, for one thread at a time. Any call may raise sqlite3.Error: the disk is full, or broken."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        self._path = path
        # isolation_level=None: transactions begin and end where this module says, not where the driver guesses.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            with schema.told_from_damage():
                self._prepare(path, durable=durable)
            self._made = path.stat()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path, *, durable: bool) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        # FULL flushes the log at each commit. NORMAL loses the newest commits with the power, never the order.
        self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        if schema.version_of(self._db, path) == 0:
            self._db.executescript(schema.CREATE)
        while (version := schema.version_of(self._db, path)) != schema.VERSION:
            self._db.executescript(schema.UPGRADES[version])

    def close(self) -> None:
        self._db.close()

    def insist_on_name(self) -> None:
        """Raises OSError when the file is not under its name any more: somebody emptied the folder, or mounted over it.

        SQLite goes on with what it has open, and every commit succeeds; but whoever opens the store next has none.
        """
        try:
            same = os.path.samestat(self._path.stat(), self._made)
        except FileNotFoundError:
            same = False
        if not same:
            raise OSError(f"{self._path} was taken away beneath it; it takes a restart to begin a new one")

    def next(self, stream: Stream) -> int:
        """The sequence that the stream's next batch has; 0 for a stream never seen."""
        row = self._db.execute("SELECT next FROM streams WHERE sensor=? AND epoch=? AND interface=?", stream).fetchone()
        return 0 if row is None else int(row[0])

    def has(self, batch: BatchId) -> bool:
        """Whether it was stored, be it that retention has removed it since."""
        key = (*batch.stream, batch.sequence)
        row = self._db.execute(
            "SELECT 1 FROM batches WHERE sensor=? AND epoch=? AND interface=? AND sequence=?", key
        ).fetchone()
        return row is not None or removals.holds(self._db, batch)

    def packets(self) -> int:
        """Of all batches that were ever committed."""
        return int(self._db.execute("SELECT coalesce(sum(packets), 0) FROM streams").fetchone()[0])

    def files(self) -> list[tuple[str, int]]:
        """Every file that holds batches, or is to, with its committed length."""
        return list(self._db.execute("SELECT file, length FROM files WHERE NOT removed ORDER BY file"))

    def kept_files(self) -> list[tuple[str, int, int | None]]:
        """Every file that holds batches, with its committed length and when its newest batch came; oldest first."""
        return list(
            self._db.execute(
                "SELECT file, length, received_ns FROM files WHERE length AND NOT removed ORDER BY received_ns, file"
            )
        )

    def removed_files(self) -> list[str]:
        """Files that retention has removed, or is about to, and whose batches have rows still."""
        return [file for (file,) in self._db.execute("SELECT file FROM files WHERE removed ORDER BY file")]

    def remove_file(self, file: str) -> None:
        """Commits that a file's batches are removed by retention; see tidying.py for what follows."""
        self._db.execute("UPDATE files SET removed=1 WHERE file=?", (file,))

    def fold(self, file: str) -> bool:
        """Turns rows of a removed file into runs; True when there may be more of them."""
        with self._transaction():
            return removals.fold(self._db, file)

    def add_file(self, file: str) -> None:
        """Announces a file, before it is made, so that recovery never touches a file that is not ours."""
        self._db.execute("INSERT INTO files (file, length) VALUES (?, 0)", (file,))

    def forget_file(self, file: str) -> None:
        self._db.execute("DELETE FROM files WHERE file=?", (file,))

    def commit(self, rows: Iterable[Row]) -> None:
        """All rows are there, or none. After an error it is not known which until `settle` has succeeded."""
        with self._transaction():
            for row in rows:
                self._add(row)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _add(self, row: Row) -> None:
        key, sequence = row.batch.stream, row.batch.sequence
        span = row.span or (None, None)
        self._db.execute(
            "INSERT INTO batches VALUES (?,?,?,?,?,?,?,?,?,?,?,?,0)",
            (*key, sequence, row.file, row.offset, row.length, row.packets, row.received_ns, row.books, *span),
        )
        if row.gap:
            self._db.execute("INSERT INTO gaps VALUES (?,?,?,?,?)", (*key, sequence - row.gap, row.gap))
        self._db.execute(
            "INSERT INTO streams VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE"
            " SET next=excluded.next, packets=packets+excluded.packets",
            (*key, sequence + 1, row.packets),
        )
        # A batch without packets has no times, and leaves those of its file as they are.
        self._db.execute(
            "UPDATE files SET length=?1, received_ns=max(coalesce(received_ns, ?2), ?2),"
            " earliest_ns=coalesce(min(earliest_ns, ?3), ?3, earliest_ns),"
            " latest_ns=coalesce(max(latest_ns, ?4), ?4, latest_ns) WHERE file=?5",
            (row.offset + row.length, row.received_ns, *span, row.file),
        )

    def count_repeats(self, batches: Iterable[BatchId]) -> None:
        """Each of these stored batches came once more."""
        with self._transaction():
            for batch in batches:
                key = (*batch.stream, batch.sequence)
                counted = self._db.execute(
                    "UPDATE batches SET repeats=repeats+1 WHERE sensor=? AND epoch=? AND interface=? AND sequence=?",
                    key,
                )
                if not counted.rowcount:
                    removals.count_repeat(self._db, batch)

    def settle(self) -> None:
        """After this, rows of a failed commit are not there, and will not come back after a crash.

        A commit that failed while flushing may have left its frames, whole, at the end of SQLite's log: this process
        does not see them, but a successor that reads the log would. The next transaction writes over them.
        """
        self._db.execute("UPDATE failures SET count=count+1")
