"""Which files this process may still open, for good: Landlock, where the kernel has it (since Linux 5.13).

Invariant: after `lay_on` a file or folder that lies below none of the given paths can neither be read nor written nor
made. What is open stays open. Rights are those of the path's folder as it was then: one that is put in its place later
is another, and closed.

Its system calls have the same numbers on every architecture (landlock(7)); rights and flags are linux/landlock.h's.
"""

from __future__ import annotations

import ctypes
import os
import stat
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << n for n in range(6))
_MAKE_REG: Final = 1 << 8
_TRUNCATE: Final = 1 << 14
_READING: Final = READ_FILE | READ_DIR
_WRITING: Final = _READING | WRITE_FILE | REMOVE_FILE | _MAKE_REG | _TRUNCATE
_OF_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE  # what a rule on a file may name
# How many rights on files a version of the interface knows: those that are not asked for are not taken away.
_RIGHTS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_NET_SINCE: Final = 4  # TCP: 1 bind, 2 connect
_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPES_SINCE: Final = 6  # abstract sockets and signals of those outside

_libc = ctypes.CDLL(None, use_errno=True)


def _call(number: int, *arguments: object) -> int:
    return int(_libc.syscall(ctypes.c_long(number), *arguments))


def version() -> int:
    """Of the kernel's Landlock; 0 where it has none, or does not let us ask."""
    asked = ctypes.c_ulong(_CREATE_RULESET_VERSION)
    return max(0, _call(_CREATE_RULESET, ctypes.c_void_p(None), ctypes.c_size_t(0), asked))


def lay_on(reads: Iterable[str], writes: Iterable[str], *, connects: bool) -> str | None:
    """Leaves `reads` to read, `writes` to read and write, and TCP connections where `connects`.

    Returns why not, where the kernel cannot. Paths that are not there are passed over.
    """
    known = version()
    if not known:
        return "this kernel has no Landlock"
    handled = (1 << _RIGHTS[min(known, max(_RIGHTS))]) - 1
    network = 0 if known < _NET_SINCE else _BIND_TCP if connects else _BIND_TCP | _CONNECT_TCP
    scopes = 3 if known >= _SCOPES_SINCE else 0
    # A kernel takes a longer structure than it knows only if the rest is zero.
    attributes = struct.pack("=QQQ", handled, network, scopes)[: 24 if scopes else 16 if network else 8]
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_ulong(0))
    if ruleset < 0:
        return f"Landlock: {os.strerror(ctypes.get_errno())}"
    try:
        for paths, rights in ((reads, _READING), (writes, _WRITING)):
            for path in paths:
                with suppress(OSError):
                    _allow(ruleset, path, rights & handled)
        if _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_ulong(0)) < 0:
            return f"Landlock: {os.strerror(ctypes.get_errno())}"
    finally:
        os.close(ruleset)
    return None


def _allow(ruleset: int, path: str, rights: int) -> None:
    beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(beneath).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, beneath)  # struct landlock_path_beneath_attr is packed
        if _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_RULE_PATH_BENEATH), rule, ctypes.c_ulong(0)) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
    finally:
        os.close(beneath)
