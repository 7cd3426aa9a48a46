"""The index, read beside a vSensor that may be running: what audit and extract ask of it. Never writes.

An older layout is brought up to date in a copy, by the same steps as a vSensor does it in place: whoever looks at a
store may not be allowed to change it. What it did not know is unknown (schema.py).
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple, Self

from . import schema
from .layout import Layout
from .section import Span

# What SQLite says where it may make no file, of which its code's upper bits tell more.
_NO_PLACE: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
# The members of Entry, in its order.
_ENTRIES: Final = """
SELECT b.sensor, b.interface, b.epoch, b.sequence, b.packets, b.books, b.repeats, b.received_ns,
  b.file, b.offset, b.length, f.length, b.earliest_ns, b.latest_ns, coalesce(f.removed, 0)
FROM batches AS b LEFT JOIN files AS f ON f.file = b.file
"""
_ENTRIES_OF: Final = f"{_ENTRIES} WHERE b.sensor = ? AND b.interface = ? AND b.epoch = ? ORDER BY b.sequence"
# Unknown times, of an older layout's rows, may be any.
_FILES_WITHIN: Final = """
SELECT file FROM files WHERE file >= ? AND file < ? AND NOT removed
  AND (earliest_ns IS NULL OR (latest_ns >= ? AND earliest_ns <= ?)) ORDER BY file
"""
_WITHIN: Final = f"""
{_ENTRIES} WHERE b.file = ? AND b.packets > 0
  AND (b.earliest_ns IS NULL OR (b.latest_ns >= ? AND b.earliest_ns <= ?)) ORDER BY b.offset
"""


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
    is_removed: int  # by retention, though it has its row still

    @property
    def first(self) -> int:
        return self.sequence

    @property
    def last(self) -> int:
        return self.sequence

    @property
    def first_received_ns(self) -> int:
        return self.received_ns

    @property
    def last_received_ns(self) -> int:
        return self.received_ns

    @property
    def span(self) -> Span | None:
        """Between which times its packets lie; None when that is not known, or it has none."""
        return None if self.earliest_ns is None or self.latest_ns is None else Span(self.earliest_ns, self.latest_ns)


class Removal(NamedTuple):
    """A run of batches that retention removed; `books` are the last one's."""

    sensor: str
    interface: str
    epoch: str
    first: int
    last: int
    packets: int
    first_packet: int | None
    books: str | None
    repeats: int
    first_received_ns: int
    last_received_ns: int


# The members of Removal, in its order.
_REMOVALS_OF: Final = """
SELECT sensor, interface, epoch, first, last, packets, first_packet, books, repeats, first_received_ns, last_received_ns
FROM removals WHERE sensor = ? AND interface = ? AND epoch = ? ORDER BY first
"""
_STREAMS: Final = """
SELECT sensor, interface, epoch FROM batches UNION SELECT sensor, interface, epoch FROM removals
ORDER BY sensor, interface, epoch
"""


class Ledger:
    """One reader. Any call may raise sqlite3.Error: there is no index, or none that can be read."""

    def __init__(self, layout: Layout) -> None:
        self._path = layout.index
        self._db = _connected(layout.index)
        try:
            with schema.told_from_damage():
                if 0 < (version := self._version()) < schema.VERSION:
                    self._db = _lifted(self._db, version)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def _version(self) -> int:
        """The layout, of an index that may lie where nobody may write: another's store, a read-only file system.

        SQLite begins a file of shared memory beside it when nobody else has it open, for which it takes a place
        (wal.html, "Read-Only Databases"). But then nobody changes it, either. Except where somebody left a log: the
        newest rows are in there.
        """
        try:
            return schema.version_of(self._db, self._path)
        except sqlite3.OperationalError as e:
            log = self._path.with_name(f"{self._path.name}-wal")
            if e.sqlite_errorcode & 0xFF not in _NO_PLACE or not self._path.exists() or log.exists():
                raise
        self._db.close()
        self._db = _connected(self._path, "&immutable=1")
        return schema.version_of(self._db, self._path)

    def check_sound(self) -> None:
        """Raises ConfigurationError for an index that is damaged, wherever; it is read from end to end for that."""
        schema.check_sound(self._db, self._path)

    def batches(self) -> Iterator[Entry | Removal]:
        """All that is stored, and all that was removed, in the order of sensor, interface, epoch and sequence.

        One stream's rows at a time, as they were at one moment; for the reason that `within` has.
        """
        for stream in self._db.execute(_STREAMS).fetchall():
            self._db.execute("BEGIN")
            entries: list[Entry | Removal] = [Entry._make(row) for row in self._db.execute(_ENTRIES_OF, stream)]
            removals = [Removal._make(row) for row in self._db.execute(_REMOVALS_OF, stream)]
            self._db.execute("COMMIT")
            yield from heapq.merge(entries, removals, key=_place)

    def files(self) -> Iterator[str]:
        """The name of every file that the index knows."""
        return (file for (file,) in self._db.execute("SELECT file FROM files"))

    def is_removed(self, file: str) -> bool:
        row = self._db.execute("SELECT removed FROM files WHERE file=?", (file,)).fetchone()
        return row is None or bool(row[0])

    def interfaces(self) -> list[tuple[str, str]]:
        """Every (sensor, interface) that the store has, or had, anything of."""
        return list(self._db.execute("SELECT DISTINCT sensor, interface FROM streams ORDER BY sensor, interface"))

    def stored_bytes(self, sensor: str, interface: str) -> int:
        """How much this interface's files hold, compressed or not."""
        low, high = _folder(sensor, interface)
        row = self._db.execute(
            "SELECT coalesce(sum(length), 0) FROM files WHERE file >= ? AND file < ? AND NOT removed", (low, high)
        ).fetchone()
        return int(row[0])

    def within(self, sensor: str, interface: str, window: Span) -> Iterator[Entry]:
        """The interface's batches that may hold packets of the window, both ends included, in the order of the files.

        One file's rows at a time: whoever works through them holds no transaction open, which would keep a vSensor's
        log from being emptied.
        """
        names = [name for (name,) in self._db.execute(_FILES_WITHIN, (*_folder(sensor, interface), *window)).fetchall()]
        for name in names:
            yield from map(Entry._make, self._db.execute(_WITHIN, (name, *window)).fetchall())

    def removed_within(self, sensor: str, interface: str, window: Span) -> int:
        """Packets, at most, that were of this window and that retention removed."""
        row = self._db.execute(
            "SELECT coalesce(sum(packets), 0) FROM removals WHERE sensor=? AND interface=?"
            " AND (earliest_ns IS NULL OR (latest_ns >= ? AND earliest_ns <= ?))",
            (sensor, interface, *window),
        ).fetchone()
        return int(row[0])


def _connected(index: Path, more: str = "") -> sqlite3.Connection:
    return sqlite3.connect(f"{index.absolute().as_uri()}?mode=ro{more}", uri=True, timeout=5.0)


def removed_now(layout: Layout, file: str) -> bool:
    """Whether retention has removed the file by now: a ledger that is being read shows the index as it was."""
    with Ledger(layout) as ledger:
        return ledger.is_removed(file)


def _place(batch: Entry | Removal) -> tuple[str, str, str, int]:
    return batch.sensor, batch.interface, batch.epoch, batch.first


def _folder(sensor: str, interface: str) -> tuple[str, str]:
    """Two names, between which all files of the interface lie: "0" is what follows "/"."""
    low = Layout.folder(sensor, interface)
    return low, low[:-1] + "0"


def _lifted(old: sqlite3.Connection, version: int) -> sqlite3.Connection:
    """A copy of an older index in today's layout; closes `old`.

    It is in a database without a name, which SQLite keeps in memory while it is small, and else in an unlinked file.
    """
    with closing(old):
        copy = sqlite3.connect("", isolation_level=None)
        old.backup(copy)
    copy.execute("PRAGMA synchronous=OFF")
    for step in range(version, schema.VERSION):
        copy.executescript(schema.UPGRADES[step])
    return copy
