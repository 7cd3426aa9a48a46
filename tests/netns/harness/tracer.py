"""strace between a process and the kernel: the next call of one kind fails, and is not made."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

from harness import proc

_LETS_GO_WITHIN_S = 5.0


class Failing:
    """In force from the block's beginning to its end, for every thread: the `nth` call of each fails, once.

    strace counts for each thread by itself. To inject, it makes the call's number -1, and the kernel asks the filter of
    system calls about that (seccomp(2), since 4.8): the process is to have none.
    """

    def __init__(self, pid: int, call: str, error: str, path: Path, *, nth: int = 1) -> None:
        self._pid = pid
        self._path = path
        inject = f"inject={call}:error={error}:when={nth}"
        argv = ["strace", "-f", "-q", "-p", str(pid), "-o", str(path), "-e", f"trace={call}", "-e", inject]
        self._process = subprocess.Popen(argv, stderr=subprocess.PIPE)

    def __enter__(self) -> Self:
        proc.eventually("strace is there", self._has_all)
        return self

    def _has_all(self) -> bool:
        """Whether every thread is traced, or nothing of the process is left."""
        return "0" not in proc.of_threads(self._pid, "TracerPid")

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        proc.happened(lambda: self._process.poll() is not None or not proc.alive(self._pid), _LETS_GO_WITHIN_S)
        # It waits for ever for a process that is ending; and that, for being let go of.
        self._process.kill()
        self._process.communicate()

    def failed(self) -> int:
        """How many calls have failed so far."""
        return self._path.read_text().count("(INJECTED)") if self._path.exists() else 0
