"""What the enforcer that ships does not do: no packet but for what is ordered, here, now, by orders it can read."""

from __future__ import annotations

import errno
import math
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from harness.connections import Pair, connected
from harness.inside import made
from harness.namespaces import Namespace
from harness.proc import eventually
from harness.resets import (
    BOOK,
    NOBODY,
    REMOTE,
    RESET,
    SENSOR,
    STREAM,
    Enforcing,
    Hosts,
    close,
    two_hosts,
    ways,
)

from ossensor.antigena.actions import MAX_ACTIONS

pytestmark = [pytest.mark.netns, pytest.mark.slow]

FAMILIES = pytest.mark.parametrize("family", [4, 6])


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with two_hosts() as both:
        yield both


def untouched(*pairs: Pair) -> bool:
    return all(pair.exchange() for pair in pairs for _ in range(3))


def hooked(namespace: Namespace) -> int:
    """How many packet sockets there are shown whatever passes (ETH_P_ALL)."""
    lines = Path(f"/proc/{namespace.pid}/net/packet").read_text().splitlines()[1:]
    return sum(line.split()[3] == "0003" for line in lines)


def quarantine(address: str) -> dict[str, Any]:
    return {"id": "q", "kind": "quarantine", "source": {"network": address}}


def refused_at(hosts: Hosts, family: int) -> bool:
    """Whether an attempt at an address that nobody has is ended: the positive control, it needs no other end."""
    with made(hosts.sensor, SENSOR[family], STREAM) as opener:
        return opener.connect_ex((NOBODY[family], 443)) == errno.ECONNREFUSED


@FAMILIES
def test_an_interface_that_is_not_captured_is_left_alone(hosts: Hosts, family: int) -> None:
    (pair,) = connected(*ways(hosts, family))
    with Enforcing(hosts.sensor, "lo") as enforcing:
        enforcing.order(pair.order("a"))
        assert untouched(pair)
        assert (enforcing.report(), enforcing.packets()) == ({"a": {}}, 0)

        enforcing.attend("lo", "eth0")
        enforcing.report()
        assert pair.ends_after() == RESET
    pair.close()


@FAMILIES
def test_nothing_is_ended_before_it_is_known_what_is_to_be_spared(hosts: Hosts, family: int) -> None:
    (pair,) = connected(*ways(hosts, family))
    with Enforcing(hosts.sensor) as enforcing:
        enforcing.order(pair.order("a"))
        assert untouched(pair)
        assert (enforcing.report(), enforcing.packets(), hooked(hosts.sensor)) == ({"a": {}}, 0, 0)

        enforcing.attend("eth0")
        enforcing.report()
        assert pair.ends_after() == RESET
    pair.close()


@FAMILIES
def test_observing_sends_nothing_and_counts_what_it_would_have_sent(hosts: Hosts, family: int) -> None:
    (pair,) = connected(*ways(hosts, family))
    with Enforcing(hosts.sensor, "eth0", mode="observe") as enforcing:
        enforcing.order(pair.order("a"))
        assert untouched(pair)
        counts = enforcing.report()["a"]

        assert enforcing.packets() == 0
        assert counts.keys() == {"matched", "withheld"}
        assert counts["matched"] == 1
        assert counts["withheld"] >= 2 * 2  # two for the newest segment of each sender, as often as it is looked
    pair.close()


def alive(pair: Pair) -> bool:
    try:
        return pair.exchange()
    except OSError:
        return False


def _over_an_expiry(hosts: Hosts, lasting_s: int) -> tuple[float, float, float]:
    """Seconds from an order's expiry: the first packet, the last that was answered, the first that was not.

    By the clock before a packet that was answered, and after one that was not: that we stood still between looking at
    the clock and sending says nothing about the order.
    """
    pairs = connected(*ways(hosts, 4), count=200)
    with Enforcing(hosts.sensor, "eth0") as enforcing:
        enforcing.order()  # so that it has begun: the time below is that of the order alone
        enforcing.order({"id": "all", "destination": {"network": REMOTE[4]}}, lasting_s=lasting_s)
        (expires_s,) = (one["expires_s"] for one in enforcing.orders)
        assert hooked(hosts.sensor) == 1
        Event().wait(max(0.0, expires_s - 3 - time.time()))
        spoken_s: list[tuple[float, float]] = []
        for pair in pairs:
            if spoken_s and spoken_s[-1][0] > 1:
                break
            before_s = time.time() - expires_s
            pair.opener.sendall(b"x")
            spoken_s.append((before_s, time.time() - expires_s))
            Event().wait(0.05)
        eventually("it sleeps", lambda: hooked(hosts.sensor) == 0)
    lives = [alive(pair) for pair, _ in zip(pairs, spoken_s, strict=False)]
    ended_s = [before_s for (before_s, _), lived in zip(spoken_s, lives, strict=True) if not lived]
    living_s = [after_s for (_, after_s), lived in zip(spoken_s, lives, strict=True) if lived]
    close(pairs)
    assert spoken_s[-1][0] > 1
    return spoken_s[0][0], max(ended_s, default=-math.inf), min(living_s, default=math.inf)


def test_an_order_ends_within_a_second_of_its_expiry_though_nobody_says_anything_more(hosts: Hosts) -> None:
    for lasting_s in (4, 12, 36):  # a machine that stood still gets another try
        first, last_ended, first_living = _over_an_expiry(hosts, lasting_s)
        print(f"from the expiry: spoken {first:+.2f}, last ended {last_ended:+.2f}, one lives {first_living:+.2f} s")
        if first < -1 < first_living and last_ended < 1:
            return
    pytest.fail("not within a second, three times")


def test_orders_of_an_older_version_change_nothing(hosts: Hosts) -> None:
    blocked, named = connected(*ways(hosts, 4), count=2)
    with Enforcing(hosts.sensor, "eth0") as enforcing:
        enforcing.version = 5
        enforcing.order(blocked.order("a"))
        enforcing.message(3, *enforcing.timed(named.order("late")))
        eventually("said", lambda: enforcing.reports[-1]["trouble"] == "version 3 came after version 6")

        assert enforcing.reports[-1]["version"] == 6
        assert untouched(named)
        assert blocked.ends_after() == RESET
        assert list(enforcing.report()) == ["a"]
    close([blocked, named])


MALFORMED: list[dict[str, Any]] = [
    {"id": "unknown", "if": "monday"},
    {"id": "nobody", "source": None, "destination": None},
    {"id": "everybody", "source": {"network": "0.0.0.0/0"}, "destination": None},
    {"id": "mixed", "source": {"network": "10.7.0.1"}, "destination": {"network": "fd07::2"}},
    {"id": "spelling", "source": {"network": "10.007.0.1"}},
    {"id": "port", "source": {"network": "10.7.0.1", "port": 65_536}},
    {"id": "kind", "kind": "end"},
    {"id": "for ever", "source": {"network": "10.7.0.1"}, "expires_s": 1 << 40},
    {"id": ["a", "list"]},
]


def test_malformed_orders_send_nothing_and_spoil_no_order_beside_them(hosts: Hosts) -> None:
    blocked, named = connected(*ways(hosts, 4), count=2)
    with Enforcing(hosts.sensor, "eth0") as enforcing:
        enforcing.order(*({**named.order("x"), **wrong} for wrong in MALFORMED), blocked.order("a"))
        assert enforcing.reports[-1]["refused"] == {
            **{one["id"]: "malformed" for one in MALFORMED if isinstance(one["id"], str)},
            "#8": "malformed",
        }
        assert untouched(named)
        assert list(enforcing.report()) == ["a"]
        assert enforcing.packets() == 0

        assert blocked.ends_after() == RESET
    close([blocked, named])


def test_orders_that_cannot_be_read_leave_those_in_force(hosts: Hosts) -> None:
    (blocked,) = connected(*ways(hosts, 4))
    with Enforcing(hosts.sensor, "eth0") as enforcing:
        enforcing.order(blocked.order("a"))
        for wrong in ("all", [blocked.order("a"), "all"], None):
            orders = {"book": BOOK, "version": 9, "actions": wrong}
            enforcing.tell("orders", {"ahead_s": 0, "orders": orders})
        eventually("said", lambda: "orders that cannot be read" in enforcing.reports[-1]["trouble"])
        assert enforcing.packets() == 0

        assert blocked.ends_after() == RESET
        assert list(enforcing.report()) == ["a"]
    blocked.close()


@pytest.mark.parametrize("count", [MAX_ACTIONS + 1, 10_000])
def test_more_orders_than_may_be_are_refused_as_a_whole(hosts: Hosts, count: int) -> None:
    (named,) = connected(*ways(hosts, 4))
    with Enforcing(hosts.sensor, "eth0") as enforcing:
        enforcing.order()
        enforcing.message(7, *enforcing.timed(*({**quarantine(SENSOR[4]), "id": str(n)} for n in range(count))))
        eventually("said", lambda: enforcing.reports[-1]["trouble"])
        print(enforcing.reports[-1]["trouble"])

        assert enforcing.reports[-1]["version"] == 1
        assert untouched(named)
        assert (enforcing.report(), enforcing.packets(), hooked(hosts.sensor)) == ({}, 0, 0)
    named.close()


@FAMILIES
def test_as_many_orders_as_may_be_are_enforced_and_an_order_more_on_a_connection_changes_nothing(
    hosts: Hosts, family: int
) -> None:
    blocked, named = connected(*ways(hosts, family), count=2)
    others = [
        {**named.order(str(n)), "destination": {"network": REMOTE[family], "port": n + 1}}
        for n in range(MAX_ACTIONS - 1)
    ]
    with Enforcing(hosts.sensor, "eth0") as enforcing:
        enforcing.order(*others, blocked.order("last"))
        assert untouched(named)
        assert blocked.ends_after() == RESET
        counts = enforcing.report()

        assert len(counts) == MAX_ACTIONS
        assert [name for name, one in counts.items() if one] == ["last"]
    close([blocked, named])


@FAMILIES
def test_the_own_upload_is_never_ended_by_whatever_order(hosts: Hosts, family: int) -> None:
    own, other = connected(*ways(hosts, family)) + connected(*ways(hosts, family))
    upload = own.acceptor.getsockname()[:2]
    with Enforcing(hosts.sensor) as enforcing:
        enforcing.attend("eth0", flows=(upload,))
        exact = {"id": "exact", "destination": {"network": upload[0], "port": upload[1]}}
        enforcing.order(quarantine(SENSOR[family]), exact, own.order("connection"))
        assert enforcing.refused == {"exact": "own_flow", "connection": "own_flow"}
        assert untouched(own)
        assert (enforcing.report(), enforcing.packets()) == ({"q": {}}, 0)

        assert other.ends_after() == RESET
        assert untouched(own)
    close([own, other])


@FAMILIES
def test_protected_addresses_are_never_ended_by_whatever_order(hosts: Hosts, family: int) -> None:
    (pair,) = connected(*ways(hosts, family))
    with Enforcing(hosts.sensor, "eth0", protected=(REMOTE[family],)) as enforcing:
        enforcing.order(quarantine(SENSOR[family]), pair.order("exact"), {**quarantine(REMOTE[family]), "id": "device"})
        assert enforcing.refused == {"exact": "protected", "device": "protected"}
        assert untouched(pair)
        assert (enforcing.report(), enforcing.packets()) == ({"q": {}}, 0)

        assert refused_at(hosts, family)
        assert untouched(pair)
        assert enforcing.report()["q"]["matched"] == 1
    pair.close()
