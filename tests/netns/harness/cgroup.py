"""A memory cgroup of the test's own, of either version: the limit that a container has, without the container."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Self

from harness.proc import eventually

_MOUNT: Final = Path("/sys/fs/cgroup")


class UnavailableError(Exception):
    """No such cgroup can be made here, for the reason that it carries."""


class _Version(NamedTuple):
    """What the kernel calls it (Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst)."""

    root: Path
    limit: str
    used: str
    most: str
    kills: str  # the file with the line "oom_kill NUMBER"
    files: str  # in memory.stat: what was read of files, and what is shared (shmem)


_V1: Final = _Version(
    _MOUNT / "memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.oom_control",
    "cache",
)
_V2: Final = _Version(_MOUNT, "memory.max", "memory.current", "memory.peak", "memory.events", "file")


def _version() -> _Version:
    if (_V1.root / _V1.limit).exists():
        return _V1
    controllers = _V2.root / "cgroup.subtree_control"
    if not controllers.exists() or "memory" not in controllers.read_text().split():
        raise UnavailableError("no hierarchy of cgroups here gives out memory")
    return _V2


class Memory:
    """The kernel's account of a cgroup."""

    def __init__(self, name: str) -> None:
        self._version = _version()
        self._folder = self._version.root / name.lstrip("/")

    @classmethod
    def of(cls, pid: int) -> Self:
        """Of the cgroup that the process is in."""
        lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        paths = {controllers: path for _, controllers, path in lines}
        return cls(paths.get("memory", paths.get("", "")))  # without a name: all of version 2

    @property
    def used_bytes(self) -> int:
        return int((self._folder / self._version.used).read_text())

    @property
    def most_bytes(self) -> int:
        """The most that was used at any moment."""
        return int((self._folder / self._version.most).read_text())

    @property
    def kills(self) -> int:
        """How often the kernel has killed a process in it for want of memory."""
        return self._fields(self._version.kills)["oom_kill"]

    @property
    def files_bytes(self) -> int:
        """What of it are files that its processes were the first to read, which the kernel may forget."""
        fields = self._fields("memory.stat")
        return fields[self._version.files] - fields["shmem"]

    def _fields(self, name: str) -> dict[str, int]:
        lines = (line.split() for line in (self._folder / name).read_text().splitlines())
        return {name: int(number) for name, number in lines}


class MemoryCgroup(Memory):
    """One with this limit, from construction to `close`, by when its processes must have ended."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"ossensor-test-{os.getpid()}-{os.urandom(4).hex()}")
        try:
            self._folder.mkdir()
        except OSError as e:
            raise UnavailableError(f"no memory cgroup can be made: {e.strerror}") from e
        self.limit(limit_bytes)
        for name in ("memory.memsw.limit_in_bytes", "memory.swap.max"):
            with suppress(FileNotFoundError, PermissionError):  # a machine without swap may have neither
                self._write(name, limit_bytes if "memsw" in name else 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        eventually("nobody is in the cgroup", lambda: not (self._folder / "cgroup.procs").read_text())
        self._folder.rmdir()

    def limit(self, limit_bytes: int) -> None:
        """From now on it is this. OSError with EBUSY when more is in use than the kernel can take back."""
        self._write(self._version.limit, limit_bytes)

    def _write(self, name: str, value: int) -> None:
        # Opened for writing and nothing else: the kernel lets nobody make a file here.
        fd = os.open(self._folder / name, os.O_WRONLY)
        try:
            os.write(fd, str(value).encode())
        finally:
            os.close(fd)

    @property
    def under(self) -> tuple[str, ...]:
        """To be put before a command: a shell that enters the cgroup and becomes it.

        By this process's root, since a namespace of the harness has another /sys.
        """
        seen_from_there = f"/proc/{os.getpid()}/root{self._folder}/cgroup.procs"
        return ("sh", "-c", 'echo $$ > "$0" && exec "$@"', seen_from_there)
