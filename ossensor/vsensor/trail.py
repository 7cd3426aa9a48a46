"""The audit trail of Antigena: one JSON object a line, appended and never written again.

Invariant: an order, its clearing or extension has its line on the disk before it is in the book, so nothing is in force
that the trail does not tell of. (A process killed between the two leaves a line of an order that nobody was told was
taken.) All other lines are notes: one that the disk does not take is counted, and the next line of this process says
how many.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import errno
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from ossensor.durable import sync_folder

MODE: Final = 0o600


class Who(NamedTuple):
    """Who asked, as far as it is known."""

    token: str  # its id; empty when it was not good
    peer: str


class Trail:
    """For any thread. Raises OSError when the file cannot be opened."""

    def __init__(self, path: Path, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._lost = 0
        self._path = path
        self._open()

    def close(self) -> None:
        os.close(self._fd)

    def _open(self) -> None:
        self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
        size = os.fstat(self._fd).st_size
        # A line that a full disk or a power cut broke off stays as it is, and the next does not continue it.
        self._torn = size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"
        sync_folder(self._path.parent)

    def _follow(self) -> None:
        """Whoever has moved the file away since the last line, as logrotate does, may remove it: another is begun."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(self._fd), self._path.stat()):
                return
        old = self._fd
        try:
            self._open()
        finally:
            if self._fd != old:
                os.close(old)

    def record(self, event: str, **members: Any) -> None:
        """Adds a line, and returns when it is on the disk. Raises OSError when it may not be."""
        with self._lock:
            self._append(event, members)
            os.fsync(self._fd)

    def note(self, event: str, **members: Any) -> None:
        """Adds a line if the disk takes it."""
        with self._lock:
            try:
                self._append(event, members)
            except OSError:
                self._lost += 1

    def _append(self, event: str, members: dict[str, Any]) -> None:
        self._follow()
        time = dt.datetime.fromtimestamp(int(self._clock()), tz=dt.UTC).isoformat().replace("+00:00", "Z")
        lost = {"lost_before": self._lost} if self._lost else {}
        line = json.dumps({"time": time, "event": event, **members, **lost}).encode() + b"\n"
        line = b"\n" * self._torn + line
        written = os.write(self._fd, line)  # at once: with O_APPEND, nothing comes between its bytes
        self._torn = written < len(line)
        if self._torn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._lost = 0
