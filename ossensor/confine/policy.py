"""Which system calls each kind of child may make once it has begun, and the filter that says so. Pure.

Invariant: what is not on a role's list is not executed in mode `kill`, whatever else happens to the process. The lists
say what is allowed; there is no list of what is forbidden.

Found by strace over the tests in tests/netns, and then thinned by argument: what is left is what Python's allocator,
threads and sockets do, and each role's own work. What a compromised child would want is not there: no program to start
(execve), no process to make (fork, clone without CLONE_THREAD), nobody to trace or signal, no socket of a family that
its role does not need, no filter to take off a capture socket, no frame to send by it, no code to make (PROT_EXEC), no
mount, module, key, BPF program or ring of io_uring.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import socket
from enum import Enum
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias

from ossensor.assembler import AND, JA, JEQ, JGE, LD_ABS, RET, Line, Text, assembled

from .syscalls import Architecture

Mode: TypeAlias = Literal["kill", "log"]

# linux/seccomp.h. TRAP before KILL_PROCESS: the call is as little executed, and the process, which dies of its SIGSYS
# as surely, can leave the call's number to the supervisor (sigsys.c); KILL_PROCESS tells the kernel's log alone.
KILL_PROCESS: Final = 0x80000000
TRAP: Final = 0x00030000
ERRNO: Final = 0x00050000
LOG: Final = 0x7FFC0000
ALLOW: Final = 0x7FFF0000
# Offsets in struct seccomp_data; the arguments are 64 bits, and both architectures little-endian.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16
_X32_BIT: Final = 0x40000000  # x86_64's other set of numbers has the same AUDIT_ARCH

_CLONE_THREAD: Final = 0x00010000
_AT_EMPTY_PATH: Final = 0x1000
_O_WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_FIONREAD, _FIONBIO, _FIOCLEX, _TCGETS = 0x541B, 0x5421, 0x5451, 0x5401
_SIOCGIFNAME, _SIOCGIFINDEX = 0x8910, 0x8933
_SOCKET_KIND: Final = 0xF  # SOCK_TYPE_MASK: without SOCK_NONBLOCK and SOCK_CLOEXEC
_PR_SET_NAME: Final = 15  # a thread's name
_PR_SET_VMA: Final = 0x53564D41  # by which newer C libraries name their memory


class Role(Enum):
    """What a child is for."""

    CAPTURE = "capture"
    UPLOAD = "upload"
    ENFORCE = "enforce"


class Check(NamedTuple):
    """A condition on an argument: what the mask leaves of its lower 32 bits is one of these.

    The lower half is enough: all that are looked at are ints in the kernel, or flags that are defined there.
    """

    argument: int
    mask: int
    values: tuple[int, ...]


_Alternatives: TypeAlias = tuple[tuple[Check, ...], ...]  # all checks of one of them hold
_WHOLE: Final = 0xFFFFFFFF
# What an interpreter does while it computes, waits, reads and writes what it has open, and ends. In the order in which
# they are looked for; the kernel keeps a bitmap of what needs no look at arguments (since 5.11), so it matters little.
_EVERYONE: Final = """
    poll ppoll futex read write recvfrom sendto clock_gettime gettimeofday getpid gettid
    readv writev pread64 lseek fstat close clock_nanosleep nanosleep clock_getres
    brk munmap mremap madvise sched_yield sched_getaffinity getrandom restart_syscall
    rt_sigaction rt_sigprocmask rt_sigreturn fcntl getsockname getpeername getsockopt
    getuid geteuid getgid getegid getppid getrusage exit exit_group
"""
_CALLS: Final = MappingProxyType(
    {
        Role.CAPTURE: _EVERYONE,
        # Threads, connections and the spool's files; and what a host's name services do, which getaddrinfo loads: this
        # list is the longest, and has what is harmless though no test was seen to need it.
        Role.UPLOAD: _EVERYONE
        + """
        recvmsg sendmsg set_robust_list rseq uname sysinfo
        connect accept accept4 shutdown setsockopt bind sendmmsg recvmmsg pipe2 pipe eventfd2 socketpair select pselect6
        epoll_create1 epoll_ctl epoll_wait epoll_pwait
        openat open newfstatat stat lstat statx access faccessat faccessat2 readlink readlinkat getcwd getdents64
        statfs fstatfs pwrite64 fsync fdatasync ftruncate unlink unlinkat rename renameat renameat2
        """,
        # Filters onto the sockets that it was lent, and the reading of files.
        Role.ENFORCE: _EVERYONE
        + """
        recvmsg sendmsg setsockopt bind newfstatat stat lstat statx readlink readlinkat getcwd getdents64
        """,
    }
)
# What of the calls above writes to a descriptor. A packet socket that is read from sends frames, too, and no capability
# is asked for once it is open.
_WRITING: Final = ("write", "writev", "sendto")
_THREADS_ALONE: Final = (Check(0, _CLONE_THREAD, (_CLONE_THREAD,)),)
_NO_CODE: Final = (Check(2, mmap.PROT_EXEC, (0,)),)


def _checked(role: Role, pid: int) -> dict[str, _Alternatives]:
    """Calls that are allowed with certain arguments."""
    requests = [_FIONREAD, _FIONBIO, _FIOCLEX, _TCGETS]
    more: dict[str, _Alternatives] = {}
    mapping: _Alternatives = (_NO_CODE,)
    if role is Role.UPLOAD:
        families = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK)
        # AF_NETLINK, AF_UNIX: getaddrinfo asks for the host's own addresses, and name services of the host's.
        kinds = (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW)
        more["socket"] = ((Check(0, _WHOLE, families), Check(1, _SOCKET_KIND, kinds)),)
        more["clone"] = (_THREADS_ALONE,)
        # getaddrinfo loads what nsswitch.conf names: code from files, whose folders Landlock leaves read-only.
        mapping = (_NO_CODE, (Check(3, mmap.MAP_ANONYMOUS, (0,)), Check(2, mmap.PROT_WRITE, (0,))))
    if role is Role.ENFORCE:
        # if_nametoindex asks by an ioctl on any socket.
        more["socket"] = ((Check(0, _WHOLE, (socket.AF_UNIX,)), Check(1, _SOCKET_KIND, (socket.SOCK_DGRAM,))),)
        more["openat"] = ((Check(2, _O_WRITING, (0,)),),)
        more["open"] = ((Check(1, _O_WRITING, (0,)),),)
        requests += [_SIOCGIFINDEX, _SIOCGIFNAME]
    if role is Role.CAPTURE:
        # fstat(3) is made of it; with a path it would be a look at a file.
        more["newfstatat"] = ((Check(3, _AT_EMPTY_PATH, (_AT_EMPTY_PATH,)),),)
        # No second number for a descriptor, by which it could be written to (program(), `mute`).
        more["fcntl"] = ((Check(1, _WHOLE, (fcntl.F_GETFD, fcntl.F_SETFD, fcntl.F_GETFL, fcntl.F_SETFL)),),)
    return more | {
        "mmap": mapping,
        "mprotect": (_NO_CODE,),
        "ioctl": ((Check(1, _WHOLE, tuple(requests)),),),
        "prctl": ((Check(0, _WHOLE, (_PR_SET_NAME, _PR_SET_VMA)),),),
        # abort(3), raise(3): to itself.
        "tgkill": ((Check(0, _WHOLE, (pid,)),),),
    }


def _answers(role: Role) -> dict[str, int]:
    """Calls that are refused with an error, because who makes them goes on well without."""
    # Its flags are where a filter cannot look. Told that there is none, a C library takes clone (as under Docker).
    refused = {"clone3": errno.ENOSYS}
    if role is Role.CAPTURE:
        # A traceback asks for lines of source, and prints none.
        refused |= dict.fromkeys(("openat", "open", "newfstatat", "stat", "lstat", "statx"), errno.EACCES)
        refused |= dict.fromkeys(("readlink", "readlinkat", "access", "faccessat", "getcwd"), errno.EACCES)
    return refused


def _when(call: str, number: int, alternatives: _Alternatives, then: int, otherwise: int) -> Text:
    """The lines that answer one call, by its arguments; others go on behind them."""
    text: Text = [Line(JEQ, number, otherwise=f"not {call}")]
    for which, checks in enumerate(alternatives):
        failed = f"{call} is not {which}"
        for place, check in enumerate(checks):
            passed = f"{call} passes {which}.{place}"
            text.append(Line(LD_ABS, _ARGUMENTS + 8 * check.argument))
            if check.mask != _WHOLE:
                text.append(Line(AND, check.mask))
            text += [Line(JEQ, value, then=passed) for value in check.values]
            text += [Line(JA, then=failed), passed]
        text += [Line(RET, then), failed]
    return [*text, Line(RET, otherwise), f"not {call}"]


def program(role: Role, architecture: Architecture, mode: Mode, pid: int, mute: tuple[int, ...] = ()) -> bytes:
    """The filter for this process, which has this pid: an array of struct sock_filter.

    `mute`: descriptors to which it writes nothing. For Role.CAPTURE alone, which can give them no other number.
    """
    numbers = architecture.numbers
    violation = TRAP if mode == "kill" else LOG
    text: Text = [
        Line(LD_ABS, _ARCHITECTURE),
        Line(JEQ, architecture.audit, otherwise="another architecture"),
        Line(LD_ABS, _NUMBER),
        Line(JGE, _X32_BIT, then="another architecture"),
        # Not known when this was written, so no list can have it: answered as by a kernel that does not have it, and
        # a C library that is newer than this goes on as on an older kernel.
        Line(JGE, architecture.newest + 1, then="not there"),
    ]
    if mode == "kill":
        # Who runs in here must not be able to survive what follows a violation.
        of_sigsys = ((Check(0, _WHOLE, (signal.SIGSYS,)),),)
        text += _when("rt_sigaction", numbers["rt_sigaction"], of_sigsys, KILL_PROCESS, ALLOW)
    answers = _answers(role) if mode == "kill" else {}
    for name, alternatives in (dict.fromkeys(answers, ()) | _checked(role, pid)).items():
        if name in numbers:
            otherwise = ERRNO | answers[name] if name in answers else violation
            text += _when(name, numbers[name], alternatives, ALLOW, otherwise)
    if mute:
        for name in _WRITING:
            text += _when(name, numbers[name], tuple((Check(0, _WHOLE, (fd,)),) for fd in mute), violation, ALLOW)
    for name in _CALLS[role].split():
        if name in numbers:
            text.append(Line(JEQ, numbers[name], then="allowed"))
    return assembled(
        [
            *text,
            Line(RET, violation),
            "allowed",
            Line(RET, ALLOW),
            "not there",
            Line(RET, ERRNO | errno.ENOSYS if mode == "kill" else LOG),
            "another architecture",
            Line(RET, KILL_PROCESS if mode == "kill" else LOG),
        ]
    )
