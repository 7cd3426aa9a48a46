"""The order book's file, in SQLite: what was acknowledged to an operator is there after a power cut.

Invariant: `book` is what the file holds. A change is made durable first and seen by readers after that, whole; one that
the disk does not take never was.

A rollback journal and not a log (the index's way): after a failed flush, frames of a log can come back with the next
process, and with them an order that the operator was told had failed. Changes are rare, so their cost does not count.
They are flushed with `--no-fsync` too: that is for batches, which a sensor sends again.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ossensor.antigena.actions import ActionError, parse_action
from ossensor.errors import ConfigurationError

from .orderbook import Book, Entry, RejectedError, Target
from .schema import check_sound

FILE_MODE: Final = 0o600
_LAYOUT: Final = 1
_SCHEMA: Final = """
BEGIN IMMEDIATE;
CREATE TABLE book (id TEXT NOT NULL, version INTEGER NOT NULL) STRICT;
CREATE TABLE orders (
  id TEXT NOT NULL PRIMARY KEY, target TEXT NOT NULL, name TEXT NOT NULL, action TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE families (sensor TEXT NOT NULL PRIMARY KEY, family TEXT NOT NULL) STRICT, WITHOUT ROWID;
INSERT INTO book VALUES ('{id}', 0);
PRAGMA user_version = 1;
COMMIT;
"""


class BookFile:
    """One book and its file. `book` may be read from any thread at any time; changes wait for each other.

    Raises sqlite3.Error when the file cannot be opened, ConfigurationError when it is not of this version,
    or damaged.
    """

    def __init__(self, path: Path) -> None:
        path.touch(mode=FILE_MODE)
        # isolation_level=None: transactions begin and end where this module says, not where the driver guesses.
        self._db = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        self._lock = threading.Lock()
        try:
            self.book = self._load(path)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        self._db.close()

    def change(self, edit: Callable[[Book], Book]) -> Book:
        """The book after `edit`, durable. Raises what `edit` raises, and sqlite3.Error: then nothing has changed.

        It waits for the disk, so it is not for the event loop's thread.
        """
        with self._lock:
            edited = edit(self.book)
            if edited is not self.book:
                self._commit(self.book, edited)
                self.book = edited
            return edited

    def _load(self, path: Path) -> Book:
        check_sound(self._db, path)
        self._db.execute("PRAGMA journal_mode=DELETE")
        # EXTRA flushes the folder, too, when the journal has left it: that is the commit (sqlite.org/pragma.html).
        self._db.execute("PRAGMA synchronous=EXTRA")
        (layout,) = self._db.execute("PRAGMA user_version").fetchone()
        if layout == 0:
            self._db.executescript(_SCHEMA.format(id=secrets.token_hex(16)))
        elif layout != _LAYOUT:
            raise ConfigurationError([f"{path} has layout {layout}; this program knows {_LAYOUT}"])
        books = self._db.execute("SELECT id, version FROM book").fetchall()
        if len(books) != 1:
            raise ConfigurationError([f"{path} has {len(books)} books, where there is one"])
        ((book_id, version),) = books
        rows = self._db.execute("SELECT target, name, action FROM orders ORDER BY id").fetchall()
        try:
            orders = [
                Entry(Target.parse({kind: name or True}), parse_action(json.loads(action)))
                for kind, name, action in rows
            ]
        except (ActionError, RejectedError, ValueError, RecursionError) as e:
            raise ConfigurationError([f"{path} has an order that this program does not know: {e}"]) from e
        families = dict(self._db.execute("SELECT sensor, family FROM families").fetchall())
        return Book(book_id, version, {order.action.id: order for order in orders}, families)

    def _commit(self, old: Book, new: Book) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.execute("UPDATE book SET version=?", (new.version,))
            gone = [(name,) for name in old.orders.keys() - new.orders.keys()]
            self._db.executemany("DELETE FROM orders WHERE id=?", gone)
            put = [
                (name, *order.target, json.dumps(order.action.to_json()))
                for name, order in new.orders.items()
                if old.orders.get(name) != order
            ]
            self._db.executemany("REPLACE INTO orders VALUES (?,?,?,?)", put)
            left = [(name,) for name in old.families.keys() - new.families.keys()]
            self._db.executemany("DELETE FROM families WHERE sensor=?", left)
            self._db.executemany("REPLACE INTO families VALUES (?,?)", new.families.items() - old.families.items())
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
