"""From packets to packets and counts: what is ordered ended is, nothing else is touched, everything is counted."""

from __future__ import annotations

import random
import time
from collections import Counter
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from antigena_talks import Talk
from scapy.layers.inet import IP, TCP

from ossensor.antigena.actions import Action, End, parse_action
from ossensor.antigena.enforcer import BURST_PACKETS, Enforcer, Tally
from ossensor.antigena.guards import Guards
from ossensor.antigena.packets import OUR_WINDOW
from ossensor.antigena.refusals import Refusal
from ossensor.antigena.table import Table
from ossensor.antigena.watch import QUIET_S
from ossensor.filters import Flow

HERE = ip_address("10.0.0.1")
TALK = Talk()


def block(ident: str = "a", **members: Any) -> Action:
    given = {"id": ident, "kind": "block", "start_s": 0, "expires_s": 1000, **members}
    return parse_action(given)


EXACT = block(
    protocol="tcp", source={"network": "10.0.0.1", "port": 50_000}, destination={"network": "192.0.2.7", "port": 443}
)


def enforcer(*actions: Action, guards: Guards | None = None, mode: Any = "enforce") -> Enforcer:
    guards = guards or Guards()
    table = Table(guards.objection)
    table.apply(1, actions, 0)
    return Enforcer(table, guards, mode)


def quarantine(direction: str, device: str = "10.0.0.1") -> Action:
    return block("q", kind="quarantine", source={"network": device}, direction=direction)


def test_each_end_gets_one_packet_from_the_other() -> None:
    here, there = enforcer(EXACT).process(TALK.packet("PA", 1000, 7000, 10), 1)

    assert (here.to, there.to) == (End(HERE, 50_000), End(ip_address("192.0.2.7"), 443))
    to_here, to_there = IP(here.packet), IP(there.packet)
    assert (to_here.src, to_here.dst, to_here[TCP].seq) == ("192.0.2.7", "10.0.0.1", 7000)
    assert (to_there.src, to_there.dst, to_there[TCP].seq, to_there[TCP].ack) == ("10.0.0.1", "192.0.2.7", 1010, 7000)


@pytest.mark.parametrize(
    "talk",
    [
        TALK._replace(here_port=50_001),
        TALK._replace(there_port=444),
        TALK._replace(here="10.0.0.2"),
        TALK._replace(there="192.0.2.8"),
        TALK._replace(protocol="udp"),
        Talk("10.0.0.1", 443, "192.0.2.7", 50_000),
    ],
)
def test_a_connection_that_differs_in_one_point_is_untouched(talk: Talk) -> None:
    one = enforcer(EXACT)

    assert [one.process(packet, 1) for packet in (talk.packet(), talk.back.packet(), talk.packet("S"))] == [[]] * 3
    assert one.report() == {}


def test_the_report_counts_connections_and_packets_by_the_orders_sides_and_begins_anew() -> None:
    one = enforcer(EXACT)
    one.process(TALK.packet(), 1)
    one.process(TALK.back.packet(), 1)
    one.process(TALK.packet(), 1)
    one.judge(1 + QUIET_S)

    assert one.report() == {"a": Tally(matched=1, closed=1, sent=Counter(source=3, destination=3))}
    assert one.report() == {}


def test_a_connection_whose_silence_proves_nothing_is_asked_about_and_stays_unconfirmed_without_a_reply() -> None:
    one = enforcer(EXACT)
    one.process(TALK.packet("A", payload=0), 1)
    asked = one.judge(1 + QUIET_S)

    assert [outgoing.to for outgoing in asked] == [TALK.segment().source, TALK.segment().destination]
    assert [one.process(outgoing.packet, 5) for outgoing in asked] == [[], []]
    assert one.judge(1 + 2 * QUIET_S) == []
    both = Counter(source=1, destination=1)
    assert one.report() == {"a": Tally(matched=1, unconfirmed=1, sent=both, asked=both)}


def test_where_packets_passed_unseen_a_connection_that_fell_silent_is_asked_about() -> None:
    """The like of the one that counts as closed above."""
    one = enforcer(EXACT)
    one.process(TALK.packet("PA", 1000, 7000, 10), 1)
    one.overlooked(1)

    assert len(one.judge(1 + QUIET_S)) == 2
    assert one.report()["a"].closed == 0


def test_what_could_not_be_sent_is_counted_as_unsent_and_not_as_sent() -> None:
    one = enforcer(EXACT)
    here, there = one.process(TALK.packet(), 1)
    one.unsent(there)

    refused = Counter({Refusal.UNSENT: 1})
    assert one.report() == {"a": Tally(matched=1, sent=Counter([here.side]), refused=refused)}


def test_nothing_is_asked_for_an_order_that_is_over() -> None:
    one = enforcer(block(source={"network": "10.0.0.1"}, expires_s=3))
    one.process(TALK.packet("A", payload=0), 2)

    assert [one.judge(2 + QUIET_S), one.judge(2 + 2 * QUIET_S)] == [[], []]
    assert one.report()["a"].unconfirmed == 1


@pytest.mark.parametrize("window", [0, OUR_WINDOW])
def test_resets_are_not_answered(window: int) -> None:
    one = enforcer(EXACT)

    assert one.process(TALK.packet("R", window=window), 1) == []
    assert one.process(TALK.packet("RA", window=window), 1) == []
    assert one.report() == {}


def test_our_own_packets_seen_again_are_not_answered() -> None:
    one = enforcer(EXACT)
    sent = one.process(TALK.packet(), 1)

    assert [one.process(outgoing.packet, 1) for outgoing in sent] == [[], []]
    one.judge(1 + QUIET_S)
    assert one.report()["a"].closed == 1


def test_nothing_is_sent_before_the_start_or_from_the_end_on() -> None:
    one = enforcer(block(source={"network": "10.0.0.1"}, start_s=100, expires_s=200))

    assert [len(one.process(TALK.packet(), now_s)) for now_s in (99.9, 100, 199.9, 200, 1e9)] == [
        0,
        2,
        2,
        0,
        0,
    ]


def test_observing_counts_what_would_have_been_sent_and_sends_nothing() -> None:
    one = enforcer(EXACT, mode="observe")

    assert [one.process(packet, 1) for packet in (TALK.packet(), TALK.back.packet())] == [[], []]
    one.judge(1 + QUIET_S)
    assert one.report() == {"a": Tally(matched=1, withheld=4)}


def test_the_rate_is_bounded_and_what_is_beyond_it_is_counted() -> None:
    one = enforcer(quarantine("all"))
    ports = range(1, 6002)
    sent = sum(len(one.process(TALK._replace(here_port=port).packet("S"), 1)) for port in ports)
    tally = one.report()["q"]

    assert sent == BURST_PACKETS == tally.sent.total() == 10_000
    assert tally.refused == {Refusal.RATE: 2002}
    assert tally.matched == 6001
    assert len(one.process(TALK.packet("S"), 2)) == 2


@pytest.mark.parametrize(
    "talk,refusal",
    [
        (Talk(there="192.0.2.9"), Refusal.OWN_FLOW),
        (Talk(there="172.16.0.1"), Refusal.PROTECTED),
        (Talk(there="169.254.170.2", there_port=80), Refusal.CREDENTIAL_ENDPOINT),
        (Talk(there="10.0.0.2", there_port=53, protocol="udp"), Refusal.NAME_SERVER),
        (Talk(there="224.0.0.251", there_port=5353, protocol="udp"), Refusal.NOT_ONE_HOST),
        (Talk(there="255.255.255.255", there_port=67, protocol="udp"), Refusal.NOT_ONE_HOST),
    ],
)
def test_what_is_spared_gets_no_packet_and_says_why(talk: Talk, refusal: Refusal) -> None:
    guards = Guards(
        frozenset({Flow("192.0.2.9", 443)}), (ip_network("172.16.0.0/12"),), frozenset({ip_address("10.0.0.2")})
    )
    one = enforcer(quarantine("all"), guards=guards)

    assert [one.process(packet, 1) for packet in (talk.packet("S"), talk.packet(), talk.back.packet())] == [[]] * 3
    assert one.report() == {"q": Tally(refused=Counter({refusal: 3}))}


def test_an_order_that_names_a_name_server_is_enforced_though_a_wider_one_spares_it() -> None:
    guards = Guards(name_servers=frozenset({ip_address("10.0.0.2")}))
    one = enforcer(quarantine("all"), block("exact", destination={"network": "10.0.0.2"}), guards=guards)

    assert len(one.process(Talk(there="10.0.0.2", there_port=53, protocol="udp").packet(), 1)) == 2
    assert one.report() == {"exact": Tally(matched=1, sent=Counter(source=1, destination=1))}


@pytest.mark.parametrize("direction,outward,inward", [("all", 2, 2), ("outgoing", 2, 0), ("incoming", 0, 2)])
@pytest.mark.parametrize("handshake", [True, False])
def test_a_quarantine_of_one_direction_ends_that_direction_alone(
    direction: str, outward: int, inward: int, *, handshake: bool
) -> None:
    one = enforcer(quarantine(direction))
    out, into = TALK, Talk("192.0.2.8", 51_000, "10.0.0.1", 22)
    if handshake:  # which then says more than the ports
        out, into = Talk(here_port=443, there_port=50_000), Talk("192.0.2.8", 22, "10.0.0.1", 51_000)
        for talk, count in ((out, outward), (into, inward)):
            assert len(one.process(talk.packet("S"), 1)) == count

    for talk, count in ((out, outward), (into, inward)):
        assert len(one.process(talk.packet(), 1)) == count
        assert len(one.process(talk.back.packet(), 1)) == count


def test_whoever_cannot_be_said_to_have_opened_a_connection_keeps_it_and_that_is_counted() -> None:
    one = enforcer(quarantine("outgoing"))
    both_high = Talk(here_port=50_000, there_port=60_000, protocol="udp")

    assert one.process(both_high.packet(), 1) == []
    assert one.report() == {"q": Tally(refused=Counter({Refusal.UNKNOWN_OPENER: 1}))}
    # By each filter that shows it, for the orders of that filter alone.
    assert [one.process(both_high.packet(), 1, program) for program in ({"a"}, {"q"})] == [[], []]
    counts = {"matched": 0, "closed": 0, "unconfirmed": 0, "sent": {}, "asked": {}, "withheld": 0}
    assert one.report()["q"].to_json() == counts | {"refused": {"unknown_opener": 1}}


def test_a_packet_that_two_filters_show_is_answered_once() -> None:
    orders = [block("a", source={"network": "10.0.0.1"}), block("b", destination={"network": "192.0.2.7"})]
    one = enforcer(*orders)

    assert [len(one.process(TALK.packet(), 1, program)) for program in ({"a"}, {"b"})] == [2, 0]
    assert len(one.process(TALK._replace(here="10.0.0.2").packet(), 1, {"b"})) == 2
    assert one.report() == {
        "a": Tally(matched=1, sent=Counter(source=1, destination=1)),
        "b": Tally(matched=1, sent=Counter(source=1, destination=1)),
    }


def test_packets_that_cannot_be_read_are_counted() -> None:
    one = enforcer(EXACT)

    assert [one.process(packet, 1) for packet in (b"", b"x" * 100, TALK.packet()[:26])] == [[]] * 3
    assert one.unreadable == 3


def test_an_hour_of_random_orders_ends_what_is_ordered_and_leaves_two_hundred_others_alone() -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    rng = random.Random(seed)
    talks = [
        Talk(f"10.0.0.{n % 5 + 1}", 50_000 + n % 7, f"192.0.2.{n % 3 + 1}", 440 + n % 11, rng.choice(("tcp", "udp")))
        for n in range(200)
    ]
    table = Table()
    one = Enforcer(table, Guards())
    answered: Counter[bool] = Counter()
    packets = 0
    for now_s in range(3600):
        if now_s % 20 == 0:
            orders = [random_order(rng, rng.choice(talks), n, now_s) for n in range(rng.randrange(4))]
            table.apply(now_s, orders, now_s)
        for talk in rng.sample(talks, 10):
            segment = talk.segment()
            ordered = any(
                order.in_force(now_s) and order.concerns(segment.protocol, segment.source, segment.destination)
                for order in orders
            )
            sent = one.process(rng.choice((talk, talk.back)).packet(), now_s)
            # These do not end, so they are answered ahead, too: two packets for each step.
            assert bool(sent) == ordered
            assert len(sent) % 2 == 0
            assert {outgoing.to for outgoing in sent} == ({segment.source, segment.destination} if ordered else set())
            answered[ordered] += 1
            packets += len(sent)
    print(answered)
    tallies = one.report().values()

    assert sum(tally.sent.total() for tally in tallies) == packets
    assert answered[True] > 100
    assert answered[False] > 10_000


def random_order(rng: random.Random, talk: Talk, n: int, now_s: int) -> Action:
    return block(
        str(n),
        protocol=rng.choice((talk.protocol, "tcp", "udp", "any")),
        source={"network": talk.here, "port": rng.choice((None, talk.here_port))},
        destination={"network": rng.choice((None, talk.there)), "port": rng.choice((None, talk.there_port))},
        start_s=now_s + rng.randrange(10),
        expires_s=now_s + rng.randrange(11, 30),
    )
