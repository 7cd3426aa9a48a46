"""What /proc says of processes, and waiting for it to change.

Deadlines are there for what hangs: a machine whose processors are taken away for seconds reaches none of them. What may
take so long and no longer is measured, and judged by `quickest`.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
HANGS_S = 90.0
_POLL_S = 0.02
_ROUNDS = 3
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def happened(predicate: Callable[[], object], timeout_s: float) -> bool:
    """True once the predicate holds; False when it did not before the deadline, and does not at the last look."""
    deadline = time.monotonic() + timeout_s
    while True:
        last = time.monotonic() > deadline  # before the look: this process may lose its processor after it
        if predicate():
            return True
        if last:
            return False
        time.sleep(_POLL_S)


def eventually(what: str, predicate: Callable[[], T], timeout_s: float = HANGS_S) -> T:
    """The first true value of the predicate. Fails, naming `what`, when there was none before the deadline."""
    found: list[T] = []

    def holds() -> T:
        found[:] = [predicate()]
        return found[0]

    assert happened(holds, timeout_s), f"not within {timeout_s} s: {what}"
    return found[0]


def quickest(limit_s: float, attempt: Callable[[], float]) -> float:
    """The least of what up to three attempts took; there is no further one after the first inside the limit.

    A program that is too slow is so each time, and a machine that stood still for a second was so once.
    """
    took_s: list[float] = []
    while len(took_s) < _ROUNDS and (not took_s or took_s[-1] > limit_s):
        took_s.append(attempt())
    print(f"took {', '.join(f'{one_s:.2f}' for one_s in took_s)} s, where {limit_s} are allowed")
    return min(took_s)


def _read(pid: int, name: str) -> str:
    """The file's text; empty when the process has gone, before or while it was read."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def read_bytes(pid: int, name: str) -> bytes:
    """The same, of a file that may hold anything."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")  # noqa: PTH208  names are what is wanted
    except (FileNotFoundError, ProcessLookupError):
        return []


def children(pid: int) -> list[int]:
    """The process's children, also those that a thread of its forked; zombies too, until they are reaped."""
    return [int(child) for name in _threads(pid) for child in _read(pid, f"task/{name}/children").split()]


def tree(pid: int) -> list[int]:
    """The process and everything below it."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


def comm(pid: int) -> str:
    """The process's name as the kernel has it, cut at 15 characters; empty when it has gone."""
    return _read(pid, "comm").rstrip("\n")


def status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status; empty when the process has gone."""
    lines = _read(pid, "status").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def of_threads(pid: int, field: str) -> set[str]:
    """The values of this field of /proc/PID/status that the threads of the process have; empty when it has gone."""
    lines = (line.partition(":") for name in _threads(pid) for line in _read(pid, f"task/{name}/status").splitlines())
    return {value.strip() for name, _, value in lines if name == field}


def filters(pid: int) -> set[int]:
    """How many filters of system calls each thread of the process has; empty when it has gone."""
    return set(map(int, of_threads(pid, "Seccomp_filters")))


def at_work(pid: int) -> bool:
    """True while the process runs or waits for something: it is not stopped, and no zombie."""
    return status(pid).get("State", "Z")[0] in "RSD"


def descriptors(pid: int) -> int:
    """How many the process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def alive(pid: int) -> bool:
    """True while the process can still run code: a zombie cannot."""
    return status(pid).get("State", "Z")[0] not in "ZX"


def kill(pids: Iterable[int]) -> None:
    """SIGKILL, in this order. The death of one may be that of the next, too."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def cpu_s(pid: int) -> float:
    """Processor seconds that the process and its living descendants have used, reaped children included."""

    def ticks(one: int) -> int:
        # The name in parentheses may hold anything; what follows the last one is fields 3 and up of proc(5).
        fields = _read(one, "stat").rpartition(")")[2].split()
        return sum(map(int, fields[11:15]))

    return sum(map(ticks, tree(pid))) / _TICKS_PER_S


def scheduled_s(pid: int) -> float:
    """Processor seconds that the process and its living descendants have used, by the scheduler's own clock.

    cpu_s() counts a tick for whoever is met at it; short work that a timer starts is met far too often.
    """
    threads = ((one, name) for one in tree(pid) for name in _threads(one))
    return sum(int((_read(one, f"task/{name}/schedstat").split() or "0")[0]) for one, name in threads) / 1e9


def gone_within(pids: list[int], timeout_s: float, action: Callable[[], object]) -> set[int]:
    """Those of the pids that still run `timeout_s` after the action. Watched by descriptor: no number is reused."""
    with ExitStack() as stack:
        watched: dict[int, int] = {}
        for pid in pids:
            descriptor = os.pidfd_open(pid)
            stack.callback(os.close, descriptor)
            watched[descriptor] = pid
        action()
        deadline = time.monotonic() + timeout_s
        while watched and (left_s := deadline - time.monotonic()) > 0:
            for descriptor in select.select(list(watched), [], [], left_s)[0]:
                del watched[descriptor]
        return set(watched.values())


def gone_after_s(pids: list[int], action: Callable[[], object]) -> float:
    """How long after the action's end the last of the pids has ended. Fails when one does not end at all."""
    did_s: list[float] = []

    def act() -> None:
        action()
        did_s.append(time.monotonic())

    left = gone_within(pids, HANGS_S, act)
    assert left == set(), f"not gone within {HANGS_S} s: {left}"
    return time.monotonic() - did_s[0]
