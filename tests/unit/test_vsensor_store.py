"""The store: what a crash, a full disk or a broken one leaves behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from test_vsensor_kit import EPOCH, STREAM, committed, payload, rows, section, stored

from ossensor.errors import ConfigurationError
from ossensor.transport.protocol import BatchId, Outcome, Stream
from ossensor.vsensor.files import Files
from ossensor.vsensor.index import Index
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.recovery import Recovery, recover
from ossensor.vsensor.store import Append, Store, Total

SECTIONS = [section([payload(i, 100 + i)]) for i in range(40)]
LENGTHS = [len(s) for s in SECTIONS]


def unexpected() -> None:
    raise AssertionError("the writer's thread died")


@contextmanager
def opened(root: Path, **options: Any) -> Iterator[Store]:
    root.mkdir(exist_ok=True)
    store = Store(Layout(root), on_crash=unexpected, **options)
    store.start()
    try:
        yield store
    finally:
        store.close()


def append(sequence: int, *, stream: Stream = STREAM, floor: int = 0) -> Append:
    return Append(BatchId(stream, sequence), floor, 1, SECTIONS[sequence])


def put(store: Store, *sequences: int, stream: Stream = STREAM, floor: int = 0) -> list[Outcome]:
    """Each on its own: the next is queued when the last is answered."""
    return [store.append(append(s, stream=stream, floor=floor)).result(120) for s in sequences]


def files(root: Path, stream: Stream = STREAM) -> list[Path]:
    return sorted((root / stream.sensor / stream.interface).glob("*"))


def open_files(root: Path) -> set[tuple[str, str]]:
    """Which of the store's this process holds open, and by what numbers."""
    found = set()
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the descriptor of the listing
            found.add((path.name, str(path.readlink())))
    return {one for one in found if one[1].startswith(f"{root}/")}


def gaps(root: Path) -> list[tuple[int, int]]:
    with closing(Index(root / "index.sqlite")) as index:
        return list(index._db.execute("SELECT first, count FROM gaps ORDER BY first"))


def test_sections_are_appended_as_they_are_and_found_through_the_index(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        outcomes = put(store, 0, 1, 2)
        totals = store.totals()

    (file,) = files(tmp_path)
    assert outcomes == [Outcome.STORED] * 3
    assert file.read_bytes() == b"".join(SECTIONS[:3])
    assert committed(tmp_path) == SECTIONS[:3]
    assert totals == {("sensor-1", "eth0"): Total(3, sum(LENGTHS[:3]), str(file.relative_to(tmp_path)))}


def test_what_is_flushed_leaves_the_page_cache_but_for_the_end_that_streams_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_up: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, *of: given_up.append(of))
    monkeypatch.setattr("ossensor.vsensor.files.CACHED_BYTES", 500)
    with opened(tmp_path) as store:
        put(store, *range(20))
    lengths = [sum(LENGTHS[:n]) for n in range(20)]  # committed when the append of n is flushed

    expected, from_ = [], 0
    for length in lengths:
        if length - from_ >= 1000:
            expected.append((from_, length - 500 - from_, os.POSIX_FADV_DONTNEED))
            from_ = length - 500
    assert expected == given_up
    assert len(expected) > 3


def test_folders_and_files_are_for_the_owner_and_the_group(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with opened(tmp_path) as store:
            put(store, 0)
    finally:
        os.umask(before)
    (file,) = files(tmp_path)

    assert [oct(p.stat().st_mode & 0o777) for p in (file.parent.parent, file.parent, file)] == [
        "0o750",
        "0o750",
        "0o640",
    ]


def test_a_file_is_named_by_the_time_it_was_begun_and_an_interface_by_safe_characters(tmp_path: Path) -> None:
    stream = Stream("sensor-1", EPOCH, "veth@if3%ü")
    with opened(tmp_path, clock_ns=lambda: 1_795_424_479_000_000_789) as store:
        put(store, 0, stream=stream)

    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.pcapng")] == [
        "sensor-1/veth%40if3%25%C3%BC/20261123T090119.000000789Z.pcapng"
    ]


def test_epochs_share_a_file_and_interfaces_do_not(tmp_path: Path) -> None:
    other_epoch = Stream("sensor-1", EPOCH[::-1], "eth0")
    other_interface = Stream("sensor-1", EPOCH, "eth1")
    with opened(tmp_path) as store:
        for stream in (STREAM, other_epoch, other_interface):
            put(store, 0, stream=stream)

    assert [len(files(tmp_path, s)) for s in (STREAM, other_interface)] == [1, 1]
    assert stored(tmp_path) == [SECTIONS[0]] * 2


def test_a_group_is_committed_in_the_order_of_the_queue(tmp_path: Path) -> None:
    tmp_path.mkdir(exist_ok=True)
    store = Store(Layout(tmp_path), on_crash=unexpected)
    futures = [store.append(append(s)) for s in (0, 1, 1, 3, 2, 3, 0)]
    store.start()
    store.close()

    assert [f.result(0) for f in futures] == [
        Outcome.STORED,
        Outcome.STORED,
        Outcome.OUT_OF_ORDER,  # not committed yet, so neither stored nor present
        Outcome.OUT_OF_ORDER,
        Outcome.STORED,
        Outcome.STORED,
        Outcome.OUT_OF_ORDER,
    ]
    assert stored(tmp_path) == SECTIONS[:4]


def test_a_flush_waits_for_what_is_on_its_way_and_for_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute would be longer than the test may take, so each wait that is not ended by what comes would fail it."""
    monkeypatch.setattr("ossensor.vsensor.store.GROUP_S", 60.0)
    groups: list[list[int]] = []
    on_its_way, answered = [0], threading.Event()

    def coming() -> int:
        count = on_its_way[0]
        if count:
            answered.set()
        return count

    with opened(tmp_path, on_commit=lambda rows: groups.append([row.batch.sequence for row in rows])) as store:
        store.coming = coming
        assert put(store, 0, 1) == [Outcome.STORED] * 2  # none is on its way: each at once
        on_its_way[0] = 1
        second = store.append(append(2))
        assert answered.wait(120)
        on_its_way[0] = 0
        assert put(store, 3) == [Outcome.STORED]
        assert second.result(0) is Outcome.STORED

    assert groups == [[0], [1], [2, 3]]


def test_who_is_answered_finds_the_store_as_the_answer_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    found = []
    with opened(tmp_path) as store:

        def ask(sequence: int) -> None:
            asked = append(sequence)
            # Called in the writer's thread amid the answer: nothing that comes after it has been done.
            asked.done.add_done_callback(
                lambda done: found.append((done.result(), store.failed_within(1e9), len(store.totals())))
            )
            store.append(asked).result(120)

        with monkeypatch.context() as broken:
            broken.setattr(Files, "write", full)
            ask(0)
        ask(0)

    assert found == [(Outcome.STORE_FAILED, True, 0), (Outcome.STORED, False, 1)]


def test_a_repeat_is_present_and_stored_once(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        outcomes = put(store, 0, 0, 1, 0)
    with opened(tmp_path) as store:
        outcomes += put(store, 1, 2)

    assert outcomes == [
        Outcome.STORED,
        Outcome.PRESENT,
        Outcome.STORED,
        Outcome.PRESENT,
        Outcome.PRESENT,
        Outcome.STORED,
    ]
    assert stored(tmp_path) == SECTIONS[:3]


def test_a_floor_leaves_a_gap_with_its_size(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        outcomes = [
            *put(store, 3, floor=3),
            *put(store, 4),
            *put(store, 9),
            *put(store, 9, floor=9),
            *put(store, 2, 6),
        ]

    assert outcomes == [
        Outcome.STORED,
        Outcome.STORED,
        Outcome.OUT_OF_ORDER,
        Outcome.STORED,
        Outcome.OUT_OF_ORDER,
        Outcome.OUT_OF_ORDER,
    ]
    assert gaps(tmp_path) == [(0, 3), (5, 4)]
    assert [r[2] for r in rows(tmp_path)] == [3, 4, 9]


def test_files_rotate_by_size_and_no_section_is_split(tmp_path: Path) -> None:
    with opened(tmp_path, rotate_bytes=2 * LENGTHS[0]) as store:
        put(store, *range(10))

    assert stored(tmp_path) == SECTIONS[:10]
    assert [len(p.read_bytes()) for p in files(tmp_path)] == [
        sum(LENGTHS[i : i + 2]) for i in range(0, 10, 2)
    ]  # two reach the size: each section is a little longer than the first


def test_a_restart_begins_a_new_file(tmp_path: Path) -> None:
    for sequence in range(3):
        with opened(tmp_path) as store:
            put(store, sequence)

    assert [p.read_bytes() for p in files(tmp_path)] == SECTIONS[:3]


def test_more_interfaces_than_open_files_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    streams = [Stream("sensor-1", EPOCH, f"eth{i}") for i in range(7)]
    with opened(tmp_path) as store:
        monkeypatch.setattr(store._files, "_open_max", 3)
        before = open_files(tmp_path)
        for sequence in range(4):
            for stream in streams:
                put(store, sequence, stream=stream)
        added = len(open_files(tmp_path) - before)

    assert added == 3
    assert [len(files(tmp_path, s)) for s in streams] == [1] * 7
    assert [stored(tmp_path, s.sensor, s.interface) for s in streams] == [SECTIONS[:4]] * 7


def test_a_file_that_was_removed_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Stream("sensor-1", EPOCH, "eth1")
    with opened(tmp_path) as store:
        put(store, 0)
        files(tmp_path)[0].unlink()  # while it is open
        outcomes = put(store, 1)
        monkeypatch.setattr(store._files, "_open_max", 1)
        put(store, 0, stream=other)
        files(tmp_path)[0].unlink()  # while it is not
        outcomes += put(store, 2)

    assert outcomes == [Outcome.STORED] * 2
    assert stored(tmp_path) == [SECTIONS[2]]
    with closing(Index(tmp_path / "index.sqlite")) as index:
        assert recover(Layout(tmp_path), index) == Recovery(missing_files=2)


def test_a_store_of_another_layout_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
        db.execute("PRAGMA user_version = 7")

    with pytest.raises(ConfigurationError, match="layout 7; this program knows 3"):
        Store(Layout(tmp_path))


# --- crashes -------------------------------------------------------------------------------------------------------


def die(*_: object, **__: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def half_a_write(fd: int, data: memoryview, offset: int) -> int:
    os.pwrite(fd, data[: len(data) // 2], offset)
    return int(die())


def whole_write(fd: int, data: memoryview, offset: int) -> int:
    os.pwrite(fd, data, offset)
    return int(die())


def commit_then_die(index: Index, rows: Any, commit: Callable[..., None] = Index.commit) -> None:
    commit(index, rows)
    die()


def row_then_die(index: Index, file: str, add_file: Callable[..., None] = Index.add_file) -> None:
    add_file(index, file)
    die()


def half_a_commit(index: Index, rows: Any) -> None:
    index._db.execute("BEGIN IMMEDIATE")
    for row in rows:
        index._add(row)
    die()


# Where the process dies while it stores batch 3 (to a fresh file in the first four); what is committed; what is cut.
WINDOWS: dict[str, tuple[type, str, Any, bool, bool]] = {
    "after the new file's row": (Index, "add_file", row_then_die, True, False),
    "after the new file was made": (Files, "_pwrite", staticmethod(die), True, False),
    "in the first write to a new file": (Files, "_pwrite", staticmethod(half_a_write), True, False),
    "after the write to a new file, before its flush": (Files, "_fdatasync", staticmethod(die), True, False),
    "before the write": (Files, "_pwrite", staticmethod(die), False, False),
    "in the write": (Files, "_pwrite", staticmethod(half_a_write), False, False),
    "after the write": (Files, "_pwrite", staticmethod(whole_write), False, False),
    "before the flush": (Files, "_fdatasync", staticmethod(die), False, False),
    "before the commit": (Index, "commit", die, False, False),
    "in the commit": (Index, "commit", half_a_commit, False, False),
    "after the commit, before the answer": (Index, "commit", commit_then_die, False, True),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_a_kill_in_each_window_leaves_what_was_acknowledged_and_nothing_else(tmp_path: Path, window: str) -> None:
    owner, name, fault, fresh, is_stored = WINDOWS[window]
    pid = os.fork()
    if pid == 0:
        try:
            with opened(tmp_path, rotate_bytes=sum(LENGTHS[:3]) if fresh else 1 << 30) as store:
                if put(store, 0, 1, 2) == [Outcome.STORED] * 3:
                    setattr(owner, name, fault)
                    put(store, 3)
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL

    with opened(tmp_path) as store:
        after = committed(tmp_path)
        on_disk = stored(tmp_path)
        cut = store.recovery.cut_bytes
        again = put(store, 3, 4)

    whole = SECTIONS[: 4 if is_stored else 3]
    assert after == whole
    assert on_disk == whole
    assert again == [Outcome.PRESENT if is_stored else Outcome.STORED, Outcome.STORED]
    assert stored(tmp_path) == committed(tmp_path) == SECTIONS[:5]
    flushed = ("after the write", "before the flush", "before the commit", "in the commit")
    expected_cut = {"in the write": LENGTHS[3] // 2, **dict.fromkeys(flushed, LENGTHS[3])}
    assert cut == expected_cut.get(window, 0)
    assert all(p.stat().st_size for p in files(tmp_path))


def test_files_that_lost_what_was_acknowledged_are_reported_and_strangers_are_left_alone(tmp_path: Path) -> None:
    with opened(tmp_path, rotate_bytes=1) as store:
        put(store, 0, 1, 2)
    short, long, gone = files(tmp_path)
    os.truncate(short, LENGTHS[0] - 1)
    with long.open("ab") as file:
        file.write(b"tail")
    gone.unlink()
    stranger = short.with_name("20200101T000000.000000000Z.pcapng")
    stranger.write_bytes(b"not ours")

    with opened(tmp_path) as store:
        found = store.recovery

    assert found == Recovery(cut_files=1, cut_bytes=4, missing_files=1, short_files=[str(short.relative_to(tmp_path))])
    assert [short.stat().st_size, long.read_bytes()] == [LENGTHS[0] - 1, SECTIONS[1]]
    assert stranger.read_bytes() == b"not ours"
