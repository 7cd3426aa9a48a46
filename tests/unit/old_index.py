"""Indexes as older versions of the vSensor made them: their own words, not today's with something taken away."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

_BATCHES_1 = """
  sensor TEXT NOT NULL, epoch TEXT NOT NULL, interface TEXT NOT NULL, sequence INTEGER NOT NULL,
  file TEXT NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, packets INTEGER NOT NULL,
  received_ns INTEGER NOT NULL"""
_SCHEMA = """
CREATE TABLE batches ({columns},
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
"""
_INSERT = {
    1: "INSERT INTO batches VALUES (?,?,?,?,?,?,?,?,?)",
    2: "INSERT INTO batches VALUES (?,?,?,?,?,?,?,?,?,?)",
}


def make(
    path: Path,
    layout: int,
    stream: tuple[str, str, str],
    batches: list[tuple[int, str | None]],
    file: str = "f.pcapng",
    length: int = 10,
) -> None:
    """An index of this layout: the stream's batches with their packets and books, all as long, in one file."""
    columns = _BATCHES_1 + (", books TEXT" if layout == 2 else "")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(_SCHEMA.format(columns=columns))
        for n, (packets, books) in enumerate(batches):
            row = (*stream, n, file, length * n, length, packets, 1000 + n, *([books] if layout == 2 else []))
            db.execute(_INSERT[layout], row)
        db.execute("INSERT INTO files VALUES (?, ?)", (file, length * len(batches)))
        db.execute("INSERT INTO streams VALUES (?,?,?,?,?)", (*stream, len(batches), sum(n for n, _ in batches)))
        db.execute(f"PRAGMA user_version = {layout}")
        db.commit()
