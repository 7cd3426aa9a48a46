"""The index: what it says of times and repeats, and how an old one becomes a new one."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import old_index
import pytest
from test_vsensor_kit import STREAM, Running, payload, section
from test_vsensor_store import SECTIONS, append, opened, put

from ossensor import pcapng
from ossensor.transport.protocol import Account, BatchId, Outcome
from ossensor.vsensor import ledger, removals
from ossensor.vsensor.index import Index, Row
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.ledger import Entry, Ledger
from ossensor.vsensor.section import SectionError, Span, span

LAST_NS = 2**63 - 1


def made(*times: int, told: tuple[int, int]) -> bytes:
    """A section as a sensor writes it, with packets of these times."""
    memory = bytearray(4096)
    prologue = pcapng.section_header("test") + pcapng.interface_description("eth0", 1, 262_144, "", "Linux")
    section = pcapng.Section.open(memoryview(memory), prologue)
    for ts_ns in times:
        assert section.add(ts_ns, bytes(60), 60)
    return bytes(memory[: section.close(*told, 0, 0)])


def asked(root: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "index.sqlite")) as db:
        return db.execute(query).fetchall()


# -- times ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times,told,expected",
    [
        ([5 << 32 | 7, 6 << 32], (5 << 32 | 7, 6 << 32), Span(5 << 32 | 7, 6 << 32)),
        ([5], (1, 9), Span(1, 9)),  # as told: wider than needed costs a look, never a packet
        ([], (3, 3), None),
        ([30, 10, 20], (20, 10), Span(10, 30)),  # told the wrong way round: no telling at all
        ([5], (5, 2**64 - 1), Span(5, LAST_NS)),
        ([2**64 - 1], (9, 1), Span(LAST_NS, LAST_NS)),
    ],
)
def test_a_sections_statistics_tell_between_which_times_its_packets_lie(
    times: list[int], told: tuple[int, int], expected: Span | None
) -> None:
    assert span(made(*times, told=told)) == expected


def test_a_section_that_does_not_tell_is_walked() -> None:
    assert span(section([payload(i) for i in range(4)])) == Span(0, 3)
    assert span(section([])) is None


def test_a_section_that_does_not_tell_and_cannot_be_walked_is_malformed() -> None:
    body = bytearray(section([payload(0), payload(1)]))
    body[28 + 20 + 4] ^= 1  # the length of the first packet's block

    with pytest.raises(SectionError) as refused:
        span(body)

    assert refused.value.outcome is Outcome.MALFORMED


def test_times_are_kept_for_each_batch_and_around_each_file(tmp_path: Path) -> None:
    spans = [Span(50, 60), None, Span(40, 45), Span(70, LAST_NS)]
    with closing(Index(tmp_path / "index.sqlite")) as index:
        index.add_file("f")
        for n, each in enumerate(spans):
            index.commit([Row(BatchId(STREAM, n), 0, "f", 10 * n, 10, 1, 1000 - n, None, each)])
            files = index._db.execute("SELECT received_ns, earliest_ns, latest_ns FROM files").fetchone()
            assert files == [(1000, 50, 60), (1000, 50, 60), (1000, 40, 60), (1000, 40, LAST_NS)][n]
    with Ledger(Layout(tmp_path)) as ledger:
        entries = [batch for batch in ledger.batches() if isinstance(batch, Entry)]

    assert [entry.span for entry in entries] == spans


def test_whoever_works_through_the_batches_keeps_no_log_from_being_emptied(tmp_path: Path) -> None:
    """An audit --deep takes hours, and the log of a vSensor that runs would have grown by gigabytes."""
    with closing(Index(tmp_path / "index.sqlite")) as index:
        index.add_file("f")

        def commit(epoch: int) -> None:
            stream = STREAM._replace(epoch=f"{epoch:032x}")
            index.commit([Row(BatchId(stream, n), 0, "f", 10 * n, 10, 1, n, None) for n in range(3)])

        for epoch in range(3):
            commit(epoch)
        with Ledger(Layout(tmp_path)) as ledger:
            batches = ledger.batches()
            found = [next(batches)]
            commit(7)
            busy, *_ = index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            found += batches

    assert busy == 0
    assert [batch.first for batch in found] == [0, 1, 2] * 3


def test_what_is_received_is_stored_with_its_times(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        outcomes = [running.send(n, made(n + 7, n + 5, told=(n + 5, n + 7))).outcome for n in range(3)]

    assert outcomes == [Outcome.STORED] * 3
    assert asked(tmp_path, "SELECT earliest_ns, latest_ns FROM batches ORDER BY sequence") == [(5, 7), (6, 8), (7, 9)]


# -- repeats ----------------------------------------------------------------------------------------------------------


def test_how_often_a_batch_came_again_is_counted_before_it_is_answered(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        outcomes = []
        for sequence in (0, 1, 1, 0, 1, 2):
            outcomes.append(running.send(sequence).outcome)
            counted = asked(tmp_path, "SELECT sum(repeats) FROM batches")
            assert counted == [(outcomes.count(Outcome.PRESENT),)]

    assert [outcome.value for outcome in outcomes if outcome] == ["stored", "stored", *["present"] * 3, "stored"]
    assert asked(tmp_path, "SELECT repeats FROM batches ORDER BY sequence") == [(1,), (2,), (0,)]


def test_repeats_that_cannot_be_counted_are_present_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with opened(tmp_path) as store:
        put(store, 0)
        with monkeypatch.context() as broken:
            broken.setattr(Index, "count_repeats", full)
            outcomes = [store.repeat(BatchId(STREAM, 0)).result(120) for _ in range(2)]
        put(store, 1)

    assert outcomes == [Outcome.PRESENT] * 2
    assert asked(tmp_path, "SELECT repeats FROM batches") == [(0,), (0,)]
    assert caplog.messages == ["store: cannot write: database or disk is full", "store: writing again"]


def test_repeats_and_appends_share_a_group(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        put(store, 0)
        asked_for = [store.repeat(BatchId(STREAM, 0)), store.append(append(1)), store.repeat(BatchId(STREAM, 0))]
        outcomes = [future.result(120) for future in asked_for]

    assert outcomes == [Outcome.PRESENT, Outcome.STORED, Outcome.PRESENT]
    assert asked(tmp_path, "SELECT length, repeats FROM batches") == [(len(SECTIONS[0]), 2), (len(SECTIONS[1]), 0)]


# -- older layouts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [1, 2])
def test_an_older_index_is_taken_over_with_its_rows_and_without_what_it_did_not_know(
    tmp_path: Path, layout: int
) -> None:
    path = tmp_path / "index.sqlite"
    books = Account(first_packet=0).text
    old_index.make(path, layout, STREAM, [(10, books), (5, None)])

    with closing(Index(path)) as index:
        index.add_file("g.pcapng")
        index.commit([Row(BatchId(STREAM, 2), 0, "g.pcapng", 0, 10, 5, 7, None, Span(3, 4))])
        index.count_repeats([BatchId(STREAM, 0)])
        assert index.next(STREAM) == 3

    assert asked(tmp_path, "SELECT sequence, packets, books, earliest_ns, latest_ns, repeats FROM batches") == [
        (0, 10, books if layout == 2 else None, None, None, 1),
        (1, 5, None, None, None, 0),
        (2, 5, None, 3, 4, 0),
    ]
    assert asked(tmp_path, "SELECT * FROM files") == [
        ("f.pcapng", 20, 1001, None, None, 0),
        ("g.pcapng", 10, 7, 3, 4, 0),
    ]


def shape(root: Path) -> list[tuple[Any, ...]]:
    """Every column of every table and index, by name: what a program can tell of a layout."""
    names = [row[0] for row in asked(root, "SELECT name FROM sqlite_schema ORDER BY name")]
    return [
        (name, asked(root, f"PRAGMA table_xinfo({name})"), asked(root, f"PRAGMA index_xinfo({name})")) for name in names
    ]


def test_an_index_that_was_taken_over_has_the_columns_of_a_new_one(tmp_path: Path) -> None:
    for name, prepare in (("new", None), ("old", 1), ("newer", 2)):
        (tmp_path / name).mkdir()
        if prepare:
            old_index.make(tmp_path / name / "index.sqlite", prepare, STREAM, [])
        Index(tmp_path / name / "index.sqlite").close()

    assert shape(tmp_path / "old") == shape(tmp_path / "newer") == shape(tmp_path / "new")


@pytest.mark.parametrize("layout", [1, 2])
def test_whoever_only_looks_reads_an_older_index_as_it_is(tmp_path: Path, layout: int) -> None:
    path = tmp_path / "index.sqlite"
    old_index.make(path, layout, STREAM, [(10, "books")])
    before = path.read_bytes()

    with Ledger(Layout(tmp_path)) as ledger:
        (entry,) = ledger.batches()

    assert isinstance(entry, Entry)
    assert (entry.packets, entry.books, entry.repeats, entry.span) == (10, "books" if layout == 2 else None, 0, None)
    assert path.read_bytes() == before


@pytest.mark.parametrize("query,values", [(removals._ROWS, ("f", 9)), (ledger._WITHIN, ("f", 0, 9))])
def test_a_files_rows_are_found_by_the_index_and_need_no_sorting(
    tmp_path: Path, query: str, values: tuple[Any, ...]
) -> None:
    with closing(Index(tmp_path / "index.sqlite")) as index:
        plan = [row[3] for row in index._db.execute(f"EXPLAIN QUERY PLAN {query}", values)]

    assert any("USING INDEX batches_by_file (file=?)" in step for step in plan), plan
    assert not any("TEMP B-TREE" in step for step in plan), plan
