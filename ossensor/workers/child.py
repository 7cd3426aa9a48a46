"""What every child does first and last, whatever its work: signals, privilege, descriptors, heartbeat, exit code."""

from __future__ import annotations

import faulthandler
import gc
import io
import logging
import mmap
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from ossensor.childlog import ChildHandler
from ossensor.confine.cell import Cell
from ossensor.errors import Exit

from . import privileges

log = logging.getLogger(__name__)

_STANDARD_FDS: Final = (0, 1, 2)
HEARTBEAT_S: Final = 2.5  # a child beats at least this often; three missed beats are a hang


# Blocked across the fork, until the child can hear them.
HELD_BACK: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class Heartbeat:
    """Three words of shared memory: that a child's loop turns, since when it does its work, and what it died of.

    Written by the child, read by the parent; the parent clears the last two before each life.
    """

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, mmap.PAGESIZE)
        self._word = memoryview(self._map).cast("Q")
        self.new_life()

    def new_life(self) -> None:
        self.beat()
        self._word[1] = self._word[2] = 0

    def reading(self) -> None:
        self._word[1] = time.monotonic_ns()

    @property
    def maybe_reading_s(self) -> float | None:
        """Since when this life reads, on the monotonic clock; None when it does not yet."""
        return self._word[1] / 1e9 or None

    @property
    def violation(self) -> memoryview:
        """Where the filter of system calls leaves what it ended this life for: the call's number plus one."""
        return self._word[2:3]

    @property
    def maybe_violation(self) -> int | None:
        """The number of the system call that this life was ended for; None when it was not."""
        return self._word[2] - 1 if self._word[2] else None

    def beat(self) -> None:
        self._word[0] = time.monotonic_ns()

    @property
    def age_s(self) -> float:
        return (time.monotonic_ns() - self._word[0]) / 1e9

    def close(self) -> None:
        self._word.release()
        self._map.close()


class Signals:
    """Signals as a readable descriptor: handlers only enqueue, the loop decides.

    Each is kept in two places. The descriptor wakes the loop, and has room for some 280: in a flood of one signal,
    another finds it full. A set has room for all there are, but nothing wakes up for it.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        self._read, write = socket.socketpair()
        self._read.setblocking(False)
        write.setblocking(False)
        self._write = write
        self._heard: set[int] = set()
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, lambda number, _: self._heard.add(number))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)

    def fileno(self) -> int:
        return self._read.fileno()

    def take(self) -> set[int]:
        """The signals that arrived since the last call; one may be told twice."""
        try:
            woken_by = set(self._read.recv(4096))
        except BlockingIOError:
            woken_by = set()
        heard, self._heard = self._heard, set()
        return heard | woken_by


@dataclass(frozen=True)
class Birth:
    """What a child needs to know of its parent and itself to begin."""

    name: str
    parent_pid: int
    uid: int
    gid: int
    handler: ChildHandler
    heartbeat: Heartbeat
    keep_fds: tuple[int, ...]
    cell: Cell


def begin(birth: Birth) -> Signals:
    """Turns the copy of the supervisor that fork made into a child, through one-way doors in this order.

    1. Streams of our own: another thread may have held the lock of sys.stderr at the fork; here nobody lets it go.
    2. Signals: the supervisor's handlers and wakeup descriptor are not ours; SIGINT is the supervisor's to pass on
       (a terminal sends it to the whole group), SIGABRT prints the stack of the main thread, whose heart it is that
       does not beat. Those of others would be walked without the GIL: one that ran on meanwhile made it a segmentation
       fault, with nothing printed of the main thread.
    3. Descriptors: close what is not on the list, before anything can be made of it.
    4. Privilege. And that we are ended before others when memory runs short, while we may still say so.
    5. Die with the parent: after 4, because a change of credentials clears the setting.
    6. System calls and files: last, because what comes before makes calls that nobody needs afterwards; and before the
       first thread and the first byte that a stranger wrote.
    """
    # Objects of the supervisor's are left out of our garbage collections, which would write to all of them, and so copy
    # every page that fork has us share.
    gc.freeze()
    sys.stdin = io.StringIO()
    sys.stdout = sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115  lives as long as we do
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    faulthandler.enable(all_threads=False)
    birth.handler.adopt()
    privileges.set_name(birth.name)
    _close_all_but({*_STANDARD_FDS, *birth.keep_fds, birth.handler.sending.fileno()})
    privileges.go_first(privileges.OOM_CHILD)
    kept = privileges.drop_everything(birth.uid, birth.gid)
    privileges.die_with_parent(birth.parent_pid)
    if kept:
        log.warning("%s: %s", birth.name, kept)
    signals = Signals(signal.SIGTERM)
    for trouble in birth.cell.close(birth.heartbeat.violation):
        log.info("%s is confined less than it could be: %s", birth.name, trouble)
    birth.heartbeat.beat()
    return signals


def _close_all_but(keep: set[int]) -> None:
    low = 0
    for fd in sorted(keep):
        # Never an empty range: CPython 3.11 turns closerange(0, 0) into close_range(0, -1), which closes everything.
        if fd > low:
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, os.sysconf("SC_OPEN_MAX"))


def live(birth: Birth, work: Callable[[Signals], Exit]) -> NoReturn:
    """A child's whole life.

    It ends past every destructor: a pypcap handle must not be closed twice.
    """
    try:
        code = work(begin(birth))
    except Exception:  # noqa: BLE001  the last frame of a process: whatever it is, it is ours, and told
        # Not through the log: it may be what is broken.
        traceback.print_exc()
        code = Exit.INTERNAL
    os._exit(code)
