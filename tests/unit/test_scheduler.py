"""The uploader's exchange about Antigena: what is passed on, what is not, and what a failure costs."""

from __future__ import annotations

import json
import ssl
import time
from typing import Any

import pytest

from ossensor.transport.client import Proof
from ossensor.transport.inquiry import Answer, Inquiry
from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import TAG_ORDER, Outcome
from ossensor.transport.registration import Question
from ossensor.transport.signing import Key, Nonce
from ossensor.workers.route import Destination, Route
from ossensor.workers.scheduler import AntigenaPlan, Scheduler

KEY = Key(b"k" * 32)
ADDRESS = "192.0.2.1"
BOOK, OTHER_BOOK = "a" * 32, "b" * 32
ACTION = {"id": "one"}
PERIOD_S = 5.0


class Asked:
    """Stands for the thread that asks."""

    def __init__(self) -> None:
        self.inquiries: list[Inquiry] = []

    def ask(self, inquiry: Inquiry) -> None:
        self.inquiries.append(inquiry)


class Bench:
    """A scheduler whose vSensor has proved itself, at the time 0."""

    def __init__(self, *, is_open: bool = True, ordered: bool = False) -> None:
        to = Destination(ADDRESS, 443, (KEY,), pinned=True, sensor="s", application="x")
        self.route = Route(to, ssl.create_default_context(), lambda _: None, lambda _: True)
        self.asked = Asked()
        self.told: list[dict[str, Any]] = []
        asker: Any = self.asked
        plan = AntigenaPlan("enforce", PERIOD_S)
        self.scheduler = Scheduler(self.route, asker, "s", plan, self._tell, 0.0, ordered=ordered)
        if is_open:
            self.open()

    def _tell(self, text: str) -> bool:
        self.told.append(json.loads(text))
        return True

    def open(self) -> None:
        endpoint = self.route.endpoint
        endpoint.asked()
        endpoint.resolved([ADDRESS], 0.0)
        endpoint.asked()
        endpoint.guarded(0.0, ok=True)
        endpoint.asked()
        question = Question("s", ADDRESS, endpoint.generation, (KEY,), 1, (Nonce("f" * 32, 1),), bound=True)
        self.route.proved(Proof(question, "proven", KEY, "aa", int(time.time())), 0.0)

    def exchange(self, now_s: float, outcome: Outcome | None, content: bytes = b"", status: int = 200) -> None:
        before = len(self.asked.inquiries)
        self.scheduler.attend(now_s)
        assert len(self.asked.inquiries) == before + 1
        answer = Answer(self.asked.inquiries[-1], "", outcome, status, content, None if outcome is None else 1000)
        self.scheduler.heard(answer, now_s)

    def said(self) -> Report:
        return Report.parse(self.asked.inquiries[-1].body)


def test_nothing_is_asked_before_the_vsensor_has_proved_itself_nor_twice_at_once() -> None:
    bench = Bench(is_open=False)
    bench.scheduler.attend(10.0)
    assert bench.asked.inquiries == []

    bench.open()
    bench.scheduler.attend(10.0)
    bench.scheduler.attend(100.0)
    assert [(i.path, i.tag) for i in bench.asked.inquiries] == [("/v1/sensors/s/antigena", TAG_ORDER)]
    assert bench.said() == Report("enforce")
    assert bench.scheduler.due_s is None


def test_orders_are_passed_on_once_and_again_when_they_change() -> None:
    bench = Bench()
    first, second = Orders(BOOK, 1, (ACTION,)), Orders(BOOK, 2, ())
    for n, orders in enumerate([first, first, second, second, Orders(OTHER_BOOK, 2, (ACTION,))]):
        bench.exchange(10.0 * (n + 1), Outcome.REGISTERED, orders.body)

    assert [told["orders"] for told in bench.told] == [
        {"book": BOOK, "version": 1, "actions": [ACTION]},
        {"book": BOOK, "version": 2, "actions": []},
        {"book": OTHER_BOOK, "version": 2, "actions": [ACTION]},
    ]
    # With them goes how far the vSensor's clock is ahead of the time since boot.
    ahead_s = bench.route.vsensor_time_s() - time.clock_gettime(time.CLOCK_BOOTTIME)
    assert all(abs(told["ahead_s"] - ahead_s) <= 60 for told in bench.told)


def test_no_orders_ever_wake_nobody() -> None:
    bench = Bench()
    for n in range(3):
        bench.exchange(10.0 * (n + 1), Outcome.REGISTERED, Orders(BOOK, n, ()).body)
    assert bench.told == []


def test_what_was_cleared_while_no_uploader_lived_is_passed_on_by_the_next() -> None:
    bench = Bench(ordered=True)
    for n in range(3):
        bench.exchange(10.0 * (n + 1), Outcome.REGISTERED, Orders(BOOK, 2, ()).body)
    assert [told["orders"] for told in bench.told] == [{"book": BOOK, "version": 2, "actions": []}]


# As it came it is short enough; as it is spelled on the way to the enforcer, it is not.
LONG = b'{"book": "", "version": 1, "actions": [{"id": "' + b"\x7f" * 200_000 + b'"}]}'


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"book": "x", "version": 1, "actions": []}', LONG])
def test_orders_that_cannot_be_read_change_nothing_and_are_reported(content: bytes) -> None:
    bench = Bench()
    bench.exchange(10.0, Outcome.REGISTERED, Orders(BOOK, 1, (ACTION,)).body)
    bench.exchange(20.0, Outcome.REGISTERED, content)
    bench.scheduler.attend(30.0)

    assert len(bench.told) == 1
    assert bench.said().trouble.startswith("orders that cannot be read")


@pytest.mark.parametrize("status", [404, 500, 401])
def test_a_vsensor_that_fails_at_orders_still_gets_batches(status: int) -> None:
    bench = Bench()
    bench.exchange(10.0, None, status=status)
    assert bench.route.endpoint.is_open
    assert 14.0 <= (bench.scheduler.due_s or 0) <= 15.0


def test_nobody_there_concerns_batches_too() -> None:
    bench = Bench()
    bench.exchange(10.0, None, status=0)
    assert not bench.route.endpoint.is_open


def test_a_stale_exchange_is_tried_again_by_the_vsensors_clock() -> None:
    bench = Bench()
    bench.exchange(10.0, Outcome.STALE)
    assert (bench.scheduler.due_s or 0) == 11.0
    bench.scheduler.attend(11.0)
    assert abs(bench.asked.inquiries[-1].stamp.created_s - 1000) <= 60  # of this clock it is half a century


def test_what_the_enforcer_reports_is_said_next() -> None:
    bench = Bench()
    report = Report("enforce", BOOK, 1, {"one": {"resets_source": 2}}, {"two": "protected"})
    bench.scheduler.reported(report.body.decode())
    bench.scheduler.attend(10.0)
    assert bench.said() == report
