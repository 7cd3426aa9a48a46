"""The parts of the chaos harness that decide: a plan is its seed's, and the judge sees each thing that can be wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from judge import Link, vacuous, wrong_with
from plan import KINDS, drawn, lanes, read, written


@pytest.mark.parametrize("load_s", [1, 30, 1800])
def test_a_plan_is_its_seeds_and_has_every_kind_in_the_order_of_time(load_s: float) -> None:
    plan = drawn(7, load_s)

    assert plan == drawn(7, load_s) != drawn(8, load_s)
    assert {fault.kind for fault in plan} == KINDS.keys()
    assert [fault.at_s for fault in plan] == sorted(fault.at_s for fault in plan)
    assert plan[-1].at_s <= load_s


def test_a_plan_is_read_back_from_the_log_that_it_was_printed_to() -> None:
    plan = drawn(1, 30)

    assert read(f"seed 1\n{written(plan)}verdict\n") == plan


def test_each_fault_is_in_the_lane_of_its_kind() -> None:
    plan = drawn(3, 60)

    assert sorted(fault for lane in lanes(plan).values() for fault in lane) == plan
    assert all(KINDS[fault.kind].lane == lane for lane, faults in lanes(plan).items() for fault in faults)


def _epoch(packets: int, verdict: str = "balanced", *, lost: int = 0, faults: tuple[str, ...] = ()) -> dict[str, Any]:
    return {"epoch": "e", "verdict": verdict, "lost": lost, "finding": {"packets": packets, "faults": faults}}


def _books(received: int, kernel_drops: int, delivered: int, **more: int) -> dict[str, int]:
    return {"received": received, "kernel_drops": kernel_drops, "delivered": delivered, "in_flight": 0, **more}


CLOSED = [_books(4, 1, 2, spooled=1), _books(6, 1, 5)]
GOOD = Link("cap0", 10, [0, 1, 2, 5, 6, 7, 8, 9], 0, [_epoch(3), _epoch(5)], CLOSED)
UNFINISHED = ["cap0: 1 epochs are open, and 0 were left so"]
LEFT = [_epoch(3, "open"), _epoch(5)]


def test_what_balances_is_not_complained_about() -> None:
    assert wrong_with(GOOD) == []


def test_what_a_stop_left_and_counted_is_not_complained_about() -> None:
    shorter = replace(GOOD, stored=GOOD.stored[1:], epochs=[_epoch(2, "open"), _epoch(5)])

    told = replace(shorter, epochs=[_epoch(2, "LOST 1", lost=1), _epoch(5)])
    left = [_books(4, 1, 2, shutdown=1), CLOSED[1]]

    assert [wrong_with(replace(one, books=left)) for one in (shorter, told)] == [[], []]
    assert wrong_with(shorter) == ["cap0: 3 frames are missing, and 2 are counted", *UNFINISHED]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"stored": [0, 1, 2, 5, 6, 7, 8, 8]}, "1 frames are stored twice"),
        ({"stored": [0, 1, 2, 5, 6, 7, 8, 10]}, "1 frames are stored that were not sent"),
        ({"altered": 1}, "1 frames are stored otherwise"),
        ({"sent": 11}, "11 frames were sent, and the books say 10"),
        ({"stored": [0, 1, 2, 5, 6, 7, 8]}, "8 packets by the index, 7 stored"),
        ({"stored": [0, 1, 2, 5, 6, 7, 8]}, "3 frames are missing, and 2 are counted"),
        ({"epochs": [_epoch(3), _epoch(5, "LOST 2", lost=2)]}, "2 packets are in sequences that never came, and stops"),
        ({"epochs": [_epoch(3), _epoch(5, "NOT BALANCED", faults=("6 explained",))]}, "epoch e: NOT BALANCED"),
        ({"books": [_books(4, 0, 2, spooled=1, worker_died=1), CLOSED[1]]}, "given up: {'worker_died': 1}"),
        ({"epochs": LEFT}, "1 epochs are open, and 0 were left so"),
    ],
)
def test_each_thing_that_is_wrong_is_told(change: dict[str, Any], told: str) -> None:
    assert [fault for fault in wrong_with(replace(GOOD, **change)) if told in fault]


def test_a_run_in_which_too_little_happened_proves_nothing() -> None:
    planned = Counter({"kill worker": 18, "reset": 2})

    assert vacuous(planned, Counter({"kill worker": 17, "reset": 1}), {"a worker died": 1}) == []
    assert vacuous(planned, Counter({"kill worker": 18}), {"a worker died": 0}) == [
        "no fault of the kind 'reset' struck",
        "nothing shows that a worker died",
    ]
    assert vacuous(planned, Counter({"kill worker": 16, "reset": 1}), {}) == ["only 17 of 20 faults struck"]
