"""The operator's door: who gets in, what is taken, what is refused and how, and what the trail says of it."""

from __future__ import annotations

import http.client
import json
import sqlite3
import ssl
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_vsensor_kit import NOW_S, Running

from ossensor.antigena.actions import MAX_ACTIONS, MAX_DURATION_S, parse_action
from ossensor.antigena.token import Token
from ossensor.transport.orders import Orders, Report
from ossensor.vsensor import attempts
from ossensor.vsensor.entrance import MAX_REQUEST_BYTES
from ossensor.vsensor.operator import PATH
from ossensor.vsensor.orderbook import EVERYBODY, Book, Entry

TOKEN = Token(b"operator-token-of-forty-characters-00000")
BLOCK = {"id": "a", "kind": "block", "source": {"network": "10.0.0.1"}, "reason": "beacon"}
ONE = {"sensor": "sensor-1"}


class Operator:
    """One connection to the door, on which anything may be said."""

    def __init__(self, server: Running, authorization: str | None = TOKEN.header) -> None:
        self.context = ssl.create_default_context(cafile=str(server.pair.certificate))
        self.server = server
        self.authorization = authorization

    def ask(
        self, method: str, path: str = PATH, given: object = None, *, raw: bytes | None = None, **fields: str
    ) -> tuple[int, Any]:
        """The status, and the body: decoded where it is JSON."""
        body = raw if raw is not None else json.dumps(given).encode() if method == "POST" else None
        headers = {"Content-Type": "application/json"} if method == "POST" else {}
        if self.authorization is not None:
            headers["Authorization"] = self.authorization
        connection = http.client.HTTPSConnection("127.0.0.1", self.server.port, context=self.context, timeout=120)
        try:
            connection.request(method, path, body, {**headers, **fields})
            response = connection.getresponse()
            content = response.read()
            self.fields = {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()
        return response.status, json.loads(content) if content else None

    def order(self, action: dict[str, Any], target: object = ONE, **members: object) -> tuple[int, Any]:
        return self.ask("POST", given={"target": target, "duration_s": 60, "action": action, **members})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path / "store", operator_token=TOKEN) as running:
        yield running


@pytest.fixture
def operator(server: Running) -> Operator:
    return Operator(server)


def trail(server: Running) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.layout.trail.read_text().splitlines()]
    assert {line.pop("time") for line in lines} <= {"2026-11-18T11:06:40Z", "2026-11-18T11:07:40Z"}
    return lines


WHO = {"token": TOKEN.id, "peer": "127.0.0.1"}
ACTION = {
    "id": "a",
    "kind": "block",
    "protocol": "any",
    "direction": "all",
    "reason": "beacon",
    "source": {"network": "10.0.0.1/32", "port": None},
    "destination": {"network": None, "port": None},
    "start_s": NOW_S,
    "expires_s": NOW_S + 60,
}
WRITTEN = {"target": ONE, "action": ACTION}


# -- orders -----------------------------------------------------------------------------------------------------------


def test_an_order_is_answered_recorded_told_and_given_to_its_sensor(server: Running, operator: Operator) -> None:
    assert operator.order(BLOCK) == (201, {"version": 1, **WRITTEN})

    answer = server.wire.send(server.signer.report())
    other = server.wire.send(server.signer.report(sensor="sensor-2"))

    assert [Orders.parse(body).actions for body in (answer.body, other.body)] == [(ACTION,), ()]
    (first, *_) = trail(server)
    assert first == {"event": "order", **WHO, "version": 1, **WRITTEN}
    ((what, who, entry),) = server.told
    assert (what, who._asdict(), entry.action.to_json()) == ("order", WHO, ACTION)
    assert stat.S_IMODE(server.layout.trail.stat().st_mode) == 0o600


def test_an_order_without_an_id_gets_one_of_its_own(operator: Operator) -> None:
    nameless = {name: value for name, value in BLOCK.items() if name != "id"}
    ids = {operator.order(nameless)[1]["action"]["id"] for _ in range(3)}

    assert sorted(map(len, ids)) == [36, 36, 36]


def test_an_order_may_say_when_it_begins_and_ends(operator: Operator) -> None:
    times = {"start_s": NOW_S + 100, "expires_s": NOW_S + 200}
    body = {"target": {"all": True}, "action": {**BLOCK, **times}}

    assert operator.ask("POST", given=body)[1]["action"] == {**ACTION, **times}
    assert operator.ask("GET")[1]["orders"][0]["in_force"] is False


def test_an_order_is_extended_and_cleared_by_its_id(server: Running, operator: Operator) -> None:
    operator.order(BLOCK)
    longer = {"target": ONE, "action": {**ACTION, "expires_s": NOW_S + 90}}

    assert operator.ask("POST", f"{PATH}/a/extend", {"duration_s": 30}) == (200, {"version": 2, **longer})
    assert operator.ask("DELETE", f"{PATH}/a") == (200, {"version": 3, **longer})
    assert operator.ask("GET")[1]["orders"] == []
    assert [line["event"] for line in trail(server)] == ["order", "extend", "clear"]
    assert trail(server)[2] == {"event": "clear", **WHO, "version": 3, **longer}
    assert [what for what, *_ in server.told] == ["order", "extend", "clear"]


@pytest.mark.parametrize("method,path", [("DELETE", f"{PATH}/a"), ("POST", f"{PATH}/a/extend")])
def test_what_is_not_or_no_longer_in_force_is_not_found(
    server: Running, operator: Operator, method: str, path: str
) -> None:
    missing = (404, {"faults": ["no order in force has the id 'a'"]})
    assert operator.ask(method, path, {"duration_s": 1}) == missing
    operator.order(BLOCK)
    server.clock.now_s += 60

    assert operator.ask(method, path, {"duration_s": 1}) == missing
    events = [line["event"] for line in trail(server)]
    assert events == ["refused", "order", "expired", "refused"]


def test_all_faults_come_in_one_reply_and_nothing_is_in_force(server: Running, operator: Operator) -> None:
    bad = {"kind": "stop", "source": {"network": "10.0.0.5/8"}, "extra": 1, "id": "../x"}
    status, reply = operator.order(bad, {"sensor": "/"}, duration_s=0, more=1)

    assert status == 422
    assert [fault.partition(":")[0] for fault in reply["faults"]] == [
        *("'more'", "target.sensor", "duration_s", "id", "kind", "source.network", "'extra'")
    ]
    assert operator.ask("GET")[1]["orders"] == []
    assert [(line["event"], line["faults"]) for line in trail(server)] == [("refused", reply["faults"])]


@pytest.mark.parametrize(
    "given,fault",
    [
        ({}, "target"),
        ({"target": ONE, "duration_s": 60}, "action"),
        ({"target": ONE, "action": BLOCK}, "duration_s"),
        ({"target": ONE, "duration_s": True, "action": BLOCK}, "duration_s"),
        ({"target": ONE, "duration_s": MAX_DURATION_S + 1, "action": BLOCK}, "duration_s"),
        ({"target": ONE, "duration_s": 5, "action": {**BLOCK, "expires_s": NOW_S + 9}}, "duration_s"),
        ({"target": ONE, "duration_s": 5, "action": {**BLOCK, "start_s": NOW_S - 5}}, "expires_s: in the past"),
        ({"target": ONE, "duration_s": 5, "action": {**BLOCK, "start_s": "now"}}, "start_s"),
        ({"target": ONE, "duration_s": 5, "action": {**BLOCK, "source": {"network": "::/0"}}}, "source.network"),
        ([], "the body is no JSON object"),
    ],
)
def test_what_is_no_order_is_refused_with_the_reason(operator: Operator, given: object, fault: str) -> None:
    status, reply = operator.ask("POST", given=given)

    assert (status, reply["faults"][0].startswith(fault)) == (422, True)


@pytest.mark.parametrize(
    "raw,fault",
    [
        (b"{", "the body is no JSON"),
        (b"\xff", "the body is no JSON"),
        (b"[" * 9000, "the body is no JSON"),
        (b'{"target": 1, "target": 2}', "a member is given twice"),
        (b'{"action": {"source": 1, "source": 2}}', "a member is given twice"),
    ],
)
def test_a_body_that_means_nothing_or_two_things_is_refused(operator: Operator, raw: bytes, fault: str) -> None:
    assert operator.ask("POST", raw=raw) == (422, {"faults": [fault]})


def test_an_id_in_force_and_an_order_too_many_are_conflicts_and_not_cut(server: Running, operator: Operator) -> None:
    def fill(book: Book) -> Book:
        for n in range(MAX_ACTIONS):
            book = book.placed(Entry(EVERYBODY, parse_action({**ACTION, "id": f"n{n}"})), NOW_S)
        return book

    server.book_file.change(fill)
    assert operator.order({**BLOCK, "id": "n0"}, {"all": True})[0] == 409
    status, reply = operator.order({**BLOCK, "id": "more"})
    assert (status, reply["faults"][0].startswith("a sensor would have 257 orders")) == (409, True)
    assert len(Orders.parse(server.wire.send(server.signer.report()).body).actions) == MAX_ACTIONS


@pytest.mark.parametrize(
    "method,path", [("PUT", PATH), ("POST", f"{PATH}/a"), ("GET", f"{PATH}/a"), ("GET", "/v1/antigena")]
)
def test_other_requests_mean_nothing(operator: Operator, method: str, path: str) -> None:
    assert operator.ask(method, path)[0] in {404, 405}


# -- the list ---------------------------------------------------------------------------------------------------------


def test_the_list_has_orders_with_what_each_sensor_said_last(server: Running, operator: Operator) -> None:
    operator.order(BLOCK, {"all": True})
    book = server.book_file.book.id
    one = Report("enforce", book, 1, {"a": {"matched": 3, "resets": 6}})
    two = Report("observe", book, 0, {}, {"a": "a protected address"}, "no handle")
    for sensor, report in (("one", one), ("two", two), ("three", Report("off"))):
        server.wire.send(server.signer.report(report, sensor=sensor))

    status, reply = operator.ask("GET")

    assert (status, reply["book"], reply["version"], reply["time_s"]) == (200, book, 1, NOW_S)
    assert reply["orders"] == [
        {
            "target": {"all": True},
            "action": ACTION,
            "in_force": True,
            "sensors": {
                "one": {"counts": {"matched": 3, "resets": 6}, "refused": ""},
                "two": {"counts": {}, "refused": "a protected address"},
            },
        }
    ]
    said = {"heard_s": NOW_S, "trouble": ""}
    assert reply["sensors"] == {
        "one": {"mode": "enforce", "current": True, **said},
        "two": {"mode": "observe", "current": False, **said, "trouble": "no handle"},
        "three": {"mode": "off", "current": False, **said},
    }
    assert operator.fields["cache-control"] == "no-store"


def test_the_trail_tells_what_is_new_in_a_report_and_nothing_twice(server: Running, operator: Operator) -> None:
    operator.order(BLOCK, {"all": True})
    book = server.book_file.book.id
    reports = [
        Report("enforce", book, 1),
        Report("enforce", book, 1),
        Report("enforce", book, 1, {"a": {"matched": 1, "closed": 0}}),
        Report("enforce", book, 1, {"a": {"matched": 1, "closed": 1}}, {"b": "protected"}),
        Report("enforce", book, 1, {"a": {"matched": 1, "closed": 1}}, {"b": "protected"}),
        Report("enforce", "f" * 32, 1, {"a": {"matched": 1}}),
    ]
    for report in reports:
        server.wire.send(server.signer.report(report))

    who = {"event": "report", "sensor": "sensor-1", "version": 1}
    assert trail(server)[1:] == [
        {**who, "mode": "enforce"},
        {**who, "actions": {"a": {"matched": 1}}},
        {**who, "actions": {"a": {"closed": 1}}, "refused": {"b": "protected"}},
        {**who, "actions": {"a": {"matched": 1}}, "mode": "enforce"},
    ]


# -- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        TOKEN.secret.decode(),
        f"Basic {TOKEN.secret.decode()}",
        f"Bearer  {TOKEN.secret.decode()}",
        f"Bearer {TOKEN.secret.decode()}x",
        f"Bearer {TOKEN.secret.decode()[:-1]}",
        f"Bearer {TOKEN.secret.decode().upper()}",
        "Bearer \xff",
    ],
)
def test_without_the_token_nothing_is_told_or_done(server: Running, authorization: str | None) -> None:
    stranger = Operator(server, authorization)

    assert stranger.order(BLOCK) == (401, None)
    assert stranger.fields["www-authenticate"] == "Bearer"
    assert server.book_file.book.version == 0
    assert server.told == [("127.0.0.1", 0)]
    refused = {"event": "unauthorised", "peer": "127.0.0.1", "request": f"POST {PATH}", "left_out": 0}
    assert trail(server) == [refused]
    assert TOKEN.secret.decode() not in server.layout.trail.read_text()


def test_the_scheme_may_be_spelled_as_http_allows(server: Running) -> None:
    assert Operator(server, f"bearer {TOKEN.secret.decode()}").ask("GET")[0] == 200


def test_without_a_token_at_the_vsensor_there_is_no_door(tmp_path: Path) -> None:
    with Running(tmp_path / "store") as running:
        answers = [Operator(running).ask(method, path) for method, path in _ALL]

    assert answers == [(404, None)] * 4


_ALL = [("GET", PATH), ("POST", PATH), ("DELETE", f"{PATH}/a"), ("POST", f"{PATH}/a/extend")]


def test_who_fails_too_often_waits_whatever_the_token_and_the_trail_counts_it(server: Running) -> None:
    stranger, operator = Operator(server, "Bearer wrong"), Operator(server)

    assert [stranger.ask("GET")[0] for _ in range(attempts.BURST + 2)] == [401] * attempts.BURST + [429] * 2
    assert operator.ask("GET") == (429, None)
    wait_s = int(operator.fields["retry-after"])
    server.clock.now_s += wait_s - 1
    assert operator.ask("GET")[0] == 429
    server.clock.now_s += 1
    assert [operator.ask("GET")[0], stranger.ask("GET")[0], operator.ask("GET")[0]] == [200, 401, 429]
    lines = server.layout.trail.read_text().splitlines()
    assert [json.loads(line)["left_out"] for line in lines] == [0] * attempts.BURST + [4]
    assert (wait_s, server.told[-1]) == (6, ("127.0.0.1", 4))


def test_peers_are_counted_apart_and_a_host_of_ipv6_once() -> None:
    tried = attempts.Attempts()
    for n in range(attempts.BURST):
        tried.failed(f"2001:db8::{n:x}", 0.0)
        tried.failed(f"::ffff:192.0.2.{n}", 0.0)

    assert tried.wait_s("2001:db8::ffff:1", 0.0) == pytest.approx(6.0)
    assert [tried.wait_s(peer, 0.0) for peer in ("2001:db8:0:1::1", "192.0.2.1", "127.0.0.1")] == [0.0] * 3


def test_addresses_without_end_do_not_take_memory_without_end() -> None:
    tried = attempts.Attempts()
    for n in range(3000):
        tried.failed(f"10.0.{n >> 8}.{n & 255}", 0.0)

    assert len(tried._failed) == 1024


@pytest.mark.parametrize(
    "fields,raw,status",
    [
        ({"Content-Type": "text/plain"}, b"{}", 415),
        ({}, bytes(MAX_REQUEST_BYTES + 1), 413),
        ({"Transfer-Encoding": "chunked"}, b"0\r\n\r\n", 411),
    ],
)
def test_a_body_of_another_kind_or_size_is_not_read(
    operator: Operator, fields: dict[str, str], raw: bytes, status: int
) -> None:
    assert operator.ask("POST", raw=raw, **fields)[0] == status


def test_a_list_has_no_body_without_a_length(operator: Operator) -> None:
    assert operator.ask("GET", raw=b"0\r\n\r\n", **{"Transfer-Encoding": "chunked"})[0] == 411


# -- the disk ---------------------------------------------------------------------------------------------------------


def test_an_order_that_the_trail_does_not_take_is_not_in_force(
    server: Running, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server.trail, "_append", full)
    assert operator.order(BLOCK) == (507, {"faults": ["the store does not take it: No space left on device"]})
    monkeypatch.undo()

    assert operator.order(BLOCK)[1]["version"] == 1
    assert [(line["event"], line.get("lost_before")) for line in trail(server)] == [("order", 1)]


def test_an_order_that_the_book_does_not_take_is_not_in_force_and_the_trail_says_so(
    server: Running, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(server.book_file, "_commit", full)

    assert operator.order(BLOCK) == (507, {"faults": ["the store does not take it: database or disk is full"]})
    assert operator.ask("GET")[1]["orders"] == []
    assert [line["event"] for line in trail(server)] == ["order", "failed"]
    assert server.told == []
