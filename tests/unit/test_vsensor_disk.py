"""The store on disks that are full, or broken."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from test_vsensor_kit import EPOCH, STREAM, committed, payload, rows, section, stored
from test_vsensor_store import LENGTHS, SECTIONS, append, files, opened, put, unexpected

from ossensor.transport.protocol import BatchId, Outcome, Stream
from ossensor.vsensor.files import Files
from ossensor.vsensor.index import Index
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.store import Append, Store


def test_a_full_disk_refuses_and_the_same_file_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short write comes first, the error one call later: as a full disk does it."""
    room = sum(LENGTHS[:3]) + 50

    def pwrite(fd: int, data: memoryview, offset: int) -> int:
        if offset >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.pwrite(fd, data[: room - offset], offset)

    with opened(tmp_path) as store:
        monkeypatch.setattr(Files, "_pwrite", staticmethod(pwrite))
        full = put(store, 0, 1, 2, 3, 3)
        at_full = stored(tmp_path)
        room = 1 << 20
        after = put(store, 3, 4)

    assert full == [Outcome.STORED] * 3 + [Outcome.STORE_FAILED] * 2
    assert at_full == SECTIONS[:3]
    assert after == [Outcome.STORED] * 2
    assert [p.read_bytes() for p in files(tmp_path)] == [b"".join(SECTIONS[:5])]
    assert rows(tmp_path) == [("sensor-1", "eth0", i) for i in range(5)]


def test_one_broken_file_does_not_fail_the_others_of_its_group(tmp_path: Path) -> None:
    other = Stream("sensor-2", EPOCH, "eth0")
    (tmp_path / "sensor-1").write_text("a file where the folder must be")
    store = Store(Layout(tmp_path), on_crash=unexpected)
    futures = [store.append(append(0)), store.append(append(0, stream=other)), store.append(append(1))]
    store.start()
    store.close()

    assert [f.result(0) for f in futures] == [Outcome.STORE_FAILED, Outcome.STORED, Outcome.STORE_FAILED]
    with closing(Index(tmp_path / "index.sqlite")) as index:
        assert [f.split("/")[0] for f, _ in index.files()] == ["sensor-2"]


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_acknowledged_by_an_index_that_was_taken_away_beneath_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, replaced: bool
) -> None:
    """As by `rm -rf store/*`: what was acknowledged after that, no successor and no audit knew of."""
    index, aside = tmp_path / "index.sqlite", tmp_path / "aside"
    with opened(tmp_path) as store:
        before = put(store, 0)
        index.rename(aside)
        if replaced:
            index.touch()
        without = put(store, 1, 1)
        without.append(store.repeat(BatchId(STREAM, 0)).result())
        assert store.tidy().result().trouble.startswith(f"{index} was taken away")  # files may be another store's now
        aside.rename(index)
        after = put(store, 1, 2)

    assert before + without + after == [Outcome.STORED, *[Outcome.STORE_FAILED] * 3, *[Outcome.STORED] * 2]
    assert committed(tmp_path) == SECTIONS[:3]
    told = f"store: cannot write: {index} was taken away beneath it; it takes a restart to begin a new one"
    assert [record.getMessage() for record in caplog.records] == [told, "store: writing again"]


def test_a_file_that_is_in_the_way_is_left_alone_and_leaves_no_row(tmp_path: Path) -> None:
    start_ns = 1_795_424_479_000_000_000
    stranger = tmp_path / Layout.file(STREAM.sensor, STREAM.interface, start_ns)
    stranger.parent.mkdir(parents=True)
    stranger.write_bytes(b"not ours")
    times = iter([start_ns, start_ns + 1, start_ns + 2])
    with opened(tmp_path, clock_ns=lambda: next(times)) as store:
        refused = put(store, 0)
        with closing(Index(tmp_path / "index.sqlite")) as index:
            announced = index.files()
        outcomes = put(store, 0)

    assert refused == [Outcome.STORE_FAILED]
    assert announced == []
    assert outcomes == [Outcome.STORED]
    assert [p.read_bytes() for p in files(tmp_path)] == [b"not ours", SECTIONS[0]]


def test_after_a_failed_flush_the_file_is_cut_and_never_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fdatasync(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with opened(tmp_path) as store:
        outcomes = put(store, 0, 1)
        with monkeypatch.context() as broken:
            broken.setattr(Files, "_fdatasync", staticmethod(fdatasync))
            outcomes += put(store, 2, 2)
            at_fault = [p.read_bytes() for p in files(tmp_path)]
        outcomes += put(store, 2, 3)

    assert outcomes == [Outcome.STORED] * 2 + [Outcome.STORE_FAILED] * 2 + [Outcome.STORED] * 2
    assert at_fault == [b"".join(SECTIONS[:2])]
    assert [p.read_bytes() for p in files(tmp_path)] == [b"".join(SECTIONS[:2]), b"".join(SECTIONS[2:4])]


@pytest.mark.parametrize("before_it", [True, False], ids=["nothing written", "rows written"])
def test_a_failed_commit_stores_nothing_until_the_index_works_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, before_it: bool
) -> None:
    settled: list[bool] = []

    def commit(index: Index, rows: Any) -> None:
        if not before_it:
            index._db.execute("BEGIN IMMEDIATE")
            for row in rows:
                index._add(row)
            index._db.execute("ROLLBACK")
        raise sqlite3.OperationalError("disk I/O error")

    def settle(_: Index) -> None:
        settled.append(False)
        raise sqlite3.OperationalError("database or disk is full")

    with opened(tmp_path) as store:
        outcomes = put(store, 0, 1)
        with monkeypatch.context() as broken:
            broken.setattr(Index, "commit", commit)
            broken.setattr(Index, "settle", settle)
            outcomes += put(store, 2, 2)
            doubtful = files(tmp_path)[0].read_bytes()
        outcomes += put(store, 2, 3)

    assert outcomes == [Outcome.STORED] * 2 + [Outcome.STORE_FAILED] * 2 + [Outcome.STORED] * 2
    assert settled == [False]
    assert doubtful == b"".join(SECTIONS[:3])  # not cut: it was not known yet that no row would ask for it
    assert [p.read_bytes() for p in files(tmp_path)] == [b"".join(SECTIONS[:4])]


def test_a_bug_in_the_writer_ends_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    died: list[bool] = []
    store = Store(Layout(tmp_path), on_crash=lambda: died.append(True))
    monkeypatch.setattr(store, "_plan", lambda _: 1 // 0)
    store.append(append(0))
    store.start()
    store._thread.join()
    store._index.close()

    assert died == [True]
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", str(disk)], check=False, capture_output=True
    )
    if mount.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mount.stderr.decode().strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_really_full_disk_refuses_and_recovers(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300 << 10))
    big = [section([payload(i, 100_000)]) for i in range(6)]

    def put_big(store: Store, sequence: int) -> Outcome:
        return store.append(Append(BatchId(STREAM, sequence), 0, 1, big[sequence])).result(120)

    with opened(small_disk) as store:
        sequence = 0
        while (outcome := put_big(store, sequence)) == Outcome.STORED:
            sequence += 1
        refused = [outcome, *(put_big(store, sequence) for _ in range(3))]
        at_full = stored(small_disk)
        ballast.unlink()
        after = [put_big(store, s) for s in range(sequence, 6)]

    assert 0 < sequence < 6
    assert refused == [Outcome.STORE_FAILED] * 4
    assert at_full == big[:sequence]
    assert after == [Outcome.STORED] * (6 - sequence)
    assert stored(small_disk) == committed(small_disk) == big
