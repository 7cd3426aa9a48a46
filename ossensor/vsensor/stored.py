"""Stored bytes, read by where the index says they lie."""

from __future__ import annotations

import os
from pathlib import Path

from .ledger import Entry


class DamagedError(Exception):
    """A batch that cannot be read. Says what is wrong."""


class Stored:
    """Reads batches, and counts what it reads. A file is open only while it is read: stores have very many."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.read_bytes = 0

    def section(self, entry: Entry) -> bytes:
        """The batch's section. Raises DamagedError."""
        try:
            fd = os.open(self._root / entry.file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                data = os.pread(fd, entry.length, entry.offset)
            finally:
                os.close(fd)
        except OSError as e:
            raise DamagedError(f"{entry.file}: {e.strerror}") from e
        self.read_bytes += len(data)
        if len(data) != entry.length:
            raise DamagedError(f"{entry.file} ends at {entry.offset + len(data)}, inside batch {entry.sequence}")
        return data
