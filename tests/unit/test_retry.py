"""The retry table, its waits, and that docs/protocol.md has the same rows."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from ossensor.accounting import UPLOADER_REASONS, Reason
from ossensor.transport.protocol import Outcome
from ossensor.transport.retry import Next, again_s, direct_s, elsewhere_s, rule

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"


def test_the_table_of_what_follows() -> None:
    assert {outcome: rule(outcome)[:2] for outcome in (*Outcome, None)} == {
        Outcome.STORED: (Next.DELIVERED, None),
        Outcome.PRESENT: (Next.DELIVERED, None),
        Outcome.REGISTERED: (Next.AGAIN, None),
        Outcome.MALFORMED: (Next.GIVEN_UP, Reason.REJECTED),
        Outcome.TOO_LARGE: (Next.GIVEN_UP, Reason.TOO_LARGE),
        Outcome.STALE: (Next.AGAIN, None),
        Outcome.REPLAYED: (Next.AGAIN, None),
        Outcome.ALTERED: (Next.AGAIN, None),
        Outcome.OUT_OF_ORDER: (Next.AGAIN, None),
        Outcome.BUSY: (Next.AGAIN, None),
        Outcome.STORE_FAILED: (Next.AGAIN, None),
        None: (Next.ELSEWHERE, None),
    }


def test_a_batch_is_given_up_under_a_reason_of_the_uploaders_and_is_delivered_without_one() -> None:
    for outcome in Outcome:
        given_up = rule(outcome).next is Next.GIVEN_UP

        assert (rule(outcome).reason in UPLOADER_REASONS) is given_up
        assert outcome.acknowledged is (rule(outcome).next is Next.DELIVERED)


def test_the_protocol_s_text_has_the_same_statuses_and_gives_up_after_the_same_outcomes() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| (\d{3}) \| (.*) \|$", PROTOCOL.read_text(), re.MULTILINE)

    assert {name: int(status) for name, status, _ in rows} == {o.value: o.status for o in Outcome}
    given_up = {name for name, _, text in rows if "gives the batch up" in text or "as too large" in text}
    assert given_up == {o.value for o in Outcome if rule(o).next is Next.GIVEN_UP}


@pytest.mark.parametrize("asked_s, waits_s", [(0.0, 0.2), (0.1, 0.2), (7.0, 7.0), (30.0, 30.0), (86_400.0, 30.0)])
def test_after_a_signed_not_now_a_batch_waits_as_asked_between_a_fifth_of_a_second_and_thirty(
    asked_s: float, waits_s: float
) -> None:
    assert again_s(asked_s) == waits_s


class Most(random.Random):
    """Draws the upper end."""

    def uniform(self, a: float, b: float) -> float:  # noqa: ARG002
        return b


def test_the_longest_waits_after_doubts_in_a_row_double_up_to_thirty_seconds() -> None:
    waits_s = [elsewhere_s(failures, 0.0, Most()) for failures in (0, 1, 2, 3, 8, 9, 1_000_000)]

    assert waits_s == [0.1, 0.2, 0.4, 0.8, 25.6, 30.0, 30.0]


def test_the_waits_after_doubts_spread_from_nothing_to_the_longest() -> None:
    drawn_s = sorted(elsewhere_s(9, 0.0, random.Random(seed)) for seed in range(1000))

    assert (drawn_s[0] < 0.3, 14.0 < drawn_s[500] < 16.0, drawn_s[-1] > 29.7) == (True, True, True)


@pytest.mark.parametrize("asked_s, waits_s", [(5.0, 5.0), (86_400.0, 30.0)])
def test_an_unsigned_retry_after_lengthens_the_wait_up_to_our_own_longest(asked_s: float, waits_s: float) -> None:
    assert elsewhere_s(0, asked_s, random.Random(1)) == waits_s


def test_a_direct_address_waits_half_of_its_longest_at_least_which_doubles_up_to_a_minute() -> None:
    class Least(Most):
        def uniform(self, a: float, b: float) -> float:  # noqa: ARG002
            return a

    waits_s = [(direct_s(n, 0.0, Least()), direct_s(n, 0.0, Most())) for n in (0, 1, 5, 6, 1_000_000)]

    assert waits_s == [(0.5, 1.0), (1.0, 2.0), (16.0, 32.0), (30.0, 60.0), (30.0, 60.0)]
    assert [direct_s(0, asked_s, Most()) for asked_s in (5.0, 86_400.0)] == [5.0, 30.0]
