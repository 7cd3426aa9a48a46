"""Files that are only in memory, for parsers that want a descriptor or a path."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


def open_memory_file(content: bytes) -> int:
    """A descriptor of a file with this content; the caller's to close."""
    fd = os.memfd_create("fuzz")
    os.write(fd, content)
    return fd


@contextmanager
def memory_file(content: bytes) -> Iterator[int]:
    fd = open_memory_file(content)
    try:
        yield fd
    finally:
        os.close(fd)


def make_small(db: sqlite3.Connection) -> None:
    """SQLite's smallest pages: a fuzzer changes a byte that matters eight times as often."""
    db.execute("PRAGMA journal_mode=DELETE")
    db.execute("PRAGMA page_size=512")
    db.execute("VACUUM")
