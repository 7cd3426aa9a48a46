"""Giving up privilege, for good: what each process keeps is checked by tests from outside, in /proc/PID/status.

The supervisor keeps CAP_NET_RAW (sockets) and, where it has them, what it needs to start and stop children under
another user. A child keeps nothing: no capability in any set, another user, no_new_privs.
"""

from __future__ import annotations

import ctypes
import os
import pwd
from contextlib import suppress
from pathlib import Path
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NAME: Final = 15
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_CAPABILITY_VERSION_3: Final = 0x20080522  # linux/capability.h

CAP_KILL: Final = 5
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_NET_RAW: Final = 13
_LAST_CAPABILITY: Final = 63

# What the kernel adds to a process's share of the memory, in thousandths of all that there is or that the cgroup may
# have, before it ends the process with the largest sum (proc(5), oom_score_adj). The supervisor's is what the systemd
# unit says. A child's is the highest: with half the memory between them it goes first also where the supervisor's
# share is larger, by all the slots; its successor goes on, and nothing is lost.
OOM_SUPERVISOR: Final = 500
OOM_CHILD: Final = 1000

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, *arguments: int) -> bool:
    return bool(_libc.prctl(option, *(ctypes.c_ulong(a) for a in (*arguments, 0, 0, 0, 0)[:4])) == 0)


def effective() -> set[int]:
    """The capabilities that this process has in effect."""
    # Bytes: it begins with the process's name, which has an interface's in it, cut anywhere (set_name).
    with open("/proc/self/status", "rb") as status:  # noqa: PTH123  one line of a kernel file
        for line in status:
            if line.startswith(b"CapEff:"):
                bits = int(line.split()[1], 16)
                return {n for n in range(_LAST_CAPABILITY + 1) if bits >> n & 1}
    raise AssertionError("/proc/self/status has no CapEff")


def _set(keep: set[int]) -> None:
    """Makes `keep` the effective and permitted set, and empties the inheritable one."""
    bits = sum(1 << n for n in keep)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    if _libc.capset(header, data) != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"capset: {os.strerror(errno)}")


def limit_supervisor() -> None:
    """Keeps what the supervisor's work needs of what it has, and nothing else."""
    _set(effective() & {CAP_NET_RAW, CAP_SETUID, CAP_SETGID, CAP_KILL})
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def user_ids(user: str) -> tuple[int, int]:
    """Uid and gid of a user name or a numeric uid; KeyError when there is no such name."""
    if user.isascii() and user.isdigit():
        uid = int(user)
        try:
            return uid, pwd.getpwuid(uid).pw_gid
        except KeyError:
            return uid, uid  # no passwd entry, as in most containers; 65534 is nobody and nogroup anywhere
    entry = pwd.getpwnam(user)
    return entry.pw_uid, entry.pw_gid


def drop_everything(uid: int, gid: int) -> str | None:
    """Leaves this process with no capability and, where possible, another user. Returns why the user stays, if it does.

    The user stays when we may not change it (not root, or no CAP_SETUID), or when the supervisor could not signal the
    child any more (no CAP_KILL): a worker that cannot be told to drain loses packets.
    """
    kept = None
    have = effective()
    if os.geteuid() == 0:
        if {CAP_SETUID, CAP_SETGID, CAP_KILL} <= have:
            try:
                os.setgroups([])
                os.setresgid(gid, gid, gid)
                os.setresuid(uid, uid, uid)
            except OSError as e:
                # EINVAL: a user namespace that does not map the id; EPERM: setgroups denied there.
                kept = f"uid stays {os.geteuid()}: {e.strerror}"
        else:
            kept = "uid stays 0: CAP_SETUID, CAP_SETGID and CAP_KILL are needed to change it"
    for capability in range(_LAST_CAPABILITY + 1):
        if not _prctl(_PR_CAPBSET_DROP, capability):
            break  # EPERM without CAP_SETPCAP, EINVAL past the last one; no_new_privs closes that door anyway
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _set(set())
    if not _prctl(_PR_SET_NO_NEW_PRIVS, 1):
        raise OSError("prctl(PR_SET_NO_NEW_PRIVS) failed")
    # Another process of the same user (a sibling) may not attach a debugger or read our memory.
    _prctl(_PR_SET_DUMPABLE, 0)
    return kept


def die_with_parent(parent_pid: int) -> None:
    """SIGKILL when the parent ends. To be called after the user changed: a change of credentials clears the setting.

    The parent may have ended between fork and here; then the kernel's promise comes too late, and we end ourselves.
    """
    _prctl(_PR_SET_PDEATHSIG, 9)
    if os.getppid() != parent_pid:
        os._exit(0)


def go_first(score: int) -> None:
    """If memory runs short, rather us than what we watch: raises this process's oom_score_adj to `score`.

    To be called while the file is still ours: of a process that changed its user it is root's.
    """
    path = Path("/proc/self/oom_score_adj")
    with suppress(OSError):  # a /proc that cannot be written: then whom it hits is not ours to choose
        if int(path.read_text(encoding="ascii")) < score:  # to lower it takes a privilege, and was somebody's intention
            path.write_text(str(score), encoding="ascii")


def set_name(name: str) -> None:
    """What ps and /proc/PID/comm show: 15 bytes at most."""
    buffer = ctypes.create_string_buffer(name.encode("utf-8", "replace")[:15])
    _libc.prctl(_PR_SET_NAME, buffer, 0, 0, 0)
