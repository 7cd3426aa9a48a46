"""The parent of the serving process: it holds the listening socket, and starts a successor for a child that died.

Invariant: at most one child serves, and the port stays bound for as long as this process lives: connections that come
between a death and a start wait in the kernel's backlog.

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
from collections.abc import Callable
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


class Keeper:
    """Runs `serve` in a child, again and again, until told to stop."""

    def __init__(
        self,
        serve: Callable[[], int],
        backoff: Backoff,
        restarting: Callable[[int, str, float], None],
    ) -> None:
        self._serve = serve
        self._backoff = backoff
        self._restarting = restarting

    def run(self) -> int:
        """The exit code: 0 after a stop, CONFIGURATION when the child says that no restart will help."""
        # Blocked and waited for, instead of handled: signals are input to this loop and interrupt nothing in it.
        # A blocked SIGCHLD is queued although its default is to be ignored (kernel/signal.c, sig_ignored()).
        # Never unblocked: a second Ctrl-C must not end, by its signal, a process that is about to exit with 0.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while True:
            started_s = time.monotonic()
            child = self._fork(before)
            status = self._watch(child)
            if status is None:
                return Exit.DRAINED
            if os.waitstatus_to_exitcode(status) == Exit.CONFIGURATION:
                return Exit.CONFIGURATION
            now_s = time.monotonic()
            struck = os.waitstatus_to_exitcode(status) == -signal.SIGKILL and now_s - started_s >= _SERVED_S
            delay_s = _REST_S if struck else self._backoff.failed(now_s, started_s)
            self._restarting(child, _cause(status), delay_s)
            if signal.sigtimedwait(_STOPS, delay_s) is not None:
                return Exit.DRAINED

    def _fork(self, mask: set[int | signal.Signals]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code: int = Exit.INTERNAL
        try:
            die_with(parent)
            # Until the server has its own handlers, Ctrl-C ends the child without a traceback.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            code = self._serve()
        except BaseException:  # noqa: BLE001 -- the frames above belong to the parent; nothing may return into them
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):  # a closed pipe must not turn into another exit code
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _watch(self, child: int) -> int | None:
        """The child's wait status when it dies by itself; None when we were told to stop, and it has ended."""
        while True:
            if signal.sigwait(_SIGNALS) in _STOPS:
                self._stop(child)
                return None
            status = _reap(child)
            if status is not None:
                return status

    def _stop(self, child: int) -> None:
        os.kill(child, signal.SIGTERM)
        deadline_s = time.monotonic() + _PATIENCE_S
        while _reap(child) is None:
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or signal.sigtimedwait({signal.SIGCHLD}, left_s) is None:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return


def _reap(child: int) -> int | None:
    """The child's wait status if it has died. As PID 1 we inherit strangers, and bury them without a word."""
    found = None
    with contextlib.suppress(ChildProcessError):  # no children at all are left
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            if pid == child:
                found = status
    return found


def _cause(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"ended with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
