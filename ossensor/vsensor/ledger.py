"""The index, read beside a vSensor that may be running: what audit and extract ask of it. Never writes.

Older layouts are read as they are, since whoever looks at a store may not be allowed to bring it up to date: what they
do not know is told as unknown (schema.py).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple, Self

from . import schema
from .layout import Layout
from .section import Span


class Entry(NamedTuple):
    """One stored batch, and the length of the file that it lies in; None where the index does not know the file."""

    sensor: str
    interface: str
    epoch: str
    sequence: int
    packets: int
    books: str | None
    repeats: int
    received_ns: int
    file: str
    offset: int
    length: int
    file_bytes: int | None
    earliest_ns: int | None
    latest_ns: int | None

    @property
    def span(self) -> Span | None:
        """Between which times its packets lie; None when that is not known, or it has none."""
        return None if self.earliest_ns is None or self.latest_ns is None else Span(self.earliest_ns, self.latest_ns)


class Ledger:
    """One reader. Any call may raise sqlite3.Error: there is no index, or none that can be read."""

    def __init__(self, layout: Layout) -> None:
        uri = f"{layout.index.absolute().as_uri()}?mode=ro"
        self._db = sqlite3.connect(uri, uri=True, timeout=5.0)
        try:
            self._version = schema.version_of(self._db, layout.index)
        except BaseException:
            self._db.close()
            raise

    @property
    def _timed(self) -> bool:
        return self._version >= schema.WITH_TIMES

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def streams(self) -> Iterator[list[Entry]]:
        """The batches of each stream, in the order of their sequences."""
        books = "b.books" if self._version >= schema.WITH_BOOKS else "NULL"
        repeats, *times = ("b.repeats", "b.earliest_ns", "b.latest_ns") if self._timed else ("0", "NULL", "NULL")
        rows = self._db.execute(
            f"SELECT b.sensor, b.interface, b.epoch, b.sequence, b.packets, {books}, {repeats}, b.received_ns,"  # noqa: S608  ours
            " b.file, b.offset, b.length, f.length,"
            f" {', '.join(times)} FROM batches AS b LEFT JOIN files AS f ON f.file = b.file"
            " ORDER BY b.sensor, b.interface, b.epoch, b.sequence"
        )
        for _, stream in groupby(map(Entry._make, rows), key=lambda entry: entry[:3]):
            yield list(stream)
