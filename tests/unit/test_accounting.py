"""The books: an equality of integers, and what is said when it does not hold."""

from __future__ import annotations

import pytest

from ossensor.accounting import SUPERVISOR_REASONS, UPLOADER_REASONS, Books, Reason


def test_books_balance_when_every_packet_is_explained() -> None:
    dropped = {Reason.REJECTED: 3, Reason.WORKER_DIED: 4}
    books = Books(received=1000, kernel_drops=951, delivered=40, in_flight=2, dropped=dropped)

    assert (books.missing, books.balanced) == (0, True)


def test_empty_books_balance() -> None:
    assert Books(0, 0, 0, 0).balanced


@pytest.mark.parametrize(
    "books,missing",
    [
        pytest.param(Books(10, 0, 9, 0), 1, id="one lost"),
        pytest.param(Books(10, 0, 11, 0), -1, id="one counted twice"),
        pytest.param(Books(10, 1, 8, 0), 1, id="kernel drops are part of received"),
        pytest.param(Books(10, 0, 8, 1), 1, id="in flight explains"),
        pytest.param(Books(10, 0, 8, 0, {Reason.SHUTDOWN: 1}), 1, id="a reason explains"),
        pytest.param(Books(10, 0, 0, 0, spooled=9), 1, id="what was spooled explains"),
    ],
)
def test_what_is_missing_is_an_exact_number(books: Books, missing: int) -> None:
    assert (books.missing, books.balanced) == (missing, False)
    assert f"NOT BALANCED: missing={missing}" in str(books)


def test_the_line_names_every_count_and_only_the_reasons_that_occurred() -> None:
    books = Books(10, 1, 5, 2, {Reason.CORRUPT: 2, Reason.TOO_LARGE: 0})

    assert str(books) == "received=10 kernel_drops=1 delivered=5 in_flight=2 corrupt=2 (balanced)"


def test_the_line_names_what_was_spooled_beside_what_was_dropped() -> None:
    books = Books(10, 1, 5, 0, {Reason.SHUTDOWN: 1}, spooled=3)

    assert str(books) == "received=10 kernel_drops=1 delivered=5 in_flight=0 spooled=3 shutdown=1 (balanced)"


def test_the_reasons_are_a_closed_set_with_one_owner_each() -> None:
    assert {reason.value for reason in Reason} == {
        "rejected",
        "too_large",
        "corrupt",
        "spool_damaged",
        "worker_died",
        "interface_gone",
        "shutdown",
    }
    assert UPLOADER_REASONS == (Reason.REJECTED, Reason.TOO_LARGE, Reason.CORRUPT)
    assert SUPERVISOR_REASONS == (Reason.WORKER_DIED, Reason.INTERFACE_GONE, Reason.SHUTDOWN)


def test_two_sets_of_books_do_not_share_their_drops() -> None:
    assert Books(0, 0, 0, 0).dropped is not Books(0, 0, 0, 0).dropped
