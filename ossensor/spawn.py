"""Forking a child and ending one: the only module that forks."""

from __future__ import annotations

import ctypes
import errno
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count, islice
from multiprocessing.process import BaseProcess
from typing import Final

from .childlog import Listener, child_handler
from .confine.cell import Cell
from .confine.policy import Mode, Role
from .confine.seccomp import name_of
from .errors import Exit
from .logs import fields
from .workers.child import HELD_BACK, Birth, Heartbeat, Signals, live

log = logging.getLogger(__name__)

# Three beats missed. With a supervisor that looks once a second, a child is found within ten seconds of its last one.
_HUNG_S: Final = 8.0
# After SIGABRT, time for faulthandler to write the stack.
_ABORT_GRACE_S: Final = 1.0

_PIPE_ENDS: Final = 4  # that multiprocessing makes for a child
_HEAR_OUT_S: Final = 2.0  # with what logs.py waits at the end it is less than a task definition leaves (ecs/sidecar.py)

_libc = ctypes.CDLL(None)
_fork = multiprocessing.get_context("fork")


class Forge:
    """Makes children of one user. `mode`: what their filters of system calls do."""

    def __init__(self, uid: int, gid: int, mode: Mode | None) -> None:
        self._uid = uid
        self._gid = gid
        self._mode = mode
        self._listener = Listener()

    def spawn(
        self,
        name: str,
        role: Role,
        heartbeat: Heartbeat,
        keep_fds: tuple[int, ...],
        work: Callable[[Signals], Exit],
        *,
        folder: str = "",
        mute: tuple[int, ...] = (),
    ) -> Process:
        """A running child that does `work` with no privilege, only these descriptors, and the calls of its role.

        `folder`: the one in which it may write; `mute`: descriptors that it only reads. OSError: there is no
        process to be had.
        """
        handler = child_handler(name)
        heartbeat.new_life()
        cell = Cell(role, self._mode, folder, mute)
        birth = Birth(name, os.getpid(), self._uid, self._gid, handler, heartbeat, keep_fds, cell)
        process = _fork.Process(target=live, args=(birth, work), name=name, daemon=True)
        # Until the child has a wakeup descriptor of its own, a signal to it would be written to ours. Blocked, it waits
        # for the child, which unblocks when it can hear (Signals); what is for us waits a moment, too.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        free = _lowest_free(_PIPE_ENDS)
        try:
            process.start()
        except OSError:
            # multiprocessing makes its pipes first, and leaves them where there is no process to be had (popen_fork.py,
            # _launch): four ends with each attempt, until there is no descriptor either.
            for fd in filter(_is_open, free):
                os.close(fd)
            handler.hang_up()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            self._listener.add(handler)
        except RuntimeError as e:  # no thread to be had: the pids limit
            process.kill()
            process.join()
            handler.hang_up()
            raise OSError(errno.EAGAIN, str(e)) from e
        return Process(process, heartbeat)

    def hear_out(self) -> None:
        """When all children are gone, and their pipes end: until what they said is passed on."""
        self._listener.wait_for_the_end(_HEAR_OUT_S)


class Process:
    """One life of a child."""

    def __init__(self, process: BaseProcess, heartbeat: Heartbeat) -> None:
        self._process = process
        self._heartbeat = heartbeat
        self._aborted_s: float | None = None
        self._ended = False
        self._given_up = False

    def struck(self, exit_code: int) -> bool:
        """Whether it ended so because somebody else killed it: an operator, a test, a kernel short of memory."""
        return exit_code == -signal.SIGKILL and self._aborted_s is None and not self._given_up

    @property
    def exit_code(self) -> int | None:
        """None while it lives; negative for a signal. Reaps."""
        code = self._process.exitcode
        if code == -signal.SIGSYS and not self._ended:
            call = self._heartbeat.maybe_violation
            name = "unknown" if call is None else name_of(call)
            # A defect of ours, or somebody who has got into it.
            log.critical(
                "%s was ended for a system call that it may not make", self._process.name, extra=fields(call=name)
            )
        self._ended = code is not None
        return code

    def signal(self, number: signal.Signals) -> None:
        pid = self._process.pid
        if pid is None:
            raise AssertionError("a process that was spawned has a pid")
        with suppress(ProcessLookupError):  # it ended by itself, and is reaped at the next turn
            os.kill(pid, number)

    def _abort(self) -> None:
        """SIGABRT to the main thread, and SIGCONT: in a process that is stopped the first would wait for the second.

        By kill(2), any of the threads that wake could take it, and would print where it stands itself.
        """
        pid = self._process.pid
        _libc.tgkill(pid, pid, signal.SIGABRT)  # ESRCH: it ended by itself, as in signal()
        self.signal(signal.SIGCONT)

    def give_up(self) -> None:
        """Ends one that is of no use any more; its exit code comes by itself."""
        self._given_up = True
        self.signal(signal.SIGKILL)

    def kill(self) -> None:
        """Ends it now, and waits for that."""
        self.signal(signal.SIGKILL)
        self._process.join()

    def watch(self) -> None:
        """A child whose loop does not turn gets SIGABRT, which prints where it stands, and SIGKILL a little later.

        A tracer may hold it all the same; SIGKILL ends that, too.
        """
        age_s = self._heartbeat.age_s
        if age_s < _HUNG_S:
            return
        now_s = time.monotonic()
        if self._aborted_s is None:
            self._aborted_s = now_s
            log.error("%s hangs: SIGABRT", self._process.name, extra=fields(age_s=round(age_s, 1)))
            self._abort()
        elif now_s - self._aborted_s >= _ABORT_GRACE_S:
            log.error("%s still hangs: SIGKILL", self._process.name, extra=fields(age_s=round(age_s, 1)))
            self.signal(signal.SIGKILL)


def _lowest_free(number: int) -> list[int]:
    """What the next descriptors will be (pipe(2)): no other thread of the supervisor's opens any."""
    return list(islice((fd for fd in count() if not _is_open(fd)), number))


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def reap_strangers() -> None:
    """As PID 1, we inherit whatever loses its parent; a zombie of nobody's is taken away without a word."""
    ours: Iterable[int | None] = {p.pid for p in multiprocessing.active_children()}
    while True:
        try:
            gone = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if gone is None or gone.si_pid in ours:
            return  # one of ours that died this moment: its own SIGCHLD brings the loop back
        with suppress(ChildProcessError):
            os.waitpid(gone.si_pid, 0)
