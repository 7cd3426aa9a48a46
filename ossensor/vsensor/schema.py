"""The index's tables, and how an older index becomes a new one.

Layout 1 knew nothing of the sensors' books. Layout 2 knew nothing of packet times, of batches that came again and of
files that were removed on purpose: rows from then have no times (NULL), which means "unknown", and never came again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ossensor.errors import ConfigurationError

VERSION: Final = 3

_BATCHES: Final = """
CREATE TABLE batches (
  sensor TEXT NOT NULL, epoch TEXT NOT NULL, interface TEXT NOT NULL, sequence INTEGER NOT NULL,
  file TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, packets INTEGER NOT NULL,
  received_ns INTEGER NOT NULL, books TEXT,
  earliest_ns INTEGER, latest_ns INTEGER, repeats INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (sensor, epoch, interface, sequence)
) STRICT, WITHOUT ROWID;
"""
_FILES: Final = """
CREATE TABLE files (
  file TEXT NOT NULL PRIMARY KEY, length INTEGER NOT NULL,
  received_ns INTEGER, earliest_ns INTEGER, latest_ns INTEGER, removed INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
"""
# What remains of batches whose file retention removed: each row is a run of sequences that were stored without a hole.
_REMOVALS: Final = """
CREATE TABLE removals (
  sensor TEXT NOT NULL, epoch TEXT NOT NULL, interface TEXT NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
  packets INTEGER NOT NULL, first_packet INTEGER, books TEXT, repeats INTEGER NOT NULL,
  first_received_ns INTEGER NOT NULL, last_received_ns INTEGER NOT NULL, earliest_ns INTEGER, latest_ns INTEGER,
  PRIMARY KEY (sensor, epoch, interface, first)
) STRICT, WITHOUT ROWID;
"""
# Extract and retention go from a file to its batches.
_BY_FILE: Final = "CREATE INDEX batches_by_file ON batches (file, offset);"

_STREAMS: Final = """
CREATE TABLE streams (
  sensor TEXT NOT NULL, epoch TEXT NOT NULL, interface TEXT NOT NULL, next INTEGER NOT NULL, packets INTEGER NOT NULL,
  PRIMARY KEY (sensor, epoch, interface)
) STRICT, WITHOUT ROWID;
"""
_GAPS: Final = """
CREATE TABLE gaps (
  sensor TEXT NOT NULL, epoch TEXT NOT NULL, interface TEXT NOT NULL, first INTEGER NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY (sensor, epoch, interface, first)
) STRICT, WITHOUT ROWID;
"""
_FAILURES: Final = "CREATE TABLE failures (count INTEGER NOT NULL) STRICT; INSERT INTO failures VALUES (0);"
_TIMES_AND_REPEATS: Final = """
ALTER TABLE batches ADD COLUMN earliest_ns INTEGER;
ALTER TABLE batches ADD COLUMN latest_ns INTEGER;
ALTER TABLE batches ADD COLUMN repeats INTEGER NOT NULL DEFAULT 0;
ALTER TABLE files ADD COLUMN received_ns INTEGER;
ALTER TABLE files ADD COLUMN earliest_ns INTEGER;
ALTER TABLE files ADD COLUMN latest_ns INTEGER;
ALTER TABLE files ADD COLUMN removed INTEGER NOT NULL DEFAULT 0;
"""
_WHEN_RECEIVED: Final = (
    "UPDATE files SET received_ns = (SELECT max(received_ns) FROM batches WHERE batches.file = files.file);"
)


def _transaction(version: int, *parts: str) -> str:
    """One, so that a crash leaves one layout or the other."""
    return "\n".join(("BEGIN IMMEDIATE;", *parts, f"PRAGMA user_version = {version};", "COMMIT;"))


CREATE: Final = _transaction(VERSION, _BATCHES, _STREAMS, _GAPS, _FILES, _REMOVALS, _BY_FILE, _FAILURES)
# From each older layout to the next.
UPGRADES: Final = {
    1: _transaction(2, "ALTER TABLE batches ADD COLUMN books TEXT;"),
    2: _transaction(3, _TIMES_AND_REPEATS, _REMOVALS, _BY_FILE, _WHEN_RECEIVED),
}


@contextmanager
def told_from_damage() -> Iterator[None]:
    """A file that names a size which no memory holds raises sqlite3.DatabaseError, as any other damaged one does.

    SQLite takes the size for true and says SQLITE_NOMEM, for which the driver has MemoryError.
    """
    try:
        yield
    except MemoryError as e:
        raise sqlite3.DatabaseError("damaged, or there is no memory to read it") from e


def version_of(db: sqlite3.Connection, path: Path) -> int:
    """The layout of an open index; 0 when it is empty. Raises ConfigurationError for one of a later program."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if not 0 <= version <= VERSION:
        raise ConfigurationError([f"{path} has layout {version}; this program knows {VERSION}"])
    return int(version)


def check_sound(db: sqlite3.Connection, path: Path) -> None:
    """Reads all of it. Raises ConfigurationError for a file that holds what nobody wrote into it.

    SQLite looks at a page when it needs it, and then not at what kind a value is: of a damaged page it may give out a
    NULL where none can be. [M] 2 us for each batch of an index.
    """
    try:
        with told_from_damage():
            found = [str(line) for (line,) in db.execute("PRAGMA quick_check(3)")]
    except UnicodeDecodeError:  # of SQLite's own message, which quotes the schema
        found = ["its schema is no text"]
    if found != ["ok"]:
        raise ConfigurationError([f"{path} is damaged: {'; '.join(' '.join(line.split()) for line in found)}"])
