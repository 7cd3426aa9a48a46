"""What /proc says of processes, and waiting for it to change."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_POLL_S = 0.02
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def happened(predicate: Callable[[], object], timeout_s: float) -> bool:
    """True once the predicate holds; False when it did not before the deadline."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True


def eventually(what: str, predicate: Callable[[], T], timeout_s: float = 10) -> T:
    """The first true value of the predicate. Fails, naming `what`, when there was none before the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(_POLL_S)
    return value


def _read(pid: int, name: str) -> str:
    """The file's text; empty when the process has gone, before or while it was read."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> list[int]:
    """The process's children, also those that a thread of its forked; zombies too, until they are reaped."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except FileNotFoundError:
        return []
    return [int(child) for thread in threads for child in _read(pid, f"task/{thread.name}/children").split()]


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


def filters(pid: int) -> set[int]:
    """How many filters of system calls each thread of the process has; empty when it has gone."""
    try:
        threads = [thread.name for thread in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return set()
    lines = (line for name in threads for line in _read(pid, f"task/{name}/status").splitlines())
    return {int(line.split()[1]) for line in lines if line.startswith("Seccomp_filters:")}


def at_work(pid: int) -> bool:
    """True while the process runs or waits for something: it is not stopped, and no zombie."""
    return status(pid).get("State", "Z")[0] in "RSD"


def descriptors(pid: int) -> int:
    """How many the process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def alive(pid: int) -> bool:
    """True while the process can still run code: a zombie cannot."""
    return status(pid).get("State", "Z")[0] not in "ZX"


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
    threads = (thread for one in tree(pid) for thread in Path(f"/proc/{one}/task").iterdir())
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


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
