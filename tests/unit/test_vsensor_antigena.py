"""The exchange about Antigena at the vSensor: whom it answers, with which orders, under which version."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_vsensor_kit import NOW_S, STREAM, Answer, Running

from ossensor.antigena.actions import MAX_ACTIONS, MAX_REASON_CHARACTERS, Action, parse_action
from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import (
    MAX_ORDERS_BYTES,
    TAG_CONTROL,
    TAG_DATA,
    TAG_ORDER,
    Outcome,
    antigena_path,
    introduction_path,
    registration_path,
)
from ossensor.transport.signing import Key
from ossensor.vsensor import antigena
from ossensor.vsensor.antigena import Reported
from ossensor.vsensor.orderbook import EVERYBODY, Book, Entry, Target


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path / "store") as running:
        yield running


def action(name: str = "a", **members: Any) -> Action:
    block = {"id": name, "kind": "block", "source": {"network": "10.0.0.1"}, "start_s": NOW_S, "expires_s": NOW_S + 60}
    return parse_action({**block, **members})


def ordered(server: Running, target: Target, *names: str, **members: Any) -> tuple[Action, ...]:
    actions = tuple(action(name, **members) for name in names)
    for one in actions:
        server.book_file.change(lambda book, one=one: book.placed(Entry(target, one), server.clock()))  # type: ignore[misc]
    return actions


def orders(answer: Answer) -> tuple[int, list[Action]]:
    assert answer.outcome is Outcome.REGISTERED
    got = Orders.parse(answer.body)
    return got.version, [parse_action(one) for one in got.actions]


def introduce(server: Running, family: str, sensor: str = STREAM.sensor) -> Answer:
    body = Introduction("ossensor/0.1.0", "host", {"family": family} if family else {}).body
    return server.wire.send(server.signer.registration(body, target=introduction_path(sensor)))


def test_a_sensor_is_told_the_book_and_its_orders_and_the_latest_report_is_kept(server: Running) -> None:
    assert orders(server.wire.send(server.signer.report())) == (0, [])
    placed = ordered(server, Target("sensor", "sensor-1"), "a", "b")
    ordered(server, Target("sensor", "sensor-2"), "c")

    report = Report("observe", server.book_file.book.id, 1, {"a": {"matched": 2}}, {"b": "protected"})
    answer = server.wire.send(server.signer.report(report))

    assert orders(answer) == (3, list(placed))
    assert Orders.parse(answer.body).book == server.book_file.book.id
    assert dict(server.antigena.reports) == {"sensor-1": Reported(report, NOW_S, len(report.body))}
    assert answer.fields["ossensor-time"] == str(NOW_S)


@pytest.mark.parametrize("tag", [TAG_CONTROL, TAG_DATA, "ossensor-order-reply"])
def test_a_report_under_another_tag_is_nothing(server: Running, tag: str) -> None:
    answer = server.wire.send(server.signer.report(tag=tag))

    assert (answer.status, answer.outcome, answer.body) == (401, None, b"")
    assert dict(server.antigena.reports) == {}


@pytest.mark.parametrize("path", [registration_path, introduction_path])
def test_the_tag_of_a_report_is_nothing_elsewhere(server: Running, path: Any) -> None:
    answer = server.wire.send(server.signer.registration(tag=TAG_ORDER, target=path("sensor-1")))

    assert (answer.status, answer.outcome) == (401, None)


def test_nobody_without_the_key_is_told_an_order(server: Running) -> None:
    ordered(server, EVERYBODY, "a")
    server.signer.key = Key(b"another key of thirty-two bytes.")

    answer = server.wire.send(server.signer.report())

    assert (answer.status, answer.body) == (401, b"")


@pytest.mark.parametrize(
    "parts,outcome",
    [
        pytest.param({"created_s": NOW_S - 61}, Outcome.STALE, id="stale"),
        pytest.param({"target": antigena_path("antigena.sqlite")}, Outcome.MALFORMED, id="a name of the store's"),
        pytest.param({"target": antigena_path("sensor-1") + "?a=1"}, Outcome.MALFORMED, id="query"),
        pytest.param({"fields": {"Content-Type": "text/plain"}}, Outcome.MALFORMED, id="type"),
    ],
)
def test_what_is_refused_is_told_no_order_and_its_report_is_not_kept(
    server: Running, parts: dict[str, Any], outcome: Outcome
) -> None:
    ordered(server, EVERYBODY, "a")

    answer = server.wire.send(server.signer.report(**parts))

    assert (answer.outcome, answer.body, dict(server.antigena.reports)) == (outcome, b"", {})


def test_a_replayed_report_is_told_nothing(server: Running) -> None:
    message = server.signer.report()

    assert [server.wire.send(message).outcome for _ in range(2)] == [Outcome.REGISTERED, Outcome.REPLAYED]


def test_a_report_that_is_none_is_malformed(server: Running) -> None:
    message = server.signer.registration(b"[]", tag=TAG_ORDER, target=antigena_path("sensor-1"))

    assert server.wire.send(message).outcome is Outcome.MALFORMED


def test_a_report_without_room_in_the_budget_is_asked_for_later(server: Running) -> None:
    server.collector.budget.take(server.collector.budget.limit_bytes)

    assert server.wire.send(server.signer.report()).outcome is Outcome.BUSY


def test_an_order_leaves_at_its_end_and_the_version_rises(server: Running) -> None:
    (placed,) = ordered(server, EVERYBODY, "a")
    server.clock.now_s = placed.expires_s - 1
    before = orders(server.wire.send(server.signer.report(created_s=NOW_S + 59)))
    server.clock.now_s = placed.expires_s
    after = [orders(server.wire.send(server.signer.report(created_s=NOW_S + 59))) for _ in range(2)]

    assert (before, after) == ((1, [placed]), [(2, []), (2, [])])


def test_a_sensor_of_a_family_gets_its_orders_once_it_has_told_the_family(server: Running) -> None:
    own = ordered(server, Target("sensor", "sensor-1"), "own")
    web = ordered(server, Target("family", "web"), "web")
    everybody = ordered(server, EVERYBODY, "all")
    got = []
    for family in ("", "web", "db"):
        assert introduce(server, family).outcome is Outcome.REGISTERED
        got.append(orders(server.wire.send(server.signer.report())))

    assert got == [(3, [*own, *everybody]), (4, [*own, *web, *everybody]), (5, [*own, *everybody])]


def test_a_family_without_orders_changes_no_version(server: Running) -> None:
    ordered(server, EVERYBODY, "a")

    introduce(server, "web")

    assert orders(server.wire.send(server.signer.report()))[0] == 1


def test_a_book_that_the_disk_does_not_take_is_a_signed_refusal(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    (placed,) = ordered(server, EVERYBODY, "a")

    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(server.book_file, "_commit", full)
    server.clock.now_s = placed.expires_s
    created_s = NOW_S + 60

    assert server.wire.send(server.signer.report(created_s=created_s)).outcome is Outcome.STORE_FAILED
    assert server.book_file.book.orders == {"a": Entry(EVERYBODY, placed)}


def test_reports_are_remembered_within_a_budget_the_latest_first(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = len(Report("enforce").body)
    monkeypatch.setattr(antigena, "_REMEMBERED_BYTES", 2 * size)
    for sensor in ("one", "two", "one", "three"):
        server.wire.send(server.signer.report(sensor=sensor))
    by_size = list(server.antigena.reports)
    monkeypatch.setattr(antigena, "_REMEMBERED", 1)
    server.wire.send(server.signer.report(sensor="four"))

    assert (by_size, list(server.antigena.reports)) == (["one", "three"], ["four"])
    assert server.antigena._held_bytes == size


def test_as_many_of_the_longest_orders_as_are_allowed_fit_into_a_reply(server: Running) -> None:
    ends = {
        "source": {"network": f"{'fedc:' * 7}fedc", "port": 65535},
        "destination": {"network": f"{'abcd:' * 7}abcd"},
    }

    def fill(book: Book) -> Book:
        for n in range(MAX_ACTIONS):
            longest = action(f"{n:064}", reason="\U0001f512" * MAX_REASON_CHARACTERS, **ends)
            book = book.placed(Entry(EVERYBODY, longest), NOW_S)
        return book

    server.book_file.change(fill)
    answer = server.wire.send(server.signer.report())

    assert (len(orders(answer)[1]), len(answer.body) <= MAX_ORDERS_BYTES) == (MAX_ACTIONS, True)


def test_a_vsensor_without_a_book_orders_nothing(server: Running) -> None:
    server.collector._antigena = None

    assert Orders.parse(server.wire.send(server.signer.report()).body) == Orders()
