"""Stored bytes, read by where the index says they lie, whether their file is compressed or not."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import Final, Self

from ossensor.transport.protocol import MAX_SECTION_BYTES

from .layout import PACKED
from .packed import Frames

# Of compressed files: 64 tables with 4,096 frames each are some 20 MB, and 64 frames 16 MB. Frames are kept because a
# quiet interface's hold some hundred batches, which are asked for one after the other.
_TABLES_MAX: Final = 64
_FRAMES_MAX: Final = 64


class DamagedError(Exception):
    """Something stored that cannot be read. Says what is wrong."""


class GoneError(DamagedError):
    """A file that is not there."""


class Stored:
    """Reads parts of files, and counts what it reads. A file is open only while it is read: stores have very many."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tables: OrderedDict[str, Frames] = OrderedDict()  # least recently used first
        self._opened: OrderedDict[tuple[str, int], bytes] = OrderedDict()  # likewise
        self.read_bytes = 0

    def length(self, file: str) -> int:
        """Bytes that the file holds, decompressed. Raises DamagedError."""
        try:
            with self._open(file) as fd:
                return self._frames(file, fd).length if fd.packed else os.fstat(fd.number).st_size
        except (OSError, ValueError) as e:  # ValueError: a name in a damaged index may hold a NUL
            raise _damaged(file, e) from e

    def read(self, file: str, offset: int, length: int) -> bytes:
        """A part of the file, whole: one batch, at most. Raises DamagedError."""
        if not 0 <= length <= MAX_SECTION_BYTES:  # a damaged index may say any number, and memory would be asked for it
            raise DamagedError(f"{file}: no batch has {length} bytes")
        try:
            with self._open(file) as fd:
                data = (self._unpacked if fd.packed else self._plain)(file, fd, offset, length)
        except (OSError, ValueError) as e:  # ValueError: a name in a damaged index may hold a NUL
            raise _damaged(file, e) from e
        if len(data) != length:
            raise DamagedError(f"{file} ends at {offset + len(data)}, and {offset + length} bytes of it were stored")
        return data

    def _plain(self, _: str, fd: _Fd, offset: int, length: int) -> bytes:
        data = os.pread(fd.number, length, offset)
        self.read_bytes += len(data)
        return data

    def _unpacked(self, file: str, fd: _Fd, offset: int, length: int) -> bytes:
        frames = self._frames(file, fd)
        numbers = frames.covering(offset, length)
        data = b"".join(self._frame(file, fd, frames, number) for number in numbers)
        skip = offset - frames.original[numbers.start]
        return data[skip : skip + length]

    def _frame(self, file: str, fd: _Fd, frames: Frames, number: int) -> bytes:
        data = self._opened.pop((file, number), None)
        if data is None:
            data = frames.read(fd.number, number)
            self.read_bytes += frames.size(number)
        self._opened[file, number] = data
        if len(self._opened) > _FRAMES_MAX:
            self._opened.popitem(last=False)
        return data

    def _open(self, file: str) -> _Fd:
        # In this order: the janitor takes a file's own name away when the other one is there (janitor.py), so whoever
        # misses the first finds the second.
        try:
            return _Fd(self.root / file, packed=False)
        except FileNotFoundError:
            return _Fd(self.root / (file + PACKED), packed=True)

    def _frames(self, file: str, fd: _Fd) -> Frames:
        frames = self._tables.pop(file, None)
        if frames is None:
            frames = Frames.of(fd.number)
            self.read_bytes += frames.table_bytes
        self._tables[file] = frames
        if len(self._tables) > _TABLES_MAX:
            self._tables.popitem(last=False)
        return frames


class _Fd:
    """A descriptor that is open inside `with`."""

    def __init__(self, path: Path, *, packed: bool) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.packed = packed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.number)


def _damaged(file: str, error: OSError | ValueError) -> DamagedError:
    if isinstance(error, FileNotFoundError):
        return GoneError(f"{file} is not there")
    return DamagedError(f"{file}: {error.strerror if isinstance(error, OSError) else error}")
