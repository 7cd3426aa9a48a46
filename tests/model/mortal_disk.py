"""A folder on a real file system, whose user may be killed before any call, and whose machine may lose power.

What is not flushed is what an outage may take: of the changes of names since the folder's last fsync, the last ones (a
journal keeps their order); of a file's bytes without an fsync of their own, the tail. POSIX promises no more than that.
Calls go to the real file system, but for fsync, which has nothing to do on a machine that keeps its power.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import pytest


class KilledError(BaseException):
    """SIGKILL, in place of a call."""


class Fault(NamedTuple):
    """What is raised in place of the n-th call of a kind; `for_good`: and of all calls after it."""

    call: str
    number: int
    error: BaseException
    for_good: bool = False


class _File:
    """What os.fdopen gives, unbuffered: writes are counted, and may be short."""

    def __init__(self, disk: MortalDisk, fd: int) -> None:
        self._disk = disk
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def write(self, data: memoryview) -> int:
        self._disk.count("write")
        return os.write(self._fd, data[: self._disk.longest_write])


class MortalDisk:
    """`folder`, and a folder beside it for what an outage would bring back."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "spool"
        self.folder.mkdir()
        self._attic = root / "attic"
        self._attic.mkdir()
        self._undo: list[Callable[[], object]] = []  # of each change of a name since the folder's last fsync
        self._unflushed: set[int] = set()  # inodes
        self._stored = 0
        self._calls: Counter[str] = Counter()
        self._fault: Fault | None = None
        self._failing: BaseException | None = None
        self.longest_write = 1 << 30

    @contextmanager
    def watched(self, fault: Fault | None = None) -> Iterator[None]:
        """Calls are counted from here on, and go as the fault says."""
        self._calls.clear()
        self._fault, self._failing = fault, None
        self._open, self._fsync, self._rename, self._unlink = os.open, os.fsync, os.rename, os.unlink
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", self._do_open)
            patch.setattr(os, "fdopen", lambda fd, *_, **__: _File(self, fd))
            patch.setattr(os, "fsync", self._do_fsync)
            patch.setattr(os, "rename", self._do_rename)
            patch.setattr(os, "unlink", self._do_unlink)
            yield

    def count(self, call: str) -> None:
        fault = self._fault
        if fault is not None and fault[:2] == (call, self._calls[call]):
            self._fault = None
            self._failing = fault.error if fault.for_good else None
            raise fault.error
        if self._failing is not None:
            raise self._failing
        self._calls[call] += 1

    def _do_open(self, path: Path, flags: int, mode: int = 0o777) -> int:
        self.count("open")
        new = not path.exists()
        fd = self._open(path, flags, mode)
        if flags & os.O_CREAT:
            self._unflushed.add(os.fstat(fd).st_ino)
            if new:
                self._undo.append(path.unlink)
        return fd

    def _do_fsync(self, fd: int) -> None:
        self.count("fsync")
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            self._undo.clear()
        else:
            self._unflushed.discard(status.st_ino)

    def _store(self, path: Path) -> Callable[[], object]:
        """Keeps the file under another name, and says how it comes back."""
        self._stored += 1
        stored = self._attic / str(self._stored)
        os.link(path, stored)
        return lambda: stored.rename(path)

    def _do_rename(self, old: Path, new: Path) -> None:
        self.count("rename")
        bring_back = self._store(new) if new.exists() else None
        self._rename(old, new)

        def undo() -> None:
            new.rename(old)
            if bring_back is not None:
                bring_back()

        self._undo.append(undo)

    def _do_unlink(self, path: Path) -> None:
        self.count("unlink")
        bring_back = self._store(path)
        self._unlink(path)
        self._undo.append(bring_back)

    def lose_power(self, kept_changes: int, kept_bytes: int) -> None:
        """The first changes of names stay, and as many bytes of each file that was not flushed."""
        while len(self._undo) > kept_changes:
            self._undo.pop()()
        self._undo.clear()
        for path in self.folder.iterdir():
            if path.stat().st_ino in self._unflushed:
                os.truncate(path, min(kept_bytes, path.stat().st_size))
        self._unflushed.clear()
