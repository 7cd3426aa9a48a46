"""The spool: batches on disk while memory is short and the vSensor away. A shell around spoolfile.py.

Invariant: a batch leaves its slot only when its file is complete, flushed, and named (write, fsync, rename, fsync of
the folder); and its file is removed only when the vSensor has settled it. Killed between the two, the batch is in both
places: the successor finds the file, and takes it for the slot's. A file that is still being written has another suffix
and is removed at the next start, its slot is untouched.

After a failed fsync nothing is known about what was written (the kernel marks the pages clean all the same), so from
then on nothing more is written in this life; what was flushed before stays good, and is sent.

Writing waits for the disk, hence the thread: it reports, and touches nothing else. `bytes` counts what lies there.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from ossensor.durable import sync_folder
from ossensor.spoolfile import LONGEST_TRAILER_BYTES, SUFFIX, DamagedError, Spooled, opened, trailer
from ossensor.transport.protocol import MAX_SECTION_BYTES, Account

from .route import ends_the_process

_PART: Final = ".part"
_DAMAGED: Final = ".damaged"
# At most so many batches at once on their way to the disk: their slots are taken anyway, and a stop waits for them.
_PENDING: Final = 4
_RETRY_S: Final = 5.0
_LONGEST_BYTES: Final = MAX_SECTION_BYTES + LONGEST_TRAILER_BYTES
# What may pass by itself, and says nothing of a file: no room, too many files of others, no memory in the kernel, which
# a container's limit counts, too.
_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.ENFILE, errno.EMFILE, errno.ENOMEM})


class Order(NamedTuple):
    """A batch to be written."""

    spooled: Spooled
    section: memoryview
    account: Account


@dataclass(frozen=True)
class Written:
    """How that went; `trouble` is empty when the batch is on the disk to stay."""

    order: Order
    file_bytes: int = 0
    trouble: str = ""
    passing: bool = False


@dataclass(frozen=True)
class Damaged:
    """A file that a sender could not read."""

    spooled: Spooled
    why: str


@dataclass(frozen=True)
class Unread:
    """A file that a sender could not read now."""

    spooled: Spooled
    why: str
    retry_s: float = _RETRY_S


class Spool:
    """The folder. Methods are the main thread's, but for `_write_all` and `read`."""

    def __init__(self, folder: Path, limit_bytes: int, report: Callable[[Written], None]) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._report = report
        self._orders: queue.SimpleQueue[Order] = queue.SimpleQueue()
        self._pending_bytes = 0
        self._sizes: dict[str, int] = {}
        self.bytes = 0
        self.pending = 0
        self.broken = False
        self._not_before_s = 0.0
        self._refuses = ""  # the thread's: why it writes nothing any more; `broken` is what the main thread heard of it
        threading.Thread(target=self._work, name="spool", daemon=True).start()

    def found(self) -> list[Spooled]:
        """What earlier lives left, oldest first. Raises OSError.

        One of them may have been killed between rename and fsync of the folder: what is found is taken for its slot's,
        so its name has to be there to stay, too.
        """
        sync_folder(self._folder)
        names = sorted(os.listdir(self._folder))  # noqa: PTH208  names are what is wanted
        for name in names:
            if name.endswith(_PART) and Spooled.parse(name.removesuffix(_PART) + SUFFIX) is not None:
                with suppress(OSError):  # as below
                    (self._folder / name).unlink()
        there = [spooled for name in names if (spooled := Spooled.parse(name)) is not None]
        for spooled in there:
            with suppress(OSError):  # one bad inode (EIO, EUCLEAN) is that file's affair: reading it will tell
                self._sizes[spooled.name] = (self._folder / spooled.name).stat().st_size
        self.bytes = sum(self._sizes.values())
        return there

    def takes(self, section_bytes: int, now_s: float) -> bool:
        """Whether a batch of that size may be ordered now."""
        if self.broken or self.pending >= _PENDING or now_s < self._not_before_s:
            return False
        return self.bytes + self._pending_bytes + _file_bytes(section_bytes) <= self._limit_bytes

    def order(self, order: Order) -> None:
        self.pending += 1
        self._pending_bytes += _file_bytes(len(order.section))
        self._orders.put(order)

    def withdraw(self) -> None:
        """What the thread has not begun it is not to begin: one order at most is still being written from here on."""
        with suppress(queue.Empty):
            while True:
                order = self._orders.get_nowait()
                self.pending -= 1
                self._pending_bytes -= _file_bytes(len(order.section))

    def conclude(self, written: Written, now_s: float) -> None:
        """Takes in what the thread reported."""
        self.pending -= 1
        self._pending_bytes -= _file_bytes(len(written.order.section))
        if not written.trouble:
            self._sizes[written.order.spooled.name] = written.file_bytes
            self.bytes += written.file_bytes
        elif written.passing:
            self._not_before_s = now_s + _RETRY_S
        else:
            self.broken = True

    def remove(self, spooled: Spooled) -> None:
        """The vSensor has settled it. OSError is left: at the next start it is sent again, and found to be there."""
        self.bytes -= self._sizes.pop(spooled.name, 0)
        with suppress(OSError):
            (self._folder / spooled.name).unlink()

    def set_aside(self, spooled: Spooled) -> None:
        """It is damaged: kept for whoever wants to look, under a name that is none of ours."""
        self.bytes -= self._sizes.pop(spooled.name, 0)
        with suppress(OSError):
            (self._folder / spooled.name).rename(self._folder / (spooled.name + _DAMAGED))

    def read(self, spooled: Spooled) -> tuple[memoryview, Account]:
        """From any thread. Raises DamagedError, also when the file cannot be read; OSError for what may pass."""
        path = self._folder / spooled.name
        try:
            if path.stat().st_size > _LONGEST_BYTES:  # a damaged size may be one that no memory holds
                raise DamagedError("it is longer than any batch")
            data = path.read_bytes()
        except OSError as e:
            if e.errno in _PASSING:
                raise
            raise DamagedError(f"it cannot be read: {e.strerror}") from e
        return opened(spooled, data)

    # -- the thread -----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        with ends_the_process():
            self._write_all()

    def _write_all(self) -> None:
        while True:
            order = self._orders.get()
            if self._refuses:  # ordered before the main thread heard of it
                self._report(Written(order, trouble=self._refuses))
                continue
            try:
                written = Written(order, self._write(order))
            except OSError as e:
                written = Written(order, trouble=os.strerror(e.errno or 0), passing=e.errno in _PASSING)
                self._refuses = "" if written.passing else written.trouble
            self._report(written)

    def _write(self, order: Order) -> int:
        path = self._folder / order.spooled.name
        part = path.with_suffix(_PART)
        try:
            with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
                size = 0
                for piece in (order.section, trailer(*order)):
                    rest = memoryview(piece)
                    while rest:  # a write may be short, on a disk that fills up
                        wrote = file.write(rest) or 0
                        rest, size = rest[wrote:], size + wrote
                os.fsync(file.fileno())
            part.rename(path)
            sync_folder(self._folder)
        except OSError:
            with suppress(OSError):
                part.unlink()
            with suppress(OSError):
                path.unlink()
            raise
        return size


def _file_bytes(section_bytes: int) -> int:
    """The most that the file of such a section takes."""
    return section_bytes + LONGEST_TRAILER_BYTES
