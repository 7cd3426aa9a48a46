"""The orders in force: whole states, newer ones only, and none beyond its end."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossensor.antigena.actions import MAX_ACTIONS, Action, End, parse_action
from ossensor.antigena.refusals import Refusal
from ossensor.antigena.table import Applied, InForce, Table


def order(ident: str, start_s: int = 0, expires_s: int = 100, network: str = "10.0.0.1", **members: Any) -> Action:
    members = {"kind": "block", "source": {"network": network}, **members}
    return parse_action({"id": ident, "start_s": start_s, "expires_s": expires_s, **members})


def ids(table: Table, now_s: float) -> list[str]:
    return [action.id for action in table.in_force(now_s).actions]


def test_a_message_holds_all_orders_and_replaces_those_before() -> None:
    table = Table()

    assert table.apply(1, [order("a"), order("b")], 10) == Applied(frozenset("ab"), frozenset(), {})
    assert ids(table, 10) == ["a", "b"]
    assert table.apply(2, [order("c"), order("b")], 10) == Applied(frozenset("c"), frozenset("a"), {})
    assert ids(table, 10) == ["b", "c"]  # the older one kept its place
    assert table.apply(3, [], 10) == Applied(frozenset(), frozenset("bc"), {})
    assert ids(table, 10) == []


def test_an_order_that_was_extended_is_told_as_added() -> None:
    table = Table()
    table.apply(1, [order("a")], 10)

    assert table.apply(2, [order("a", expires_s=200)], 10) == Applied(frozenset("a"), frozenset(), {})
    assert ids(table, 150) == ["a"]


def test_an_older_message_is_refused_and_counted_and_the_same_one_again_changes_nothing() -> None:
    table = Table()
    table.apply(7, [order("a")], 10)

    assert table.apply(7, [order("b")], 10) == Applied(frozenset(), frozenset(), {})
    assert table.apply(6, [order("b"), order("c")], 10).refused == {
        "b": Refusal.OLDER_VERSION,
        "c": Refusal.OLDER_VERSION,
    }
    assert (ids(table, 10), table.version) == (["a"], 7)
    assert table.refused == {Refusal.OLDER_VERSION: 2}


def test_orders_end_by_the_clock_with_nobody_heard_and_begin_when_they_say() -> None:
    table = Table()
    table.apply(1, [order("a", 0, 100), order("later", 50, 150)], 10)

    assert [ids(table, now_s) for now_s in (10, 49.9, 50, 99.9, 100, 149.9, 150, 10_000)] == [
        ["a"],
        ["a"],
        ["a", "later"],
        ["a", "later"],
        ["later"],
        ["later"],
        [],
        [],
    ]


def test_the_next_change_is_the_next_start_or_end() -> None:
    table = Table()
    table.apply(1, [order("a", 0, 100), order("later", 50, 150)], 10)

    assert [table.next_change_s(now_s) for now_s in (10, 50, 99, 100, 150)] == [50, 100, 100, 150, float("inf")]


def test_what_is_in_force_is_one_object_until_it_changes() -> None:
    table = Table()
    table.apply(1, [order("a"), order("later", 50)], 10)
    first = table.in_force(10)

    assert table.in_force(49) is first
    assert table.in_force(50) is not first
    table.apply(2, [order("a"), order("later", 50)], 10)
    assert table.in_force(20).actions == first.actions  # also by a clock that was set back


def test_what_is_over_on_arrival_and_what_comes_twice_is_refused() -> None:
    table = Table()
    said = table.apply(1, [order("old", 0, 10), order("a"), order("a", expires_s=50)], 10)

    assert said == Applied(frozenset("a"), frozenset(), {"old": Refusal.EXPIRED, "a": Refusal.DUPLICATE})
    assert table.in_force(10).actions == (order("a"),)
    assert table.refused == {Refusal.EXPIRED: 1, Refusal.DUPLICATE: 1}


def test_ten_thousand_orders_at_once_are_refused_beyond_the_limit_and_end_no_older_one() -> None:
    table = Table()
    table.apply(1, [order("zz"), order("z")], 10)
    said = table.apply(2, [order(f"n{n}") for n in range(10_000)] + [order("z")], 10)

    assert len(table.in_force(10).actions) == MAX_ACTIONS
    assert ids(table, 10)[:2] == ["z", "n0"]
    assert said.removed == {"zz"}
    assert table.refused == {Refusal.TOO_MANY: 10_001 - MAX_ACTIONS}


def test_what_the_guards_object_to_is_refused_with_their_reason() -> None:
    table = Table(lambda action: Refusal.PROTECTED if action.id == "a" else None)

    assert table.apply(1, [order("a"), order("b")], 10).refused == {"a": Refusal.PROTECTED}
    assert ids(table, 10) == ["b"]


hosts = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1", "fd00::2"]
networks = [*hosts, "10.0.0.0/24", "10.0.0.0/30", "fd00::/64"]


@st.composite
def some_orders(draw: st.DrawFn) -> list[Action]:
    made = []
    for n in range(draw(st.integers(0, 8))):
        one = draw(st.sampled_from(networks))
        other = draw(st.sampled_from([None, *(network for network in networks if (":" in network) == (":" in one))]))
        sides = [{"network": one}, {"network": other}]
        first, second = draw(st.permutations(sides))
        made.append(order(str(n), source=first, destination=second))
    return made


@given(some_orders(), st.sampled_from(hosts), st.sampled_from(hosts))
def test_candidates_miss_no_order_and_come_in_the_tables_order(made: list[Action], one: str, other: str) -> None:
    ends = End(ip_address(one), 1), End(ip_address(other), 2)
    concerned = [action for action in made if action.concerns("tcp", *ends)]

    candidates = InForce(tuple(made)).candidates(*(end.address for end in ends))
    assert [action for action in candidates if action.concerns("tcp", *ends)] == concerned
    assert len(candidates) == len({action.id for action in candidates})


@pytest.mark.parametrize("count", [MAX_ACTIONS])
def test_an_order_about_a_host_is_a_candidate_for_packets_of_that_host_alone(count: int) -> None:
    force = InForce(tuple(order(str(n), network=f"10.0.{n // 256}.{n % 256}") for n in range(count)))

    assert [a.id for a in force.candidates(ip_address("10.0.0.7"), ip_address("192.0.2.1"))] == ["7"]
    assert force.candidates(ip_address("10.9.0.7"), ip_address("192.0.2.1")) == []


def test_what_holds_is_the_same_object_until_it_changes_also_when_a_message_comes_in_between() -> None:
    table = Table()
    table.apply(1, [order("a"), order("later", 50, 150)], 10)
    held = table.in_force(10)
    table.apply(2, [order("a"), order("later", 60, 150)], 10)

    assert [table.in_force(now_s) is held for now_s in (10, 59, 60, 100, 10)] == [True, True, False, False, False]
    assert [action.id for action in table.orders] == ["a", "later"]
