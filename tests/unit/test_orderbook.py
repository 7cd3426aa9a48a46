"""The vSensor's order book: what is in force, for whom, under which version; its file over kills and a full disk."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ossensor.antigena.actions import MAX_ACTIONS, MAX_DURATION_S, parse_action
from ossensor.errors import ConfigurationError
from ossensor.vsensor import orderbook
from ossensor.vsensor.bookfile import BookFile
from ossensor.vsensor.orderbook import (
    EVERYBODY,
    Book,
    ConflictError,
    Entry,
    RejectedError,
    Target,
    UnknownError,
)

NOW_S = 1_795_000_000
EMPTY = Book("0" * 32)
ONE, WEB = Target("sensor", "one"), Target("family", "web")


def entry(name: str, target: Target = ONE, *, start_s: int = NOW_S, duration_s: int = 60) -> Entry:
    members: dict[str, Any] = {"id": name, "kind": "quarantine", "source": {"network": "10.0.0.1"}}
    return Entry(target, parse_action({**members, "start_s": start_s, "expires_s": start_s + duration_s}))


def filled(count: int, target: Target, book: Book = EMPTY) -> Book:
    for n in range(count):
        book = book.placed(entry(f"{target.kind}-{target.name}-{n}", target), NOW_S)
    return book


def ids(book: Book, sensor: str) -> list[str]:
    return [action.id for action in book.for_sensor(sensor)]


@pytest.mark.parametrize(
    "given,target",
    [
        ({"sensor": "one"}, ONE),
        ({"family": "web"}, WEB),
        ({"all": True}, EVERYBODY),
    ],
)
def test_a_target_reads_back_as_it_was_written(given: object, target: Target) -> None:
    assert (Target.parse(given), target.to_json()) == (target, given)


@pytest.mark.parametrize(
    "given",
    [
        None, [], {}, "all", {"all": False}, {"all": 1}, {"all": "true"}, {"sensor": "one", "all": True},
        {"sensor": ""}, {"sensor": "../x"}, {"sensor": "antigena-audit.jsonl"}, {"sensor": 5}, {"sensor": ["one"]},
        {"family": ""}, {"family": "a\nb"}, {"family": "x" * 256}, {"famliy": "web"},
    ],
)  # fmt: skip
def test_what_is_no_target_is_refused(given: object) -> None:
    with pytest.raises(RejectedError, match=r"^target"):
        Target.parse(given)


def test_every_change_of_orders_is_a_version_and_nothing_else_is() -> None:
    placed = EMPTY.placed(entry("a"), NOW_S)
    extended = placed.extended("a", 5, NOW_S)
    cleared = extended.cleared("a")

    assert [book.version for book in (EMPTY, placed, extended, cleared)] == [0, 1, 2, 3]
    assert placed.expired(NOW_S + 59) is placed
    assert placed.expired(NOW_S + 60) == Book(EMPTY.id, 2)
    assert placed.introduced("one", "web").version == 1  # known for later, and nothing changes for anybody


def test_an_id_in_force_is_not_given_again() -> None:
    with pytest.raises(ConflictError, match="a is in force already"):
        EMPTY.placed(entry("a"), NOW_S).placed(entry("a", EVERYBODY), NOW_S)


def test_what_is_not_in_force_is_neither_cleared_nor_extended() -> None:
    with pytest.raises(UnknownError):
        EMPTY.cleared("a")
    with pytest.raises(UnknownError):
        EMPTY.extended("a", 1, NOW_S)


@pytest.mark.parametrize(
    "start_s,fault",
    [
        (NOW_S - 60, "expires_s: in the past"),
        (NOW_S + MAX_DURATION_S + 1, "start_s: more than 2678400 seconds from now"),
    ],
)
def test_an_order_of_another_time_is_refused(start_s: int, fault: str) -> None:
    with pytest.raises(RejectedError) as refused:
        EMPTY.placed(entry("a", start_s=start_s), NOW_S)

    assert refused.value.faults == [fault]


def test_an_order_is_extended_to_31_days_from_now_at_most_however_old_it_is() -> None:
    book, now_s = EMPTY.placed(entry("a", duration_s=MAX_DURATION_S), NOW_S), NOW_S + 1000
    with pytest.raises(RejectedError, match="duration_s"):
        book.extended("a", 1001, now_s)

    action = book.extended("a", 1000, now_s).orders["a"].action

    assert (action.start_s, action.expires_s) == (now_s, now_s + MAX_DURATION_S)


@pytest.mark.parametrize("duration_s", [0, -5])
def test_an_extension_lengthens(duration_s: int) -> None:
    with pytest.raises(RejectedError):
        EMPTY.placed(entry("a"), NOW_S).extended("a", duration_s, NOW_S)


@pytest.mark.parametrize("target", [ONE, WEB, EVERYBODY])
def test_an_order_more_than_a_sensor_takes_is_refused_and_not_cut(target: Target) -> None:
    book = filled(MAX_ACTIONS - 20, target)
    for other in {ONE, WEB, EVERYBODY} - {target}:
        book = filled(10, other, book)
    with pytest.raises(ConflictError, match=rf"^a sensor would have {MAX_ACTIONS + 1} orders") as refused:
        book.placed(entry("too-many", target), NOW_S)
    with pytest.raises(ConflictError):
        book.placed(entry("too-many", EVERYBODY), NOW_S)

    assert refused.value.faults[0].endswith(f"where {MAX_ACTIONS} are allowed")
    assert len(book.introduced("one", "web").for_sensor("one")) == MAX_ACTIONS


def test_another_sensor_has_its_own_room() -> None:
    book = filled(MAX_ACTIONS, ONE)

    assert ids(book.placed(entry("a", Target("sensor", "two")), NOW_S), "two") == ["a"]


def test_the_whole_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orderbook, "MAX_ORDERS", 2)
    book = EMPTY.placed(entry("a"), NOW_S).placed(entry("b", Target("sensor", "two")), NOW_S)

    with pytest.raises(ConflictError, match="there are 2 orders"):
        book.placed(entry("c", Target("sensor", "three")), NOW_S)


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_book_is_the_same_after_it_was_closed(tmp_path: Path) -> None:
    with closing(BookFile(tmp_path / "book")) as file:
        file.change(lambda book: book.placed(entry("a"), NOW_S).placed(entry("b", WEB), NOW_S))
        file.change(lambda book: book.introduced("one", "web").introduced("two", "db"))
        left = file.change(lambda book: book.cleared("a").introduced("two", ""))
    with closing(BookFile(tmp_path / "book")) as file:
        found = file.book

    assert found == left == Book(left.id, 4, {"b": entry("b", WEB)}, {"one": "web"})
    assert (len(found.id), stat.S_IMODE((tmp_path / "book").stat().st_mode)) == (32, 0o600)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["book"]


def test_two_books_have_two_names(tmp_path: Path) -> None:
    with closing(BookFile(tmp_path / "a")) as one, closing(BookFile(tmp_path / "b")) as other:
        assert one.book.id != other.book.id


@pytest.mark.parametrize(
    "change,fault",
    [
        ("PRAGMA user_version = 9", "has layout 9; this program knows 1"),
        ("UPDATE orders SET action = '{}'", "has an order that this program does not know: id"),
    ],
)
def test_a_book_of_another_program_is_a_fault(tmp_path: Path, change: str, fault: str) -> None:
    path = tmp_path / "book"
    with closing(BookFile(path)) as file:
        file.change(lambda book: book.placed(entry("a"), NOW_S))
    with closing(sqlite3.connect(path)) as db:
        db.execute(change)
        db.commit()

    with pytest.raises(ConfigurationError, match=fault):
        BookFile(path)


def test_a_change_that_the_disk_did_not_take_never_was(tmp_path: Path) -> None:
    """The limit on a file's size stands for a full disk; SIGXFSZ is ignored, so writes fail with EFBIG."""
    script = """
import resource, signal, sqlite3, sys
from pathlib import Path
from test_orderbook import entry, NOW_S, Target
from ossensor.vsensor.bookfile import BookFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path(sys.argv[1])
file = BookFile(path)
file.change(lambda book: book.placed(entry("first"), NOW_S))
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, resource.RLIM_INFINITY))
taken, before = 0, file.book
try:
    for taken in range(1000):
        before = file.book
        file.change(lambda book: book.placed(entry(f"n{taken}", Target("sensor", f"s{taken}")), NOW_S))
except sqlite3.Error:
    assert file.book is before
    print(before.version, len(before.orders))
    raise SystemExit(0)
raise SystemExit("the disk took everything")
"""
    path = tmp_path / "book"
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=Path(__file__).parent, capture_output=True, check=True, text=True
    )
    version, orders = map(int, done.stdout.split())
    with closing(BookFile(path)) as file:
        assert (file.book.version, len(file.book.orders)) == (version, orders)


def test_a_change_that_was_acknowledged_survives_kill_9_of_the_process(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from test_orderbook import entry, NOW_S, Target
from ossensor.vsensor.bookfile import BookFile
file = BookFile(Path(sys.argv[1]))
n = 0
while True:
    file.change(lambda book: book.placed(entry(f"n{n}", Target("sensor", f"s{n}")), NOW_S))
    print(n, flush=True)
    n += 1
"""
    path = tmp_path / "book"
    for kill in range(3):
        path = tmp_path / f"book-{kill}"
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(path)], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(10 + kill):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        acknowledged = 10 + kill + len(process.stdout.readlines())
        process.stdout.close()
        process.wait()
        with closing(BookFile(path)) as file:
            found = file.book
        assert found.version == len(found.orders)
        assert found.version in {acknowledged, acknowledged + 1}  # the last one may have been on its way


class Books(RuleBasedStateMachine):
    """The file against a model: a dictionary of orders, one of families, and what each sensor was told last."""

    sensors = st.sampled_from(["one", "two"])
    names = st.sampled_from("abcd")
    targets = st.sampled_from([ONE, Target("sensor", "two"), WEB, Target("family", "db"), EVERYBODY])

    @initialize()
    def start(self) -> None:
        self.path = Path(f"/dev/shm/ossensor-book-{os.getpid()}")  # noqa: S108  in memory: thousands of flushes
        self.path.unlink(missing_ok=True)
        self.file = BookFile(self.path)
        self.now_s = NOW_S
        self.orders: dict[str, Entry] = {}
        self.families: dict[str, str] = {}
        self.told: dict[tuple[str, int], list[Any]] = {}

    @rule(name=names, whom=targets, duration_s=st.integers(1, 20))
    def place(self, name: str, whom: Target, duration_s: int) -> None:
        one = entry(name, whom, start_s=self.now_s, duration_s=duration_s)
        if name in self.orders:
            with pytest.raises(ConflictError):
                self.file.change(lambda book: book.placed(one, self.now_s))
        else:
            self.file.change(lambda book: book.placed(one, self.now_s))
            self.orders[name] = one

    @rule(name=names)
    def clear(self, name: str) -> None:
        if self.orders.pop(name, None) is None:
            with pytest.raises(UnknownError):
                self.file.change(lambda book: book.cleared(name))
        else:
            self.file.change(lambda book: book.cleared(name))

    @rule(name=names, duration_s=st.integers(1, 20))
    @precondition(lambda self: self.orders)
    def extend(self, name: str, duration_s: int) -> None:
        if name in self.orders:
            self.file.change(lambda book: book.extended(name, duration_s, self.now_s))
            target, action = self.orders[name]
            length_s = action.expires_s - action.start_s + duration_s
            self.orders[name] = entry(name, target, start_s=action.start_s, duration_s=length_s)

    @rule(sensor=sensors, family=st.sampled_from(["", "web", "db"]))
    def introduce(self, sensor: str, family: str) -> None:
        self.file.change(lambda book: book.introduced(sensor, family))
        self.families[sensor] = family

    @rule(elapsed_s=st.integers(1, 15))
    def pass_time(self, elapsed_s: int) -> None:
        self.now_s += elapsed_s
        self.file.change(lambda book: book.expired(self.now_s))
        self.orders = {n: one for n, one in self.orders.items() if one.action.expires_s > self.now_s}

    @rule()
    def restart(self) -> None:
        self.file.close()
        self.file = BookFile(self.path)

    @invariant()
    def a_sensor_is_ordered_what_the_model_says_and_one_version_never_says_two_things(self) -> None:
        book = self.file.book
        for sensor in ("one", "two"):
            mine = {("sensor", sensor), ("family", self.families.get(sensor)), ("all", "")}
            expected = {name: one.action for name, one in self.orders.items() if tuple(one.target) in mine}
            assert {action.id: action for action in book.for_sensor(sensor)} == expected
            told = sorted(book.for_sensor(sensor), key=lambda action: action.id)
            assert self.told.setdefault((sensor, book.version), told) == told

    def teardown(self) -> None:
        self.file.close()
        self.path.unlink()


TestBooks = Books.TestCase
TestBooks.settings = settings(
    max_examples=30, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
