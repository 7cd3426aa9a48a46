"""The order book's file (vsensor/bookfile.py): SQLite's bytes, and, in a file that SQLite takes, any row.

Declared: sqlite3.Error, ConfigurationError. Second oracle: what was loaded is loaded again the same, takes a change,
and then has it.
"""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ossensor.antigena.actions import parse_action
from ossensor.errors import ConfigurationError
from ossensor.vsensor.bookfile import BookFile
from ossensor.vsensor.orderbook import Book, Entry, Target

from ._files import make_small

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # noqa: S108  in memory
_PATH = Path(_FOLDER.name) / "antigena.sqlite"
_SQLITE = b"SQLite format 3\0"
_ACTION = {"id": "a", "kind": "quarantine", "source": {"network": "10.0.0.1"}, "start_s": 1, "expires_s": 10**6}


def _empty() -> bytes:
    _PATH.unlink(missing_ok=True)
    with closing(BookFile(_PATH)):
        pass
    return _PATH.read_bytes()


def seeds() -> Iterator[bytes]:
    _PATH.unlink(missing_ok=True)
    with closing(BookFile(_PATH)) as file:
        for name, target_ in (("a", Target("all")), ("b", Target("sensor", "s")), ("c", Target("family", "web"))):
            file.change(lambda book, n=name, t=target_: book.placed(Entry(t, parse_action({**_ACTION, "id": n})), 1.0))
        file.change(lambda book: book.introduced("sensor-1", "web"))
        make_small(file._db)
    yield _PATH.read_bytes()
    # What is not SQLite's is a row: id, target, name and action, one a line.
    yield b"a\nsensor\nsensor-1\n" + json.dumps(_ACTION).encode()


def target(data: bytes) -> bool:
    if data.startswith(_SQLITE[:6]):
        _PATH.write_bytes(data)
    else:
        _PATH.write_bytes(_EMPTY)
        row = [*data.decode("utf-8", "replace").split("\n", 3), "", "", ""][:4]
        with closing(sqlite3.connect(_PATH)) as db, db:
            db.execute("INSERT INTO orders VALUES (?,?,?,?)", row)
    try:
        with closing(BookFile(_PATH)) as file:
            before = file.book
            assert all(order.action.id == name for name, order in before.orders.items())
            file.change(lambda book: book.introduced("another-sensor", "a-family"))
        with closing(BookFile(_PATH)) as file:
            assert _without(file.book) == _without(before)
            assert file.book.families["another-sensor"] == "a-family"
    except (sqlite3.Error, ConfigurationError):
        return False
    finally:
        for path in _PATH.parent.iterdir():
            path.unlink()
    return True


def _without(book: Book) -> tuple[object, ...]:
    families = {sensor: family for sensor, family in book.families.items() if sensor != "another-sensor"}
    return book.id, dict(book.orders), families


_EMPTY = _empty()
