"""Which batch goes next: examples. The rule itself is held against a model in tests/model/test_window_model.py."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ossensor.transport.window import _TABLE, Event, State, Window


def window(limit: int = 4, **streams: int) -> Window[str]:
    """Streams with that many batches each, numbered from 0."""
    made: Window[str] = Window(limit)
    for stream, count in streams.items():
        for sequence in range(count):
            assert made.add(stream, sequence, f"{stream}{sequence}")
    return made


def sent(w: Window[str], now_s: float = 0.0) -> list[str]:
    """Everything that may go now, in the order in which it goes."""
    items = []
    while (chosen := w.next(now_s)) is not None:
        items.append(chosen[2])
    return items


def test_streams_take_turns() -> None:
    assert sent(window(a=3, b=2, c=1)) == ["a0", "b0", "c0", "a1", "b1", "a2"]


def test_a_stream_has_no_more_on_its_way_than_its_limit() -> None:
    w = window(limit=2, a=5, b=1)

    assert sent(w) == ["a0", "b0", "a1"]
    assert w.in_flight == 3
    assert w.settle("a", 0) == "a0"
    assert sent(w) == ["a2"]


def test_a_limit_that_sinks_holds_from_the_next_batch_on_and_one_that_rises_at_once() -> None:
    w = window(limit=3, a=6)
    assert sent(w) == ["a0", "a1", "a2"]
    w.limit = 1
    w.settle("a", 0)
    assert sent(w) == []
    w.settle("a", 1)
    w.settle("a", 2)
    assert sent(w) == ["a3"]
    w.limit = 3

    assert sent(w) == ["a4", "a5"]


def test_a_batch_that_waits_for_its_retry_is_not_overtaken() -> None:
    w = window(limit=4, a=6)
    assert sent(w) == ["a0", "a1", "a2", "a3"]

    w.fail("a", 1, not_before_s=5.0)
    w.settle("a", 0)
    w.settle("a", 2)

    assert sent(w, 4.999) == []
    assert w.due_s() == 5.0
    assert sent(w, 5.0) == ["a1", "a4", "a5"]


def test_a_waiting_stream_does_not_hold_up_another() -> None:
    w = window(limit=1, a=2, b=2)
    sent(w)
    w.fail("a", 0, not_before_s=9.0)
    w.settle("b", 0)

    assert sent(w) == ["b1"]


def test_failed_batches_go_again_lowest_first() -> None:
    w = window(limit=3, a=3)
    sent(w)
    for sequence in (2, 0, 1):
        w.fail("a", sequence, 0.0)

    assert sent(w) == ["a0", "a1", "a2"]


def test_the_floor_is_the_lowest_that_is_not_settled() -> None:
    w = window(a=3)
    sent(w)
    w.settle("a", 1)
    assert w.floor("a") == 0
    w.settle("a", 0)
    assert w.floor("a") == 2


def test_a_sequence_that_is_not_above_all_others_of_its_stream_is_refused() -> None:
    w = window(a=0)
    assert w.add("a", 5, "five")

    assert [w.add("a", sequence, "x") for sequence in (5, 4, 6)] == [False, False, True]
    assert w.add("b", 4, "x")
    assert len(w) == 3


def test_nothing_waits_in_an_empty_window() -> None:
    w = window(a=1)
    sent(w)
    assert (w.due_s(), w.in_flight, len(w)) == (None, 1, 1)
    w.settle("a", 0)

    assert (w.due_s(), w.in_flight, len(w), w.next(0.0)) == (None, 0, 0, None)
    with pytest.raises(KeyError):
        w.floor("a")


QUEUED, ON_ITS_WAY, FAILED = 2, 0, 1


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda w: w.fail("a", QUEUED, 0.0), id="a queued batch cannot fail"),
        pytest.param(lambda w: w.settle("a", QUEUED), id="a queued batch cannot be settled"),
        pytest.param(lambda w: w.fail("a", FAILED, 0.0), id="a failed batch cannot fail again"),
        pytest.param(lambda w: w.settle("a", FAILED), id="a failed batch cannot be settled"),
        pytest.param(lambda w: w.settle("a", 7), id="an unknown sequence"),
        pytest.param(lambda w: w.fail("z", 0, 0.0), id="an unknown stream"),
        pytest.param(lambda w: w.floor("z"), id="the floor of an unknown stream"),
    ],
)
def test_an_illegal_step_raises_and_changes_nothing(act: Callable[[Window[str]], object]) -> None:
    w = window(limit=2, a=3)
    sent(w)
    w.fail("a", FAILED, 3.0)

    with pytest.raises(KeyError):
        act(w)

    assert (w.in_flight, len(w), w.floor("a"), w.due_s()) == (1, 3, ON_ITS_WAY, 3.0)


def test_the_table_has_four_moves() -> None:
    legal = {(s, e) for s in State for e in Event if (s, e) in _TABLE}

    assert legal == {
        (State.QUEUED, Event.SEND),
        (State.RETRY, Event.SEND),
        (State.SENT, Event.FAIL),
        (State.SENT, Event.SETTLE),
    }


def test_what_a_successor_finds_may_belong_between_what_it_has_but_not_twice() -> None:
    window: Window[str] = Window(1)
    added = [window.add("a", n, str(n), between=True) for n in (5, 9, 2, 7, 7, 10, 2)]
    order = []
    while (chosen := window.next(0.0)) is not None:
        order.append(chosen[1])
        assert window.floor("a") == chosen[1]
        window.settle("a", chosen[1])

    assert added == [True, True, True, True, False, True, False]
    assert order == [2, 5, 7, 9, 10]


def test_only_what_is_not_on_its_way_waits_and_may_be_replaced() -> None:
    window: Window[str] = Window(2)
    for n in range(3):
        window.add("a", n, str(n))
    window.next(0.0)
    assert [window.waits("a", n) for n in range(4)] == [False, True, True, False]
    assert not window.waits("b", 0)
    window.replace("a", 1, "elsewhere")
    window.fail("a", 0, 0.0)

    assert window.waits("a", 0)
    assert [window.next(0.0), window.next(0.0)] == [("a", 0, "0"), ("a", 1, "elsewhere")]
