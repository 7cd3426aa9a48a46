"""The parent of the serving process, and of a streaming one: it holds their sockets, and starts a dead one's successor.

Invariant: at most one child does each job, and the ports stay bound for as long as this process lives: connections that
come between a death and a start wait in the kernel's backlog. What happens to one job changes nothing for another.

The parent reads nothing from the network, holds no request and opens no store: there is little that can go wrong in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ossensor.backoff import Backoff
from ossensor.errors import Exit

# In which the child answers what it has in hand; of the 10 s that container runtimes leave before SIGKILL.
GRACE_S: Final = 5
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT})
_SIGNALS: Final = _STOPS | {signal.SIGCHLD}
# A child that had served this long and was killed was struck by somebody else, or by a kernel short of memory. That
# says nothing of its successor, which starts after a rest that keeps even an endless repetition cheap.
_SERVED_S: Final = 1.0
_REST_S: Final = 0.1
# The child ends by itself within its grace; the rest is for its last flush.
_PATIENCE_S: Final = GRACE_S + 3.0


def die_with(parent: int) -> None:
    """The kernel kills this process when `parent` ends. Ends it here when that has happened already."""
    # SIGKILL, not SIGTERM: a hung server would outlive its keeper and keep the port. The store survives it.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died between the fork and the line above
        os._exit(Exit.INTERNAL)


def heed_stops() -> None:
    """For a child that has its handlers now: a stop that came since its fork has waited, and comes.

    By the default action it would have killed a child that is about to begin, without its last word, and the keeper
    calls that a stop as asked. Threads that began before keep these signals blocked: the main thread gets them. A stop
    that comes while a large store is opened waits for that, and for the keeper's patience at most.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def heed_no_more_stops() -> None:
    """For a child that ends.

    asyncio puts the default actions back before the last words are said, and Ctrl-C is followed by a SIGTERM.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)


@dataclass(slots=True)
class Job:
    """What one child does, again and again, and the child that does it now."""

    name: str
    run: Callable[[], int]  # in the child, with SIGTERM and SIGINT blocked until it calls heed_stops()
    backoff: Backoff
    vital: bool = False  # when it says that no restart will help, there is no use in the others
    patience_s: float = _PATIENCE_S  # between SIGTERM and SIGKILL
    pid: int = 0  # 0 while none runs
    last_pid: int = 0
    started_s: float = 0.0
    due_s: float = 0.0  # when the next one may start
    given_up: bool = False


class Keeper:
    """Has each job done in a child of its own until told to stop."""

    def __init__(self, jobs: Sequence[Job], restarting: Callable[[str, int, str, float], None]) -> None:
        self._jobs = jobs
        self._restarting = restarting

    def run(self) -> int:
        """The exit code: 0 after a stop, CONFIGURATION when a vital child says that no restart will help."""
        # Blocked and waited for, instead of handled: signals are input to this loop and interrupt nothing in it.
        # A blocked SIGCHLD is queued although its default is to be ignored (kernel/signal.c, sig_ignored()).
        # Never unblocked: a second Ctrl-C must not end, by its signal, a process that is about to exit with 0.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while True:
            if self._wait(before) in _STOPS:
                self._stop()
                return Exit.DRAINED
            for job, status in self._reap():
                if self._ended(job, status) == Exit.CONFIGURATION and job.vital:
                    self._stop()
                    return Exit.CONFIGURATION

    def _wait(self, mask: set[int | signal.Signals]) -> int | None:
        """Starts what is due, and waits for a signal, or for the next job to be due."""
        now_s = time.monotonic()
        resting = [job for job in self._jobs if not job.pid and not job.given_up]
        for job in resting:
            if job.due_s <= now_s:
                self._start(job, mask, now_s)
        waits_s = [job.due_s - now_s for job in resting if not job.pid]
        if not waits_s:
            return signal.sigwait(_SIGNALS)
        info = signal.sigtimedwait(_SIGNALS, min(waits_s))
        return None if info is None else info.si_signo

    def _start(self, job: Job, mask: set[int | signal.Signals], now_s: float) -> None:
        """A child for the job; without one to be had (the pids limit, memory), it is tried again later."""
        job.started_s = now_s
        try:
            job.pid = self._fork(job, mask)
        except OSError as e:
            delay_s = job.backoff.failed(now_s, now_s)
            job.due_s = now_s + delay_s
            self._restarting(job.name, 0, f"could not be started ({e.strerror})", delay_s)

    def _ended(self, job: Job, status: int) -> int:
        """The exit code of the job's child, which is dead; when there will be a successor is settled."""
        code = os.waitstatus_to_exitcode(status)
        if code == Exit.CONFIGURATION:
            job.given_up = True
            return code
        now_s = time.monotonic()
        struck = code == -signal.SIGKILL and now_s - job.started_s >= _SERVED_S
        delay_s = _REST_S if struck else job.backoff.failed(now_s, job.started_s)
        job.due_s = now_s + delay_s
        self._restarting(job.name, job.last_pid, _cause(status), delay_s)
        return code

    @staticmethod
    def _fork(job: Job, mask: set[int | signal.Signals]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code: int = Exit.INTERNAL
        try:
            die_with(parent)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask | _STOPS)  # until heed_stops()
            code = job.run()
        except BaseException:  # noqa: BLE001 -- the frames above belong to the parent; nothing may return into them
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):  # a closed pipe must not turn into another exit code
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _stop(self) -> None:
        """Ends the children one after the other: what the first still stored, the second still passes on."""
        for job in self._jobs:
            self._reap()
            if not job.pid:
                continue
            os.kill(job.pid, signal.SIGTERM)
            deadline_s = time.monotonic() + job.patience_s
            while job.pid:
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or signal.sigtimedwait({signal.SIGCHLD}, left_s) is None:
                    os.kill(job.pid, signal.SIGKILL)
                    os.waitpid(job.pid, 0)
                    break
                self._reap()

    def _reap(self) -> list[tuple[Job, int]]:
        """Jobs whose child has died, and how. As PID 1 we inherit strangers, and bury them without a word."""
        found = []
        with contextlib.suppress(ChildProcessError):  # no children at all are left
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                for job in self._jobs:
                    if job.pid == pid:
                        job.pid, job.last_pid = 0, pid
                        found.append((job, status))
        return found


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"ended with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
