"""Rotation, retention and compression: what goes, in which order, and what a kill at any point leaves."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from filled_store import EPOCH, PER_BATCH, START_S, fill, opened
from hypothesis import given
from hypothesis import strategies as st
from test_extract import Extracted

from ossensor import cli
from ossensor.transport.protocol import Account, BatchId, Outcome, Stream
from ossensor.vsensor import janitor, removals, tidying
from ossensor.vsensor.claim import claimed
from ossensor.vsensor.index import Index
from ossensor.vsensor.packed import FRAME_BYTES, pack
from ossensor.vsensor.removals import Run, runs
from ossensor.vsensor.retention import Doomed, Kept, Limits, doomed
from ossensor.vsensor.store import Append, Store
from ossensor.vsensor.stored import DamagedError, Stored

DAY_NS = 24 * 3600 * 10**9
STREAM = Stream("a", EPOCH, "eth0")


# -- which files go ---------------------------------------------------------------------------------------------------


def kept(name: str, size: int, age: int, *, is_open: bool = False) -> Kept:
    return Kept(name, size, 100 - age, is_open)


FILES = [kept("new", 10, 1), kept("old", 10, 50), kept("oldest", 10, 90), kept("open", 10, 95, is_open=True)]


@pytest.mark.parametrize(
    "limits,expected",
    [
        (Limits(), []),
        (Limits(keep_ns=50), [("oldest", "age")]),
        (Limits(keep_ns=49), [("oldest", "age"), ("old", "age")]),
        (Limits(keep_ns=0), [("oldest", "age"), ("old", "age"), ("new", "age")]),
        (Limits(keep_bytes=40), []),
        (Limits(keep_bytes=39), [("oldest", "size")]),
        (Limits(keep_bytes=0), [("oldest", "size"), ("old", "size"), ("new", "size")]),
        (Limits(keep_ns=60, keep_bytes=30), [("oldest", "age")]),
        (Limits(keep_ns=60, keep_bytes=29), [("oldest", "age"), ("old", "size")]),
    ],
)
def test_the_oldest_go_first_and_the_open_one_never(limits: Limits, expected: list[tuple[str, str]]) -> None:
    assert doomed(FILES, limits, 100) == [Doomed(name, 10, why) for name, why in expected]


# -- runs -------------------------------------------------------------------------------------------------------------


def batch(n: int, first_packet: int | None, packets: int = 1, *, final: int = 0, epoch: str = "e") -> Run:
    books = None if first_packet is None else Account(first_packet=first_packet, final=final).text
    return Run("s", epoch, "i", n, n, packets, first_packet, books, 1, 100 + n, 100 + n, 10 * n, 10 * n + 5)


@pytest.mark.parametrize(
    "batches,expected",
    [
        ([], []),
        ([batch(3, 9), batch(4, 10, 2), batch(5, 12)], [(3, 5)]),
        ([batch(3, 9), batch(5, 10)], [(3, 3), (5, 5)]),  # a hole
        ([batch(3, 9), batch(4, 11)], [(3, 3), (4, 4)]),  # books that contradict each other go on doing so
        ([batch(3, None), batch(4, None)], [(3, 4)]),
        ([batch(3, None), batch(4, 1)], [(3, 3), (4, 4)]),
        ([batch(3, 9, final=1), batch(4, 10)], [(3, 3), (4, 4)]),
        ([batch(3, 9), batch(4, 10, epoch="f")], [(3, 3), (4, 4)]),
    ],
)
def test_batches_become_runs_where_they_follow_one_another(batches: list[Run], expected: list[tuple[int, int]]) -> None:
    assert [(run.first, run.last) for run in runs(batches)] == expected


def test_a_run_says_what_its_batches_said() -> None:
    (run,) = runs([batch(3, 9, 2), batch(4, 11, 5, final=1)])

    last = Account(first_packet=11, final=1).text
    assert run == Run("s", "e", "i", 3, 4, 7, 9, last, 2, 103, 104, 30, 45)


# -- the store --------------------------------------------------------------------------------------------------------


class Clocks:
    """A wall clock that is moved by hand; the monotonic one is left alone but for rotation."""

    def __init__(self) -> None:
        self.now_ns = 1_795_424_479 * 10**9

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("*/*/*"))


def tidied(store: Store) -> tidying.Tidied:
    """What one look at everything found."""
    store._tidying._looked_s = -1e9
    return store.tidy().result(120)


def folded(store: Store) -> None:
    while store.tidy().result(120).more:
        pass


def asked(root: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "index.sqlite")) as db:
        return db.execute(query).fetchall()


def test_a_file_is_closed_when_it_is_old_enough_also_when_nothing_comes(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "s", rotate_s=1000.0)) as store:
        fill(store, "a", "eth0", 2)
        assert store.tidy().result(120).packable == []
        for tail in store._files._tails.values():
            tail.opened_s -= 1000
        assert store.tidy().result(120).packable == files(tmp_path / "s")
        fill(store, "a", "eth0", 1, first=2)

    first, second = sorted((tmp_path / "s").rglob("*.pcapng"))
    assert first.stat().st_size == 2 * second.stat().st_size


def test_what_is_too_old_goes_and_the_audit_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, clock = tmp_path / "s", Clocks()
    with closing(opened(root, rotate_bytes=1, clock_ns=clock, limits=Limits(keep_ns=5 * DAY_NS // 2))) as store:
        for day in range(4):  # a file for each day
            fill(store, "a", "eth0", 1, first=day)
            clock.now_ns += DAY_NS
        before = files(root)
        found = tidied(store)
        folded(store)
        repeat = store.append(Append(BatchId(STREAM, 0), 0, 1, b"", None)).result(120)
        counted = store.repeat(BatchId(STREAM, 1)).result(120)
        after = files(root)
        code = cli.main(["audit", str(root), "--deep"])

    lines = capsys.readouterr().out.splitlines()
    assert [(doomed.file, doomed.why) for doomed in found.removed] == [(file, "age") for file in before[:2]]
    assert after == before[2:]
    assert (repeat, counted) == (Outcome.PRESENT, Outcome.PRESENT)
    assert asked(root, "SELECT first, last, packets, repeats FROM removals") == [(0, 0, 10, 0), (1, 1, 10, 1)]
    assert code == 0
    assert lines[1].split() == ["a", "eth0", EPOCH[:8], "2", "1", "20", "40", "0", "open"]
    assert lines[2] == "    removed by retention: 2 batches, 20 packets"


def test_the_store_stays_within_its_size_and_the_open_file_stays(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=1)) as store:
        fill(store, "a", "eth0", 5)
    size = (root / files(root)[0]).stat().st_size
    with closing(opened(root, rotate_bytes=1 << 20, limits=Limits(keep_bytes=3 * size))) as store:
        fill(store, "a", "eth0", 1, first=5)
        before = files(root)
        found = tidied(store)
        again = tidied(store)
        after = files(root)
    with closing(opened(root, limits=Limits(keep_bytes=1))) as store:
        fill(store, "a", "eth0", 1, first=6)
        tidied(store)

    assert ([d.file for d in found.removed], after, again.removed) == (before[:3], before[3:], [])
    assert len(files(root)) == 1  # the limit is one byte, and the open file is above it


def test_extract_says_that_the_time_asked_for_was_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=1, limits=Limits(keep_bytes=2000))) as store:
        fill(store, "a", "eth0", 5)
        tidied(store)
        folded(store)
    capsys.readouterr()

    code = cli.main(["extract", str(root), "-w", str(tmp_path / "x"), "--to", str(START_S + 20)])

    assert code == 0
    assert "0 packets; " in (told := capsys.readouterr().out)
    assert "retention removed up to 20 packets of this time" in told


def test_a_file_that_the_janitor_is_at_is_removed_a_turn_later(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=1, limits=Limits(keep_bytes=1))) as store:
        fill(store, "a", "eth0", 3)
        busy, other, _ = files(root)
        with claimed(root / busy) as fd:
            assert fd is not None
            assert [d.file for d in tidied(store).removed] == [other]
        assert [d.file for d in tidied(store).removed] == [busy]


def test_folding_leaves_room_for_batches_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "s"
    monkeypatch.setattr(removals.fold, "__defaults__", (2,))
    with closing(opened(root)) as store:
        fill(store, "a", "eth0", 5)
    with closing(opened(root, limits=Limits(keep_bytes=1))) as store:
        turns = [tidied(store).more]
        fill(store, "b", "eth0", 1)
        while turns[-1]:
            turns.append(store.tidy().result(120).more)

    assert asked(root, "SELECT first, last FROM removals") == [(0, 1), (2, 3), (4, 4)]
    assert asked(root, "SELECT sensor FROM batches") == [("b",)]
    assert asked(root, "SELECT count(*) FROM files") == [(1,)]


def test_what_cannot_be_removed_is_told_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "s"

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    with closing(opened(root, rotate_bytes=1, limits=Limits(keep_bytes=1))) as store:
        fill(store, "a", "eth0", 3)
        with monkeypatch.context() as broken:
            broken.setattr(Path, "unlink", refuse)
            found = tidied(store)
            assert (found.removed, found.packable, len(files(root))) == ([], None, 3)
            assert "Operation not permitted" in found.trouble
        tidied(store)
        folded(store)

    assert len(files(root)) == 1
    assert asked(root, "SELECT sum(last - first + 1) FROM removals") == [(2,)]


# -- kills of the writer ----------------------------------------------------------------------------------------------


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def then_die(call: Callable[..., Any]) -> Callable[..., Any]:
    def called(*args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)
        die()

    return called


WINDOWS: dict[str, tuple[Any, str, Any]] = {
    "before the index says so": (Index, "remove_file", die),
    "after the index says so": (Index, "remove_file", then_die(Index.remove_file)),
    "after the unlink": (tidying.Tidying, "_unlink", then_die(tidying.Tidying._unlink)),
    "in the fold": (removals, "runs", die),
    "after a part of the fold": (Index, "fold", then_die(Index.fold)),
    "before the file is forgotten": (Index, "forget_file", die),
    "after the file is forgotten": (Index, "forget_file", then_die(Index.forget_file)),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_kill_in_each_window_of_a_removal_leaves_a_store_that_adds_up(
    tmp_path: Path, window: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=4000)) as store:
        fill(store, "a", "eth0", 6)
    owner, name, fault = WINDOWS[window]
    pid = os.fork()
    if pid == 0:
        try:
            removals.fold.__defaults__ = (2,)
            store = opened(root, limits=Limits(keep_bytes=5000))
            setattr(owner, name, fault)
            tidied(store)
            folded(store)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    def audited() -> str:
        assert cli.main(["audit", str(root), "--deep"]) == 0
        told = capsys.readouterr()
        assert told.err == ""
        return told.out

    with closing(opened(root, limits=Limits(keep_bytes=5000))) as store:
        at_once = audited()
        tidied(store)
        folded(store)
        presence = [store.append(Append(BatchId(STREAM, n), 0, 1, b"", None)).result(120) for n in range(6)]

    assert presence == [Outcome.PRESENT] * 6
    assert "removed by retention: 3 batches, 30 packets" in audited()
    assert ("removed by retention" in at_once) == (window != "before the index says so")
    assert len(files(root)) == 1
    assert asked(root, "SELECT (SELECT count(*) FROM batches) + (SELECT sum(last - first + 1) FROM removals)") == [(6,)]


# -- compression ------------------------------------------------------------------------------------------------------


def packed(tmp_path: Path, data: bytes) -> Path:
    source, target = tmp_path / "source", tmp_path / "source.zst"
    source.write_bytes(data)
    with source.open("rb") as read, target.open("wb") as write:
        assert pack(read.fileno(), write.fileno()) == target.stat().st_size
    return target


@given(data=st.data())
def test_any_part_of_a_packed_file_is_that_part_of_the_original(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    size = data.draw(st.sampled_from([0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES + 7]))
    original = random.Random(size).randbytes(size // 8) * 8
    target = packed(tmp_path_factory.mktemp("packed"), original)
    offset = data.draw(st.integers(0, len(original) + 2))
    length = data.draw(st.integers(0, len(original) + 2))

    stored = Stored(target.parent)

    def part(length: int) -> bytes:
        return stored.read("source", offset, length)

    (target.parent / "source").unlink()
    there = original[offset : offset + length]
    assert stored.length("source") == len(original)
    assert part(len(there)) == there
    assert stored.read_bytes <= target.stat().st_size
    if len(there) < length:
        with pytest.raises(DamagedError, match="ends at"):
            part(length)


def test_zstd_itself_makes_the_original_of_it(tmp_path: Path) -> None:
    original = random.Random(7).randbytes(FRAME_BYTES) * 3
    target = packed(tmp_path, original)

    assert subprocess.run(["zstd", "-dc", target], capture_output=True, check=True).stdout == original


def test_a_packed_file_with_any_bit_flipped_is_damaged_or_gives_the_original(tmp_path: Path) -> None:
    original = random.Random(7).randbytes(100) * 3
    target = packed(tmp_path, original)
    good = target.read_bytes()
    (tmp_path / "source").unlink()
    damaged = 0
    for bit in range(8 * len(good)):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        target.write_bytes(bad)
        try:
            assert Stored(tmp_path).read("source", 0, len(original)) == original
        except DamagedError:
            damaged += 1
    print(f"{8 * len(good)} bits, {damaged} of them noticed")
    assert damaged > 7 * len(good)  # all but those of the skippable frame's own head


def compressed(root: Path) -> None:
    for file in files(root):
        assert janitor.compress(root / file) is not None


def test_a_compressed_store_is_read_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=1 << 18)) as store:
        fill(store, "a", "eth0", 300)
    plain = Extracted(root, tmp_path, "--from", str(START_S + 900), "--to", str(START_S + 1900)).packets
    stored_bytes = sum(path.stat().st_size for path in root.rglob("*.pcapng"))

    compressed(root)
    capsys.readouterr()
    got = Extracted(root, tmp_path, "--from", str(START_S + 900), "--to", str(START_S + 1900))
    told = capsys.readouterr().out
    code = cli.main(["audit", str(root), "--deep"])

    assert [Path(file).suffix for file in files(root)] == [".zst", ".zst"]
    assert sum(path.stat().st_size for path in root.rglob("*.zst")) < stored_bytes / 4
    assert (got.packets, len(plain), code) == (plain, 1000, 0)
    assert '"damaged_batches": 0' in told


def test_a_restart_takes_compressed_files_for_what_they_are(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=1)) as store:
        fill(store, "a", "eth0", 3)
    compressed(root)

    with closing(opened(root, limits=Limits(keep_bytes=1))) as store:
        found, looked = store.recovery, tidied(store)
        folded(store)

    assert (found.missing_files, found.short_files) == (0, [])
    assert (len(looked.removed), looked.packable, files(root)) == (3, [], [])


# Where the janitor dies while it compresses the first of two files; what is in the folder then.
JANITOR_WINDOWS: dict[str, tuple[Any, str, Any, list[str]]] = {
    "1. before it wrote": (janitor, "pack", die, ["", "", ".zst.part"]),
    "1. in the writing": (janitor, "pack", lambda _, fd: (os.write(fd, b"half"), die()), ["", "", ".zst.part"]),
    "1. after it wrote": (janitor, "pack", then_die(pack), ["", "", ".zst.part"]),
    "2. after the fsync": (janitor.os, "fsync", then_die(os.fsync), ["", "", ".zst.part"]),
    "3. after the rename": (Path, "rename", then_die(Path.rename), ["", "", ".zst"]),
    "4. after the folder's fsync": (janitor, "sync_folder", then_die(janitor.sync_folder), ["", "", ".zst"]),
    "5. after the unlink": (Path, "unlink", then_die(Path.unlink), ["", ".zst"]),
}


@pytest.mark.parametrize("window", JANITOR_WINDOWS)
def test_a_kill_of_the_janitor_in_each_window_loses_and_doubles_nothing(
    tmp_path: Path, window: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=4000)) as store:
        fill(store, "a", "eth0", 6)
    whole = list(range(6 * PER_BATCH))
    first, second = files(root)
    owner, name, fault, left = JANITOR_WINDOWS[window]
    pid = os.fork()
    if pid == 0:
        try:
            setattr(owner, name, fault)
            janitor.compress(root / first)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert sorted(file.removeprefix(first).removeprefix(second) for file in files(root)) == left

    after_the_kill = Extracted(root, tmp_path).numbers
    audit = cli.main(["audit", str(root), "--deep"])
    strangers = capsys.readouterr().err
    with closing(opened(root)) as store:  # a restart of the writer in between
        assert (store.recovery.missing_files, store.recovery.short_files) == (0, [])
    for file in (first, second):
        janitor.compress(root / file)

    assert (after_the_kill, audit, strangers) == (whole, 0, "")
    assert files(root) == [f"{first}.zst", f"{second}.zst"]
    assert Extracted(root, tmp_path).numbers == whole


def test_names_that_a_power_cut_brings_back_are_taken_away_again(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=1)) as store:
        fill(store, "a", "eth0", 3)
    removed, other, packed = files(root)
    data = (root / packed).read_bytes()
    with closing(Index(root / "index.sqlite")) as index:
        index.remove_file(removed)  # and the unlink was not durable
        assert index.fold(removed) is False
    janitor.compress(root / packed)
    (root / packed).write_bytes(data)  # likewise

    with closing(opened(root)) as store:
        found = tidied(store)
        folded(store)
    for file in found.packable or []:
        janitor.compress(root / file)

    assert files(root) == [f"{other}.zst", f"{packed}.zst"]
    assert asked(root, "SELECT count(*) FROM files") == [(2,)]


def test_a_file_that_was_removed_is_not_compressed(tmp_path: Path) -> None:
    path = tmp_path / "f.pcapng"
    assert janitor.compress(path) is None
    path.write_bytes(b"x")
    with claimed(path) as fd:
        assert fd is not None
        assert janitor.compress(path) is None

    assert [p.name for p in tmp_path.iterdir()] == ["f.pcapng"]


def test_a_file_that_goes_as_soon_as_it_is_compressed_was_compressed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retention waits for the lock, and may have the file as soon as it is free."""
    path = tmp_path / "f.pcapng"
    path.write_bytes(b"x")
    sizes: list[int] = []

    @contextlib.contextmanager
    def then_removed(path: Path) -> Iterator[int | None]:
        with claimed(path) as fd:
            yield fd
        target = path.with_name(path.name + ".zst")
        sizes.append(target.stat().st_size)
        target.unlink()

    monkeypatch.setattr(janitor, "claimed", then_removed)

    assert [janitor.compress(path)] == sizes


def test_a_name_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "f.pcapng").symlink_to("secret")

    with contextlib.suppress(OSError):
        janitor.compress(tmp_path / "f.pcapng")

    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.pcapng", "secret"]


def test_a_full_disk_leaves_the_original_and_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.pcapng"
    path.write_bytes(b"x")

    def full(_: int, target: int) -> int:
        os.write(target, b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(janitor, "pack", full)
        with pytest.raises(OSError, match="No space left"):
            janitor.compress(path)
    assert [p.name for p in tmp_path.iterdir()] == ["f.pcapng"]
    janitor.compress(path)

    assert [p.name for p in tmp_path.iterdir()] == ["f.pcapng.zst"]


def test_a_folder_that_somebody_took_away_holds_nothing_up(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with closing(opened(root, rotate_bytes=1, durable=True)) as store:
        fill(store, "a", "eth0", 2)
        fill(store, "b", "eth0", 2)
    gone, *_ = files(root)
    with closing(Index(root / "index.sqlite")) as index:
        index.remove_file(gone)
    shutil.rmtree(root / "a")

    with closing(opened(root, durable=True, limits=Limits(keep_bytes=1))) as store:
        found = tidied(store)
        folded(store)

    assert (found.trouble, [d.file.split("/")[0] for d in found.removed]) == ("", ["b", "b"])
    assert asked(root, "SELECT sensor, first FROM removals") == [("a", 0), ("b", 0), ("b", 1)]
