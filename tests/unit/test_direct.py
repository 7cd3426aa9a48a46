"""The direct address: guarded, scouted, taken; left alone after a failure, and given up when it sends on to another."""

from __future__ import annotations

import random

import pytest

from ossensor.filters import Flow
from ossensor.transport import endpoint as endpoints
from ossensor.transport.direct import _TABLE, Direct, Event, State
from ossensor.transport.endpoint import Endpoint

BALANCER = Flow("192.0.2.1", 8443)
HERE, THERE = "10.0.0.1:9443", "10.0.0.2:9443"
FLOW, OTHER = Flow("10.0.0.1", 9443), Flow("10.0.0.2", 9443)


def direct(text: str = HERE) -> Direct:
    made = Direct(random.Random(1))
    assert made.named(text, BALANCER) == ""
    return made


def guard(d: Direct, now_s: float = 0.0, *, ok: bool = True) -> Direct:
    assert d.wants(now_s) is State.UNGUARDED
    d.guarded(d.asked(), now_s, ok=ok)
    return d


def scout(d: Direct, now_s: float = 0.0, *, ok: bool = True) -> Direct:
    assert d.wants(now_s) is State.UNPROVEN
    d.scouted(d.asked(), now_s, ok=ok)
    return d


def at_name(*addresses: str) -> Endpoint:
    """Open, at the first of the name's addresses."""
    e = Endpoint("vsensor.test", 8443, random.Random(1))
    return prove_name(e, *(addresses or ("192.0.2.1",)))


def prove_name(e: Endpoint, *addresses: str, now_s: float = 0.0) -> Endpoint:
    for want in (endpoints.State.UNRESOLVED, endpoints.State.UNGUARDED):
        assert e.wants(now_s) is want
        e.asked()
        if want is endpoints.State.UNRESOLVED:
            e.resolved(list(addresses), now_s)
        else:
            e.guarded(now_s, ok=True)
    return prove(e, now_s)


def prove(e: Endpoint, now_s: float = 0.0) -> Endpoint:
    assert e.wants(now_s) is endpoints.State.UNPROVEN
    e.asked()
    e.proven(now_s)
    return e


def at_direct(now_s: float = 0.0) -> Endpoint:
    e = at_name()
    assert e.told(HERE, now_s) == ""
    scout(guard(e.direct, now_s), now_s)
    assert e.maybe_divert(now_s)
    prove(e, now_s)
    assert e.told(HERE, now_s) == ""
    return e


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_a_pair_moves_as_the_table_says_or_raises(state: State, event: Event) -> None:
    d = Direct(random.Random(1))
    d._state = state
    if (state, event) in _TABLE:
        d._step(event)
        assert d._state is _TABLE[state, event]
    else:
        with pytest.raises(KeyError):
            d._step(event)
        assert d._state is state


def test_only_a_guarded_address_is_scouted_and_only_a_scouted_one_taken() -> None:
    into = {to: {pair for pair, then in _TABLE.items() if then is to} for to in (State.UNPROVEN, State.USED)}

    assert into == {
        State.UNPROVEN: {(State.GUARDING, Event.GUARDED)},
        State.USED: {(State.READY, Event.TAKEN)},
    }
    assert {state for (state, _), to in _TABLE.items() if to is State.READY} == {State.PROVING}


def test_nothing_is_wanted_before_an_address_is_named_nor_where_it_is_the_one_in_use() -> None:
    assert Direct(random.Random(1)).wants(0.0) is State.NONE
    assert direct("192.0.2.1:8443").wants(0.0) is State.NONE
    assert direct("192.0.2.1:8444").wants(0.0) is State.UNGUARDED


def test_an_address_that_cannot_be_is_refused_counted_and_ends_the_one_before_it() -> None:
    d = guard(direct())

    assert d.named("169.254.170.2:80", BALANCER) == "a link-local address may be a credential endpoint"
    assert (d.wants(0.0), d.refused, d.holding) == (State.NONE, 1, False)


def test_the_filters_name_what_the_supervisor_has_confirmed_and_remember_the_last_four() -> None:
    d = direct()
    assert d.flows == []
    guard(d)
    assert d.flows == [FLOW]
    for n in range(2, 7):
        d.named(f"10.0.0.{n}:9443", BALANCER)
        guard(d)

    assert d.flows == [Flow(f"10.0.0.{n}", 9443) for n in range(3, 7)]


def test_an_answer_about_an_earlier_address_says_nothing_of_the_present_one() -> None:
    d = direct()
    earlier = d.asked()
    d.named(THERE, BALANCER)
    d.asked()
    d.guarded(earlier, 0.0, ok=True)
    assert (d.wants(0.0), d.flows) == (State.GUARDING, [])
    d.guarded(d.generation, 0.0, ok=True)
    earlier = d.asked()
    d.named(HERE, BALANCER)
    d.scouted(earlier, 0.0, ok=True)

    assert d.wants(0.0) is State.UNGUARDED


def test_waits_double_from_a_second_to_a_minute_each_at_least_half_of_it() -> None:
    d = direct()
    now_s, ceilings_s = 0.0, [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    for n, ceiling_s in enumerate(ceilings_s):
        if n % 2:
            guard(d, now_s, ok=False)
        else:
            scout(guard(d, now_s), now_s, ok=False)
        assert d.wants(now_s + ceiling_s / 2 - 0.001) is State.WAITING
        now_s += ceiling_s
        assert d.wants(now_s) is State.UNGUARDED


def test_two_addresses_that_fail_by_turns_wait_like_one() -> None:
    d = scout(guard(direct()), ok=False)
    assert d.named(THERE, BALANCER) == ""
    assert d.wants(0.4) is State.WAITING
    guard(d, 1.0)

    assert d.flow == OTHER


def test_failures_are_forgotten_after_a_minute_of_use_and_when_it_is_taken_back() -> None:
    for lived_s, ceiling_s in ((59.0, 4.0), (60.0, 1.0)):
        d = direct()
        for now_s in (0.0, 10.0):
            scout(guard(d, now_s), now_s, ok=False)
        scout(guard(d, 20.0), 20.0).take(20.0)
        d.failed(20.0 + lived_s)
        assert d.wants(20.0 + lived_s + ceiling_s / 2 - 0.001) is State.WAITING
        assert d.wants(20.0 + lived_s + ceiling_s) is State.UNGUARDED
    d.named("", BALANCER)

    assert d.wants(1e9) is State.NONE


# -- with the endpoint ------------------------------------------------------------------------------------------------


def test_the_deliveries_wait_for_the_first_attempt_and_for_no_later_one() -> None:
    e = at_name()
    assert e.concurrency(4) == 4
    e.told(HERE, 0.0)
    assert (e.concurrency(4), e.is_open) == (0, False)
    guard(e.direct)
    assert (e.concurrency(4), e.is_open) == (0, False)
    scout(e.direct, ok=False)
    assert (e.concurrency(4), e.reachable) == (4, True)
    guard(e.direct, 1.0)

    assert (e.direct.wants(1.0), e.concurrency(4)) == (State.UNPROVEN, 4)


def test_a_drain_waits_for_no_attempt() -> None:
    e = at_name()
    e.told(HERE, 0.0)
    e.hurry()

    assert e.concurrency(4) == 4


def test_a_scouts_good_news_has_the_endpoint_ask_for_a_proof_at_the_direct_address() -> None:
    e = at_name()
    before = e.generation
    e.told(HERE, 0.0)
    scout(guard(e.direct))
    assert e.maybe_divert(0.0)

    assert (e.wants(0.0), e.where, e.generation, e.concurrency(4)) == (endpoints.State.UNPROVEN, FLOW, before + 1, 0)
    prove(e)
    assert (e.told(HERE, 0.0), e.diverted, e.concurrency(4)) == ("", True, 4)
    assert e.flows == [BALANCER, FLOW]


def test_a_failure_there_leads_to_a_new_lookup_at_once_and_the_name_is_used_until_the_back_off_is_over() -> None:
    e = at_direct()
    e.failed(e.generation, 10.0)

    assert (e.diverted, e.due_s()) == (False, None)
    prove_name(e, "192.0.2.7", now_s=10.0)
    assert e.told(HERE, 10.0) == ""
    assert (e.where, e.concurrency(4), e.maybe_divert(10.0)) == (Flow("192.0.2.7", 8443), 1, False)
    scout(guard(e.direct, 11.0), 11.0)
    assert (e.maybe_divert(11.0), e.where) == (True, FLOW)


def test_what_was_under_way_when_it_failed_is_old_news() -> None:
    e = at_direct()
    old = e.generation
    for _ in range(4):
        e.failed(old, 10.0)
    prove_name(e, "192.0.2.7", now_s=10.0)

    assert e.concurrency(4) == 1


def test_a_proof_that_is_not_renewed_there_leads_back() -> None:
    e = at_direct()
    assert e.wants(60.0) is endpoints.State.UNPROVEN
    e.asked()
    e.failed(e.generation, 60.0)

    assert (e.wants(60.0), e.diverted) == (endpoints.State.UNRESOLVED, False)


def test_it_is_taken_also_while_the_name_fails() -> None:
    e = at_direct()
    e.failed(e.generation, 0.0)
    e.wants(0.0)
    e.asked()
    e.resolved([], 0.0)
    scout(guard(e.direct, 1.0), 1.0)

    assert e.maybe_divert(1.0)
    assert (prove(e, 1.0).where, e.concurrency(4)) == (FLOW, 1)


def test_an_address_that_comes_from_a_direct_one_is_refused_and_so_is_the_one_that_sent_on() -> None:
    e = at_direct()
    assert e.told(THERE, 5.0) == "it comes from a direct address, and is another one"

    assert (e.diverted, e.direct.refused, e.direct.wants(5.0)) == (False, 1, State.WAITING)
    assert e.wants(5.0) is endpoints.State.UNRESOLVED


def test_one_that_is_taken_back_leads_to_the_name_which_has_the_last_word() -> None:
    e = at_direct()
    assert e.told("", 5.0) == ""
    assert (e.diverted, e.direct.refused, e.direct.wants(5.0)) == (False, 0, State.WAITING)
    prove_name(e, "192.0.2.1", now_s=5.0)
    e.told("", 5.0)

    assert (e.concurrency(4), e.direct.wants(1e9)) == (4, State.NONE)


def test_an_address_that_the_name_gives_and_that_does_not_give_itself_is_not_gone_to_again_and_again() -> None:
    e = at_direct()
    now_s, moves = 0.0, 1
    e.told("", now_s)
    for now_s in range(1, 601):
        if not e.diverted and e.wants(now_s) is endpoints.State.UNRESOLVED:
            prove_name(e, "192.0.2.1", now_s=now_s)
            e.told(HERE, now_s)
        if e.direct.wants(now_s) is State.UNGUARDED:
            scout(guard(e.direct, now_s), now_s)
            assert e.maybe_divert(now_s)
            prove(e, now_s)
            e.told("", now_s)
            moves += 1

    assert 10 <= moves <= 26  # 1, 2, 4 ... 32 and then 60 s apart, or half of that


def test_a_direct_address_may_spell_itself_in_another_way() -> None:
    e = at_direct()

    assert (e.told("[::ffff:10.0.0.1]:9443", 0.0), e.diverted, e.direct.refused) == ("", True, 0)


class Weather:
    """An endpoint with a supervisor, threads and a vSensor that answer late, wrongly, or in their own order."""

    TEXTS = ("", HERE, HERE, HERE, HERE, THERE, "10.0.0.3:1", "127.0.0.1:1", "?", "192.0.2.1:8443")

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.endpoint = Endpoint("vsensor.test", 8443, random.Random(seed))
        self.now_s = 0.0
        self.asked: list[tuple[set[Flow], int | None]] = []  # of the supervisor, which answers in order
        self.excluded: set[Flow] = set()
        self.proving: tuple[Flow, int] | None = None
        self.scouts: list[int] = []
        self.proven: Flow | None = None

    def step(self) -> None:
        """What is wanted is done, one thing that is under way is answered; sometimes something fails or is old."""
        happens = self.rng.random()
        if happens < 0.05:
            self.endpoint.failed(self.endpoint.generation - self.rng.randrange(2), self.now_s)
        elif happens < 0.1:
            self.now_s += self.rng.choice((0.1, 1.0, 61.0))
        elif happens < 0.5:
            self.attend()
        else:
            self.answer()

    def attend(self) -> None:
        e = self.endpoint
        match e.direct.wants(self.now_s):
            case State.UNGUARDED:
                self.asked.append(({*e.flows, e.direct.flow}, e.direct.asked()))
            case State.UNPROVEN:
                assert e.direct.flow in self.excluded
                self.scouts.append(e.direct.asked())
            case _:
                e.maybe_divert(self.now_s)
        match e.wants(self.now_s):
            case endpoints.State.UNRESOLVED:
                e.asked()
                e.resolved([f"192.0.2.{n}" for n in range(1, self.rng.randrange(1, 5))], self.now_s)
            case endpoints.State.UNGUARDED:
                self.asked.append((set(e.flows), None))
                e.asked()
            case endpoints.State.UNPROVEN:
                assert e.where in self.excluded
                self.proving = e.where, e.generation
                e.asked()

    def answer(self) -> None:
        e, ok = self.endpoint, self.rng.random() < 0.8
        if self.asked and self.rng.random() < 0.5:
            flows, generation = self.asked.pop(0)
            self.excluded |= flows if ok else set()
            if generation is None:
                e.guarded(self.now_s, ok=ok)
            else:
                e.direct.guarded(generation, self.now_s, ok=ok)
        elif self.scouts and self.rng.random() < 0.5:
            e.direct.scouted(self.scouts.pop(0), self.now_s, ok=ok)
        elif self.proving is not None:
            (where, generation), self.proving = self.proving, None
            if generation == e.generation and ok:
                self.proven = where
                e.proven(self.now_s)
                e.told(self.rng.choice(self.TEXTS), self.now_s)
            else:
                e.failed(generation, self.now_s)


def test_nobody_connects_where_the_supervisor_has_not_said_yes_and_nothing_opens_without_a_proof() -> None:
    steps_open = {False: 0, True: 0}
    for seed in range(300):
        weather = Weather(seed)
        for _ in range(300):
            weather.step()
            if weather.endpoint.concurrency(4):
                steps_open[weather.endpoint.diverted] += 1
                where = weather.endpoint.where
                assert (where in weather.excluded, where) == (True, weather.proven), f"seed {seed}"

    print(f"steps with the door open, at the name and at the direct address: {steps_open}")
    assert min(steps_open.values()) > 1000
