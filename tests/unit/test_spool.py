"""The spool's folder: what is there to stay, what is not, and a disk that does not do as it should."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

import pytest

from ossensor.spoolfile import DamagedError, Spooled
from ossensor.transport.protocol import Account, BatchId, Stream
from ossensor.workers import spool as spool_module
from ossensor.workers.spool import Order, Spool, Written

ACCOUNT = Account(first_packet=7)
SECTION = bytes(range(256)) * 4


def spooled(sequence: int, packets: int = 3) -> Spooled:
    return Spooled(BatchId(Stream("sensor-1", "0123456789abcdef" * 2, "eth0"), sequence), packets, 1000 + sequence)


class Disk:
    """A spool, and what its thread reported."""

    def __init__(self, folder: Path, limit_bytes: int = 1 << 20) -> None:
        self.reports: queue.SimpleQueue[Written] = queue.SimpleQueue()
        self.spool = Spool(folder, limit_bytes, self.reports.put)

    def write(self, sequence: int) -> Written:
        self.spool.order(Order(spooled(sequence), memoryview(SECTION), ACCOUNT))
        written = self.reports.get(timeout=120)
        self.spool.conclude(written, 100.0)
        return written


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))  # noqa: PTH208


def test_what_was_written_is_found_by_the_next_life_oldest_first_and_read(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for sequence in (2, 0, 1):
        assert disk.write(sequence).trouble == ""
    successor = Disk(tmp_path).spool
    found = successor.found()

    assert found == [spooled(n) for n in range(3)]
    assert successor.bytes == disk.spool.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert [(bytes(s), a) for s, a in map(successor.read, found)] == [(SECTION, ACCOUNT)] * 3
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_what_is_settled_is_gone_and_makes_room(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write(0)
    disk.spool.remove(spooled(0))

    assert (names(tmp_path), disk.spool.bytes) == ([], 0)


def test_half_a_file_of_a_killed_life_is_removed_and_strangers_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / spooled(0).name.replace(".pcapng", ".part")).write_bytes(b"half")
    for name in ("notes.txt", "notes.part"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "old.part").mkdir()

    assert Disk(tmp_path).spool.found() == []
    assert names(tmp_path) == ["notes.part", "notes.txt", "old.part"]


@pytest.mark.parametrize("number", [errno.EIO, errno.EUCLEAN, errno.ENOENT])
def test_one_file_that_cannot_be_looked_at_keeps_the_others_from_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk = Disk(tmp_path)
    for sequence in range(3):
        disk.write(sequence)
    size = (tmp_path / spooled(0).name).stat().st_size
    part = tmp_path / spooled(9).name.replace(".pcapng", ".part")
    part.write_bytes(b"half")
    bad = {tmp_path / spooled(1).name, part}

    def failing(name: str) -> Callable[[Path], object]:
        does = getattr(Path, name)

        def fail(path: Path) -> object:
            if path in bad:
                raise OSError(number, os.strerror(number))
            return does(path)

        return fail

    with monkeypatch.context() as broken:
        for name in ("stat", "unlink", "read_bytes"):
            broken.setattr(Path, name, failing(name))
        successor = Disk(tmp_path).spool
        found = successor.found()
        with pytest.raises(DamagedError, match=os.strerror(number)):
            successor.read(spooled(1))

    assert (found, successor.bytes) == ([spooled(n) for n in range(3)], 2 * size)
    assert bytes(successor.read(spooled(2))[0]) == SECTION


def test_names_that_are_found_are_flushed_before_anyone_relies_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A life that was killed between rename and flush left a whole file, and a name that an outage would take."""
    flushed: list[Path] = []
    monkeypatch.setattr(spool_module, "sync_folder", flushed.append)
    Disk(tmp_path).spool.found()

    assert flushed == [tmp_path]


def test_what_is_written_is_not_longer_than_the_limit_books_and_digest_included(tmp_path: Path) -> None:
    disk = Disk(tmp_path, limit_bytes=10 * len(SECTION))
    sequence = 0
    while disk.spool.takes(len(SECTION), 100.0):
        disk.write(sequence)
        sequence += 1

    assert (sequence, disk.spool.bytes <= 10 * len(SECTION)) == (8, True)


def test_it_takes_no_more_than_its_limit_what_is_on_its_way_included(tmp_path: Path) -> None:
    spool = Disk(tmp_path, limit_bytes=10 * len(SECTION)).spool
    taken = 0
    while spool.takes(4 * len(SECTION), 0.0):
        spool._pending_bytes += 4 * len(SECTION)
        taken += 1

    assert taken == 2


def test_a_damaged_file_is_set_aside_and_not_found_again(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write(0)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedError):
        disk.spool.read(spooled(0))
    disk.spool.set_aside(spooled(0))

    assert names(tmp_path) == [spooled(0).name + ".damaged"]
    assert Disk(tmp_path).spool.found() == []
    with pytest.raises(DamagedError, match="it cannot be read: No such file or directory"):
        disk.spool.read(spooled(0))


def test_a_file_of_a_size_that_no_memory_holds_is_damaged(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    disk.write(0)
    (path,) = tmp_path.iterdir()
    os.truncate(path, 1 << 42)
    with pytest.raises(DamagedError, match="it is longer than any batch"):
        disk.spool.read(spooled(0))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_nothing_behind_and_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk = Disk(tmp_path)

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        written = disk.write(0)

    assert (written.trouble, written.passing) == (os.strerror(number), True)
    assert names(tmp_path) == []
    assert [disk.spool.takes(10, now_s) for now_s in (100.0, 104.9, 105.1)] == [False, False, True]
    assert disk.write(0).trouble == ""


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS])
def test_after_a_failed_flush_nothing_more_is_written_and_what_was_flushed_is_still_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    disk = Disk(tmp_path)
    disk.write(0)

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        written = disk.write(1)

    assert (written.passing, disk.spool.broken, disk.spool.takes(10, 1e9)) == (False, True, False)
    assert names(tmp_path) == [spooled(0).name]
    assert bytes(disk.spool.read(spooled(0))[0]) == SECTION


def test_orders_that_were_waiting_when_a_flush_failed_are_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread knows of it before the main thread has concluded, and another batch may be in its queue by then."""
    disk = Disk(tmp_path)
    all_are_there = threading.Event()
    numbers = [errno.EIO]
    flush = os.fsync

    def fail_once(fd: int) -> None:
        assert all_are_there.wait(120)
        if numbers:
            raise OSError(numbers[0], os.strerror(numbers.pop()))
        flush(fd)

    monkeypatch.setattr(os, "fsync", fail_once)
    for sequence in range(spool_module._PENDING):
        disk.spool.order(Order(spooled(sequence), memoryview(SECTION), ACCOUNT))
    all_are_there.set()
    reports = [disk.reports.get(timeout=120) for _ in range(spool_module._PENDING)]

    assert [written.order.spooled for written in reports] == [spooled(n) for n in range(spool_module._PENDING)]
    assert {(written.trouble, written.passing) for written in reports} == {(os.strerror(errno.EIO), False)}
    assert names(tmp_path) == []


def test_a_folder_that_is_gone_breaks_nothing_but_the_spool(tmp_path: Path) -> None:
    disk = Disk(tmp_path / "none")

    assert disk.write(0).trouble == "No such file or directory"
    assert disk.spool.broken
    with pytest.raises(OSError, match="No such file"):
        disk.spool.found()


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Short:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            os.close(self.fd)

        def fileno(self) -> int:
            return self.fd

        def write(self, data: memoryview) -> int:
            return os.write(self.fd, data[:100])

    monkeypatch.setattr(spool_module.os, "fdopen", lambda fd, *_, **__: Short(fd))
    disk = Disk(tmp_path)

    assert disk.write(0).trouble == ""
    assert bytes(disk.spool.read(spooled(0))[0]) == SECTION
