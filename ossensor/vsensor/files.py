"""The pcapng files being written, one for each (sensor, interface), appended to at their committed length.

Invariant: bytes below `Tail.length` are committed and never written again; bytes at or above it are nobody's until the
index has a row for them.

A tail does not survive a restart: a successor begins new files, so it never depends on what its predecessor had open.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ossensor.durable import sync_folder

from .index import Index
from .layout import FILE_MODE, FOLDER_MODE, Layout

# Under the usual soft limit of 1,024 descriptors, with room for the connections (descriptors.py).
OPEN_MAX: Final = 256
# Of a file's end, what stays in the page cache for the streaming process, which follows within milliseconds. The rest
# makes room at once: pages that were just given up are the next to be taken, and the store does not push out what else
# the machine runs. A virtual machine that gets its memory when it first touches it (Firecracker, hence Fargate) pays
# ten times as much for a page by which the cache grows as for one that is reused [M: 2.0 and 0.2 s of processor time
# per GB written].
CACHED_BYTES: Final = 8 << 20


@dataclass(slots=True)
class Tail:
    """The end of one file: where the next section goes."""

    file: str  # relative to the store's root
    opened_s: float  # monotonic
    length: int = 0
    fd: int = -1  # negative while another interface has its place among the open ones
    uncached: int = 0  # the page cache has been told that nobody needs what lies below


class Files:
    """Opens, appends, flushes and rotates. For the writer's thread. Any call may raise OSError."""

    def __init__(
        self,
        layout: Layout,
        index: Index,
        *,
        durable: bool,
        rotate_bytes: int,
        clock_ns: Callable[[], int],
        rotate_s: float = math.inf,
        open_max: int = OPEN_MAX,
    ) -> None:
        self._layout = layout
        self._index = index
        self._durable = durable
        self._rotate_bytes = rotate_bytes
        self._clock_ns = clock_ns
        self._rotate_s = rotate_s
        self._open_max = open_max
        self.closed = 0  # files, since the start
        self._tails: dict[tuple[str, str], Tail] = {}
        self._open: OrderedDict[tuple[str, str], Tail] = OrderedDict()  # least recently used first

    def tail(self, sensor: str, interface: str) -> Tail:
        """An open tail below the rotation size. A group of sections goes to one file, so a file may pass it once."""
        key = (sensor, interface)
        tail = self._tails.get(key)
        if tail is not None and (tail.length >= self._rotate_bytes or not self._reachable(tail)):
            self.abandon(sensor, interface)
            tail = None
        if tail is None:
            tail = self._create(sensor, interface)
            self._tails[key] = tail
        self._open[key] = tail
        self._open.move_to_end(key)
        while len(self._open) > self._open_max:
            self._close(self._open.popitem(last=False)[1])
        return tail

    def open_files(self) -> set[str]:
        """Files that are appended to, whether they have a descriptor at the moment or not."""
        return {tail.file for tail in self._tails.values()}

    def close_old(self, now_s: float) -> None:
        """Closes what was begun too long ago, a quiet interface's file, too; `now_s` is monotonic.

        Nothing is flushed here: what is in a file was flushed before it was committed, and its name when it was made.
        """
        for key in [key for key, tail in self._tails.items() if now_s - tail.opened_s >= self._rotate_s]:
            self.abandon(*key)

    def _reachable(self, tail: Tail) -> bool:
        """True when the tail is open on a file that still has a name: operators make room with rm."""
        if tail.fd < 0:
            try:
                tail.fd = os.open(self._layout.root / tail.file, os.O_WRONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        return os.fstat(tail.fd).st_nlink > 0

    def _create(self, sensor: str, interface: str) -> Tail:
        file = self._layout.file(sensor, interface, self._clock_ns())
        path = self._layout.root / file
        # The folders first, each durable in its parent before anything in it is.
        for folder in (path.parent.parent, path.parent):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=FOLDER_MODE)
            # Also when it is there already: a predecessor may have died between making and flushing it.
            self.sync_folder(folder.parent)
        # A crash after this line leaves a row of length 0 without a file, or with an empty one: recovery forgets it.
        self._index.add_file(file)
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
        except OSError:
            self._index.forget_file(file)  # or each retry on a folder that cannot be written would add a row
            raise
        try:
            self.sync_folder(path.parent)
        except OSError:
            os.close(fd)
            self._remove(file)
            raise
        return Tail(file, time.monotonic(), 0, fd)

    def write(self, tail: Tail, data: bytes | bytearray, offset: int) -> None:
        """Writes all of `data`. On a full disk the first sign is a short count, and the error comes one call later."""
        view = memoryview(data)
        while view:
            # pwrite at an explicit offset, not O_APPEND: what a failed group left behind must not move this section.
            written = self._pwrite(tail.fd, view, offset)
            view = view[written:]
            offset += written

    def sync(self, tail: Tail) -> None:
        if not self._durable:
            return
        self._fdatasync(tail.fd)
        # Clean pages go without a write (posix_fadvise(2)), and below `length` all are: an earlier call flushed them.
        if tail.length - tail.uncached >= 2 * CACHED_BYTES:
            end = tail.length - CACHED_BYTES
            os.posix_fadvise(tail.fd, tail.uncached, end - tail.uncached, os.POSIX_FADV_DONTNEED)
            tail.uncached = end

    def cut(self, tail: Tail) -> None:
        """The file ends at its committed length again, if it is still there."""
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self._layout.root / tail.file, tail.length)

    def abandon(self, sensor: str, interface: str) -> None:
        """The file is closed and never appended to again; the next section starts a new one."""
        self._open.pop((sensor, interface), None)
        tail = self._tails.pop((sensor, interface), None)
        if tail is not None:
            self._close(tail)
            self.closed += 1
            if tail.length == 0:
                self._remove(tail.file)

    def _remove(self, file: str) -> None:
        """Takes away a file that holds nothing; should that fail too, recovery does it at the next start."""
        with contextlib.suppress(OSError, sqlite3.Error):
            (self._layout.root / file).unlink()
            self._index.forget_file(file)

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])

    @staticmethod
    def _close(tail: Tail) -> None:
        fd, tail.fd = tail.fd, -1
        if fd >= 0:
            os.close(fd)

    # The three calls that disks fail in; tests make them fail.
    _pwrite = staticmethod(os.pwrite)
    _fdatasync = staticmethod(os.fdatasync)

    def sync_folder(self, folder: Path) -> None:
        """Makes the names in the folder durable, where the store is to be."""
        if self._durable:
            sync_folder(folder)
