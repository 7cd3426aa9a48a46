"""The exchange about Antigena reads back as it was written, and takes nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import MAX_ORDERS_BYTES, MAX_REPORT_BYTES, MAX_SEQUENCE, MalformedError

BOOK = "0123456789abcdef" * 2
BOOKS = st.sampled_from(["", BOOK])
COUNTS = st.integers(0, MAX_SEQUENCE)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64)
VALUES = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.lists(v, max_size=3))


@given(BOOKS, COUNTS, st.lists(st.dictionaries(st.text(), VALUES, max_size=4), max_size=4))
def test_orders_read_back_equal(book: str, version: int, actions: list[dict[str, Any]]) -> None:
    orders = Orders(book, version, tuple(actions))
    assert Orders.parse(orders.body) == orders


@given(
    st.sampled_from(["enforce", "observe", "off"]),
    BOOKS,
    COUNTS,
    st.dictionaries(TEXTS, st.dictionaries(TEXTS, COUNTS, max_size=3), max_size=3),
    st.dictionaries(TEXTS, TEXTS, max_size=3),
    TEXTS,
)
def test_a_report_reads_back_equal(
    mode: str, book: str, version: int, actions: Any, refused: Any, trouble: str
) -> None:
    report = Report(mode, book, version, actions, refused, trouble)
    assert Report.parse(report.body) == report


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"[" * 100_000,
        b"\xff",
        json.dumps({"book": BOOK, "version": 1}).encode(),
        json.dumps({"book": BOOK, "version": 1, "actions": [1]}).encode(),
        json.dumps({"book": BOOK, "version": 1, "actions": {}}).encode(),
        json.dumps({"book": BOOK, "version": -1, "actions": []}).encode(),
        json.dumps({"book": BOOK, "version": True, "actions": []}).encode(),
        json.dumps({"book": BOOK, "version": 1.0, "actions": []}).encode(),
        json.dumps({"book": BOOK, "version": MAX_SEQUENCE + 1, "actions": []}).encode(),
        json.dumps({"book": "../x", "version": 1, "actions": []}).encode(),
        json.dumps({"version": 1, "actions": []}).encode(),
        json.dumps({"book": BOOK, "version": 1, "actions": []}).encode() + b" " * MAX_ORDERS_BYTES,
    ],
)
def test_orders_of_another_shape_are_none(body: bytes) -> None:
    with pytest.raises(MalformedError):
        Orders.parse(body)


@pytest.mark.parametrize(
    "change",
    [
        {"mode": "maybe"},
        {"mode": None},
        {"book": None},
        {"version": "1"},
        {"actions": []},
        {"actions": {"a": 1}},
        {"actions": {"a": {"resets": -1}}},
        {"actions": {"a\n": {}}},
        {"refused": {"a": None}},
        {"refused": {"a": "x" * 513}},
        {"trouble": "two\nlines"},
    ],
)
def test_a_report_of_another_shape_is_none(change: dict[str, Any]) -> None:
    good = json.loads(Report("enforce", BOOK, 1).body)
    assert Report.parse(json.dumps(good).encode()) == Report("enforce", BOOK, 1)
    with pytest.raises(MalformedError):
        Report.parse(json.dumps(good | change).encode())


def test_a_report_has_a_largest_size() -> None:
    body = Report("enforce", BOOK, 1).body
    assert Report.parse(body.ljust(MAX_REPORT_BYTES)) == Report("enforce", BOOK, 1)
    with pytest.raises(MalformedError):
        Report.parse(body.ljust(MAX_REPORT_BYTES + 1))
