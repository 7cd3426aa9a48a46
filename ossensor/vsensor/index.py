"""The index: which batch lies where, in SQLite. Its row is the commit point of a batch.

Invariant: a row exists if and only if the batch's bytes lie at (file, offset, length) and were flushed before the row
was; a stream's `next` is one past its last row or gap; `files.length` is the end of a file's last row.

SQLite because the commit of several rows and a stream's position must be one step, and its log is tried; the packets
themselves stay in files that any tool reads without it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from ossensor.errors import ConfigurationError
from ossensor.transport.protocol import BatchId, Stream

_VERSION: Final = 2
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE batches (
  sensor TEXT NOT NULL, epoch TEXT NOT NULL, interface TEXT NOT NULL, sequence INTEGER NOT NULL,
  file TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, packets INTEGER NOT NULL,
  received_ns INTEGER NOT NULL, books TEXT,
  PRIMARY KEY (sensor, epoch, interface, sequence)
) STRICT, WITHOUT ROWID;
CREATE TABLE streams (
  sensor TEXT NOT NULL, epoch TEXT NOT NULL, interface TEXT NOT NULL, next INTEGER NOT NULL, packets INTEGER NOT NULL,
  PRIMARY KEY (sensor, epoch, interface)
) STRICT, WITHOUT ROWID;
CREATE TABLE gaps (
  sensor TEXT NOT NULL, epoch TEXT NOT NULL, interface TEXT NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (sensor, epoch, interface, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE files (file TEXT NOT NULL PRIMARY KEY, length INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE failures (count INTEGER NOT NULL) STRICT;
INSERT INTO failures VALUES (0);
PRAGMA user_version = 2;
COMMIT;
"""
# Version 1 knew nothing of the sensor's books; its rows have none.
_FROM_1: Final = "BEGIN IMMEDIATE; ALTER TABLE batches ADD COLUMN books TEXT; PRAGMA user_version = 2; COMMIT;"


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


class Index:
    """One connection, for one thread at a time. Any call may raise sqlite3.Error: the disk is full, or broken."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        # isolation_level=None: transactions begin and end where this module says, not where the driver guesses.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            self._prepare(path, durable=durable)
        except BaseException:
            self._db.close()
            raise

    def _prepare(self, path: Path, *, durable: bool) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        # FULL flushes the log at each commit. NORMAL loses the newest commits with the power, never the order.
        self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(_SCHEMA)
        elif version == 1:
            self._db.executescript(_FROM_1)
        elif version != _VERSION:
            raise ConfigurationError([f"{path} has layout {version}; this program knows {_VERSION}"])

    def close(self) -> None:
        self._db.close()

    def next(self, stream: Stream) -> int:
        """The sequence that the stream's next batch has; 0 for a stream never seen."""
        row = self._db.execute("SELECT next FROM streams WHERE sensor=? AND epoch=? AND interface=?", stream).fetchone()
        return 0 if row is None else int(row[0])

    def has(self, batch: BatchId) -> bool:
        return (
            self._db.execute(
                "SELECT 1 FROM batches WHERE sensor=? AND epoch=? AND interface=? AND sequence=?",
                (*batch.stream, batch.sequence),
            ).fetchone()
            is not None
        )

    def files(self) -> list[tuple[str, int]]:
        """Every file that was ever written, with its committed length."""
        return list(self._db.execute("SELECT file, length FROM files ORDER BY file"))

    def add_file(self, file: str) -> None:
        """Announces a file, before it is made, so that recovery never touches a file that is not ours."""
        self._db.execute("INSERT INTO files VALUES (?, 0)", (file,))

    def forget_file(self, file: str) -> None:
        self._db.execute("DELETE FROM files WHERE file=?", (file,))

    def commit(self, rows: Iterable[Row]) -> None:
        """All rows are there, or none. After an error it is not known which until `settle` has succeeded."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for row in rows:
                self._add(row)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _add(self, row: Row) -> None:
        key, sequence = row.batch.stream, row.batch.sequence
        self._db.execute(
            "INSERT INTO batches VALUES (?,?,?,?,?,?,?,?,?,?)",
            (*key, sequence, row.file, row.offset, row.length, row.packets, row.received_ns, row.books),
        )
        if row.gap:
            self._db.execute("INSERT INTO gaps VALUES (?,?,?,?,?)", (*key, sequence - row.gap, row.gap))
        self._db.execute(
            "INSERT INTO streams VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE"
            " SET next=excluded.next, packets=packets+excluded.packets",
            (*key, sequence + 1, row.packets),
        )
        self._db.execute("UPDATE files SET length=? WHERE file=?", (row.offset + row.length, row.file))

    def settle(self) -> None:
        """After this, rows of a failed commit are not there, and will not come back after a crash.

        A commit that failed while flushing may have left its frames, whole, at the end of SQLite's log: this process
        does not see them, but a successor that reads the log would. The next transaction writes over them.
        """
        self._db.execute("UPDATE failures SET count=count+1")
