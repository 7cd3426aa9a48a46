"""Control groups: what all that a command starts takes of the processors; many processes that have the share of one."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

_V1: Final = Path("/sys/fs/cgroup/cpuacct")  # where both versions are mounted, the first counts
_V2: Final = Path("/sys/fs/cgroup")
_V1_CPU: Final = Path("/sys/fs/cgroup/cpu")


class Group(NamedTuple):
    """A control group."""

    path: Path

    @property
    def joining(self) -> list[str]:
        """What to put before a command so that it runs in the group."""
        return ["sh", "-c", f'echo $$ > {self.path}/cgroup.procs && exec "$@"', "sh"]

    @property
    def cpu_s(self) -> float:
        if (nanoseconds := self.path / "cpuacct.usage").exists():
            return int(nanoseconds.read_text()) / 1e9
        said = dict(line.split() for line in (self.path / "cpu.stat").read_text().splitlines())
        return int(said["usage_usec"]) / 1e6

    def pids(self) -> list[int]:
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]


@contextlib.contextmanager
def group() -> Iterator[Group]:
    """A new one. What still runs in it at the end is killed."""
    made = Group((_V1 if _V1.is_dir() else _V2) / f"ossensor-bench-{os.getpid()}")
    made.path.mkdir()
    try:
        yield made
    finally:
        _end(made)


@contextlib.contextmanager
def as_one() -> Iterator[Callable[[], object]]:
    """What processes call to have, all together, no more of the processors than one other has; or to be nice at least.

    nice(2) weighs one process against another: at 19 each has 15 where others have 1,024, and 500 outweigh one.
    """
    made = Group((_V1_CPU if _V1_CPU.is_dir() else _V2) / f"ossensor-bench-many-{os.getpid()}")
    try:
        made.path.mkdir()
    except OSError:  # not root
        yield lambda: os.nice(19)
        return
    try:
        yield lambda: (made.path / "cgroup.procs").write_text("0")
    finally:
        _end(made)


def _end(made: Group) -> None:
    while pids := made.pids():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        time.sleep(0.02)
    made.path.rmdir()
