"""The supervisor's counts: of each epoch and of all, shown at once, and found again by another life."""

from __future__ import annotations

import pytest

from ossensor.accounting import Reason
from ossensor.region import Control, Region
from ossensor.tally import Tally


def _counts(tally: Tally) -> tuple[int, int, int, int]:
    return tally.received, tally.kernel_drops, tally.epoch_received, tally.epoch_drops


def test_readings_add_up_for_the_epoch_and_for_all_and_are_shown(region: Region) -> None:
    tally, seen = Tally(region), []
    for readings in ([(10, 1), (5, 0)], [(7, 7)]):
        tally.begin_epoch()
        for received, drops in readings:
            tally.add(received, drops)
            assert (*region.totals()[:2], *region.kernel_counts()) == _counts(tally)
        seen.append(_counts(tally))

    assert seen == [(15, 1, 15, 1), (22, 8, 7, 7)]


def test_what_an_epoch_leaves_behind_is_shown_under_its_reason(region: Region) -> None:
    tally = Tally(region)
    tally.begin_epoch()
    tally.add(10, 1)
    region.set_control(Control.COMMITTED, 4)
    left = tally.uncommitted
    tally.lose(left, Reason.SHUTDOWN)

    assert (left, region.totals()[2][Reason.SHUTDOWN], _counts(tally)) == (5, 5, (10, 1, 10, 1))


@pytest.mark.parametrize("lost", [False, True])
def test_another_life_goes_on_and_finds_what_a_reading_took_if_one_was_lost(region: Region, *, lost: bool) -> None:
    before = Tally(region)
    before.begin_epoch()
    before.add(3, 0)
    before.lose(3, Reason.INTERFACE_GONE)
    before.begin_epoch()
    before.add(10, 1)
    region.set_control(Control.COMMITTED, 12)  # three more than was read
    if lost:
        region.begin_reading()
    heir = Tally(region)
    heir.take_up()
    taken_up = _counts(heir)
    heir.add(0, 0)
    meanwhile = (*region.totals()[:2], *region.kernel_counts())
    heir.lose(2, Reason.SHUTDOWN)

    assert taken_up == (13, 1, 10, 1)
    assert meanwhile == ((16, 1, 13, 1) if lost else taken_up)
    assert _counts(heir) == ((18, 1, 15, 1) if lost else taken_up)
    assert region.totals()[2] == {Reason.WORKER_DIED: 0, Reason.INTERFACE_GONE: 3, Reason.SHUTDOWN: 2}
