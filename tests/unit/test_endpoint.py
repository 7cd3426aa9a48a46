"""Which address of the vSensor is used: guarded before opened, and patient after failures."""

from __future__ import annotations

import random
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossensor.filters import Flow
from ossensor.transport.endpoint import _TABLE, Endpoint, Event, State


class FixedRandom:
    """A source of jitter that always draws the same share of the range, and remembers the ranges."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.ceilings: list[float] = []

    def uniform(self, low: float, high: float) -> float:
        assert low == 0.0
        self.ceilings.append(high)
        return high * self.share


def endpoint(share: float = 1.0) -> Endpoint:
    return Endpoint("vsensor.test", 8443, cast("random.Random", FixedRandom(share)))


def open_it(e: Endpoint, *addresses: str, now_s: float = 0.0) -> Endpoint:
    """Through lookup and guard, asserting each wish on the way."""
    assert e.wants(now_s) is State.UNRESOLVED
    e.asked()
    e.resolved(list(addresses or ["192.0.2.1"]), now_s)
    assert e.wants(now_s) is State.UNGUARDED
    e.asked()
    e.guarded(now_s, ok=True)
    return prove_it(e, now_s)


def prove_it(e: Endpoint, now_s: float = 0.0) -> Endpoint:
    assert e.wants(now_s) is State.UNPROVEN
    assert e.concurrency(4) == 0
    e.asked()
    e.proven(now_s)
    assert e.wants(now_s) is State.OPEN
    return e


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_a_pair_moves_as_the_table_says_or_raises(state: State, event: Event) -> None:
    e = endpoint()
    e._state = state
    if (state, event) in _TABLE:
        e._step(event)
        assert e._state is _TABLE[state, event]
    else:
        with pytest.raises(KeyError):
            e._step(event)
        assert e._state is state


def test_only_a_proof_opens_and_only_a_guarded_address_may_be_asked_for_one() -> None:
    into = {state: {pair for pair, to in _TABLE.items() if to is state} for state in (State.OPEN, State.UNPROVEN)}

    assert into == {
        State.OPEN: {(State.PROVING, Event.PROVEN)},
        State.UNPROVEN: {
            (State.GUARDING, Event.GUARDED),
            (State.PROVING, Event.FAILED),
            (State.OPEN, Event.AGED),
            (State.OPEN, Event.FAILED),
            # to a direct address, which has a guard of its own: test_direct.py
            (State.OPEN, Event.DIVERTED),
            (State.WAITING, Event.DIVERTED),
        },
    }


def test_a_new_endpoint_is_looked_up_then_guarded_then_proven_then_open() -> None:
    e = endpoint()
    assert (e.generation, e.concurrency(4), e.reachable, e.due_s()) == (0, 0, False, None)

    open_it(e, "192.0.2.1", "2001:db8::1")

    assert (e.address, e.generation, e.concurrency(4), e.reachable, e.due_s()) == ("192.0.2.1", 1, 4, True, None)


def test_flows_name_every_address_that_may_be_connected_to() -> None:
    e = endpoint()
    e.wants(0.0)
    e.asked()
    e.resolved(["192.0.2.1", "2001:db8::1"], 0.0)

    assert e.flows == [Flow("192.0.2.1", 8443), Flow("2001:db8::1", 8443)]


def test_addresses_of_earlier_lookups_stay_excluded_and_none_is_named_twice() -> None:
    e = open_it(endpoint(), "192.0.2.1", "192.0.2.2")
    e.failed(e.generation, 0.0)
    prove_it(e).failed(e.generation, 0.0)
    open_it(e, "192.0.2.3", "192.0.2.1", now_s=100.0)

    assert sorted(f.address for f in e.flows) == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


@pytest.mark.parametrize("count", [1, 2, 16, 17, 40])
def test_however_many_addresses_a_lookup_gives_none_is_used_that_the_guard_did_not_name(count: int) -> None:
    e = open_it(endpoint(), *[f"10.0.0.{n}" for n in range(count)])
    guarded = {f.address for f in e.flows}
    used = {e.address}
    while e.wants(0.0) is State.OPEN:
        e.failed(e.generation, 0.0)
        if e.wants(0.0) is State.UNPROVEN:
            used.add(prove_it(e).address)

    assert used - guarded == set()


def test_a_failure_moves_to_the_next_address_at_once() -> None:
    e = open_it(endpoint(), "192.0.2.1", "192.0.2.2")
    e.failed(e.generation, 0.0)

    assert (e.wants(0.0), e.address, e.generation) == (State.UNPROVEN, "192.0.2.2", 2)


def test_an_address_that_does_not_prove_itself_is_left_for_the_next_and_the_last_for_a_wait() -> None:
    e = open_it(endpoint(), "192.0.2.1", "192.0.2.2", "192.0.2.3")
    for expected in ("192.0.2.2", "192.0.2.3"):
        e.failed(e.generation, 0.0)
        assert (e.wants(0.0), e.address) == (State.UNPROVEN, expected)
        e.asked()
    e.failed(e.generation, 0.0)

    assert (e.wants(0.0), e.due_s(), e.concurrency(4)) == (State.WAITING, 0.2, 0)


def test_a_proof_does_not_forget_the_failures_of_what_came_after_the_last_one() -> None:
    e = endpoint()
    waits = []
    for now_s in (0.0, 100.0, 200.0):
        open_it(e, now_s=now_s).failed(e.generation, now_s)
        waits.append(round((e.due_s() or 0.0) - now_s, 6))

    assert waits == [0.1, 0.2, 0.4]


def test_the_last_address_that_fails_begins_a_wait_and_then_a_new_lookup() -> None:
    e = open_it(endpoint(), "192.0.2.1")
    e.failed(e.generation, 10.0)

    assert (e.wants(10.0), e.due_s(), e.concurrency(4)) == (State.WAITING, 10.1, 0)
    assert e.wants(10.099) is State.WAITING
    assert e.wants(10.1) is State.UNRESOLVED


@pytest.mark.parametrize("how", ["lookup", "guard", "request"])
def test_back_off_doubles_from_a_tenth_to_thirty_seconds_whatever_failed(how: str) -> None:
    e = endpoint(share=1.0)
    now_s = 0.0
    waits = []
    for _ in range(12):
        if how == "request":
            open_it(e, now_s=now_s)
            e.failed(e.generation, now_s)
        else:
            assert e.wants(now_s) is State.UNRESOLVED
            e.asked()
            e.resolved([] if how == "lookup" else ["192.0.2.1"], now_s)
            if how == "guard":
                assert e.wants(now_s) is State.UNGUARDED
                e.asked()
                e.guarded(now_s, ok=False)
        due_s = e.due_s()
        assert due_s is not None
        waits.append(round(due_s - now_s, 6))
        now_s = due_s

    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0, 30.0]


@settings(derandomize=True, max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40))
def test_the_jitter_is_between_nothing_and_the_ceiling(seed: int, failures: int) -> None:
    e = Endpoint("vsensor.test", 8443, random.Random(seed))
    now_s = 1000.0
    for n in range(failures):
        open_it(e, now_s=now_s)
        e.failed(e.generation, now_s)
        due_s = e.due_s()
        assert due_s is not None
        assert now_s <= due_s <= now_s + min(30.0, 0.1 * 2**n)
        now_s = max(due_s, now_s) + 1.0


def test_a_signed_answer_forgets_the_failures() -> None:
    e = endpoint()
    for now_s in (0.0, 100.0, 200.0):
        open_it(e, now_s=now_s)
        e.failed(e.generation, now_s)
    open_it(e, now_s=300.0).succeeded(e.generation)
    e.failed(e.generation, 300.0)

    assert e.due_s() == 300.1


def test_stale_news_of_an_address_that_is_not_in_use_is_ignored() -> None:
    e = open_it(endpoint(), "192.0.2.1", "192.0.2.2", "192.0.2.3")
    old = e.generation
    for _ in range(4):  # four requests were on their way to the address that failed
        e.failed(old, 0.0)

    assert (e.address, e.wants(0.0)) == ("192.0.2.2", State.UNPROVEN)


def test_an_answer_from_an_address_that_is_not_in_use_forgets_no_failure_of_the_one_that_is() -> None:
    e = open_it(endpoint(), "192.0.2.1", "192.0.2.2")
    old = e.generation
    e.failed(old, 0.0)
    prove_it(e).succeeded(old)

    assert (e.concurrency(4), e.reachable) == (1, False)


def test_news_that_comes_while_waiting_does_not_lengthen_the_wait() -> None:
    e = open_it(endpoint())
    generation = e.generation
    e.failed(generation, 0.0)
    e.failed(generation, 5.0)
    e.failed(e.generation, 5.0)

    assert e.due_s() == 0.1


def test_one_request_at_a_time_after_a_failure_until_an_answer() -> None:
    e = open_it(endpoint(), "192.0.2.1", "192.0.2.2")
    e.failed(e.generation, 0.0)
    assert (prove_it(e).concurrency(4), e.reachable) == (1, False)
    e.failed(e.generation, 0.0)
    open_it(e, now_s=50.0)
    assert (e.concurrency(4), e.reachable) == (1, False)
    e.succeeded(e.generation)

    assert (e.concurrency(4), e.reachable) == (4, True)


@pytest.mark.parametrize("asked_s,waits_s", [(0.0, 0.05), (0.02, 0.05), (7.0, 7.0), (30.0, 30.0), (86_400.0, 30.0)])
def test_retry_after_is_honoured_up_to_the_cap_and_never_shortens_the_wait(asked_s: float, waits_s: float) -> None:
    e = open_it(endpoint(share=0.5))
    e.failed(e.generation, 0.0, retry_after_s=asked_s)

    assert e.due_s() == waits_s


def test_a_drain_does_not_sit_out_a_back_off() -> None:
    e = open_it(endpoint())
    e.failed(e.generation, 1000.0, retry_after_s=30.0)
    e.hurry()

    assert (e.due_s(), e.wants(1000.0)) == (0.0, State.UNRESOLVED)


def test_hurry_disturbs_no_other_state() -> None:
    e = open_it(endpoint())
    e.hurry()

    assert (e.wants(0.0), e.due_s(), e.concurrency(4)) == (State.OPEN, None, 4)


@settings(derandomize=True, max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["ask", "resolve", "guard", "refuse", "prove", "fail", "tick"]), st.integers(0, 16))
    )
)
def test_it_is_never_open_at_an_address_that_was_not_guarded_and_then_proven(history: list[tuple[str, int]]) -> None:
    e = endpoint()
    now_s = 0.0
    proven = ""
    named: set[str] = set()
    asked_flows: set[str] = set()
    for act, n in history:
        state = e.wants(now_s)
        if act == "ask" and state in {State.UNRESOLVED, State.UNGUARDED, State.UNPROVEN}:
            asked_flows = {f.address for f in e.flows} if state is State.UNGUARDED else set()
            e.asked()
            if state is State.UNPROVEN:
                assert e.address in named
        elif act == "prove" and state is State.PROVING:
            e.proven(now_s)
            proven = e.address
        elif act == "resolve" and state is State.RESOLVING:
            e.resolved([f"10.0.{n}.{m}" for m in range(n)], now_s)
        elif act in {"guard", "refuse"} and state is State.GUARDING:
            e.guarded(now_s, ok=act == "guard")
            named = asked_flows if act == "guard" else named
        elif act == "fail":
            e.failed(e.generation, now_s)
        else:
            now_s += n

        if e.wants(now_s) is State.OPEN:
            assert e.address in named
            assert e.address == proven


def test_a_proof_is_asked_for_again_after_a_minute_at_the_same_address_and_costs_no_attempt_that_is_under_way() -> None:
    e = open_it(endpoint(), "192.0.2.1")
    address, generation = e.address, e.generation

    assert e.wants(59.9) is State.OPEN
    assert e.wants(60.0) is State.UNPROVEN
    assert e.concurrency(4) == 0
    e.asked()
    e.succeeded(generation)
    e.proven(60.1)

    assert (e.wants(120.0), e.address, e.generation, e.concurrency(4)) == (State.OPEN, address, generation, 4)
    assert e.wants(120.2) is State.UNPROVEN
