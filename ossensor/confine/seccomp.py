"""Laying the filter of a role on this process, for good: seccomp(2).

Invariant: once `lay_on` has returned, no thread of this process, present or later, makes a system call that the filter
does not let pass. no_new_privs is set before (privileges.py); without it the kernel would want CAP_SYS_ADMIN.
"""

from __future__ import annotations

import ctypes
import os
import platform
from typing import Final

from . import _sigsys
from .policy import Mode, Role, program
from .syscalls import ARCHITECTURES

# linux/seccomp.h
_SET_MODE_FILTER: Final = 1
_FLAG_TSYNC: Final = 1
_INSTRUCTION_BYTES: Final = 8  # struct sock_filter

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def mode_here(wanted: str) -> Mode | None:
    """What a setting means on this machine: `auto` kills where the tests were run, and tells elsewhere."""
    if wanted == "auto":
        wanted = "kill" if platform.machine() == "x86_64" else "log"
    return "kill" if wanted == "kill" else "log" if wanted == "log" else None


def lay_on(role: Role, mode: Mode, violation: memoryview, mute: tuple[int, ...]) -> str | None:
    """Confines this process. Returns why not, where the kernel cannot.

    `violation` is eight bytes that somebody else can read: the number of the call that ended this process, plus one.
    """
    architecture = ARCHITECTURES.get(platform.machine())
    if architecture is None:
        return f"no table of system calls for {platform.machine()}"
    text = program(role, architecture, mode, os.getpid(), mute)
    _sigsys.record_in(violation)
    call = architecture.numbers["seccomp"]
    # TSYNC: there is one thread now, and if that should ever change, the others are not left out.
    done = _libc.syscall(
        ctypes.c_long(call),
        ctypes.c_ulong(_SET_MODE_FILTER),
        ctypes.c_ulong(_FLAG_TSYNC),
        ctypes.byref(_Program(len(text) // _INSTRUCTION_BYTES, text)),
    )
    if done == 0:
        return None
    if done > 0:
        raise AssertionError(f"thread {done} has a filter of its own")
    return f"seccomp: {os.strerror(ctypes.get_errno())}"  # ENOSYS, EINVAL: a kernel built without it


def name_of(number: int) -> str:
    """The system call's name on this machine."""
    architecture = ARCHITECTURES.get(platform.machine())
    return f"number {number}" if architecture is None else architecture.name(number)
