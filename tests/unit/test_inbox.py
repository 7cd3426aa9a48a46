"""What threads tell the main thread: none is missed, and what can wait wakes nobody who is in no hurry."""

from __future__ import annotations

import random
import secrets
import select
import threading
from collections.abc import Iterator

import pytest

from ossensor.workers.inbox import UNHURRIED_S, Inbox


@pytest.fixture
def inbox() -> Iterator[Inbox[int]]:
    made: Inbox[int] = Inbox()
    yield made
    made.close()


def _rings(inbox: Inbox[int]) -> bool:
    poll = select.poll()
    poll.register(inbox.fileno(), select.POLLIN)
    return bool(poll.poll(0))


def test_news_comes_in_order_and_once_and_silences_the_bell(inbox: Inbox[int]) -> None:
    for number in range(5):
        inbox.put(number)

    assert _rings(inbox)
    assert list(inbox.take()) == [0, 1, 2, 3, 4]
    assert (list(inbox.take()), _rings(inbox)) == ([], False)


def test_what_can_wait_rings_for_one_who_is_in_a_hurry_and_not_for_one_who_is_not(inbox: Inbox[int]) -> None:
    rang = []
    for hurried in (True, False):
        for can_wait in (True, False):
            assert inbox.patience_s(hurried=hurried) == UNHURRIED_S
            inbox.put(1, can_wait=can_wait)
            rang.append((hurried, can_wait, _rings(inbox)))
            assert list(inbox.take()) == [1]

    assert rang == [(True, True, True), (True, False, True), (False, True, False), (False, False, True)]


def test_who_has_news_is_not_away_for_a_moment(inbox: Inbox[int]) -> None:
    inbox.patience_s(hurried=False)
    inbox.put(1, can_wait=True)

    assert inbox.patience_s(hurried=True) == 0.0
    assert list(inbox.take()) == [1]
    assert inbox.patience_s(hurried=True) == UNHURRIED_S


def test_between_a_change_of_mind_and_a_putting_nothing_is_slept_through(inbox: Inbox[int]) -> None:
    """A thread puts what can wait while the other goes to and fro; in a hurry, that one is woken or sees it."""
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    heard: list[int] = []
    heard_it = threading.Semaphore(1)

    def write() -> None:
        for number in range(2000):
            heard_it.acquire()
            inbox.put(number, can_wait=True)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    poll = select.poll()
    poll.register(inbox.fileno(), select.POLLIN)
    while len(heard) < 2000:
        patience_s = inbox.patience_s(hurried=(hurried := rng.random() < 0.5))
        if hurried:
            # Two minutes stand for "for ever": whoever is in a hurry needs no time limit to hear.
            assert poll.poll(120_000 if patience_s else 0) or not patience_s, f"slept through {len(heard)}"
        for number in inbox.take():
            heard.append(number)
            heard_it.release()
    writer.join()

    assert heard == list(range(2000))
