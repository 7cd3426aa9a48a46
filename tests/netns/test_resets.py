"""Real connections, ended by the enforcer that ships: at both ends, and no connection beside them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
from harness import proc
from harness.connections import Pair, connected
from harness.inside import made
from harness.namespaces import Namespace, address, wire
from harness.resets import (
    DATAGRAM,
    ENVIRONMENT,
    NOBODY,
    REMOTE,
    RESET,
    SENSOR,
    STREAM,
    Enforcing,
    Hosts,
    addressed,
    close,
    count_sent,
    error_of,
    two_hosts,
    ways,
)

from ossensor.antigena.watch import QUIET_S

pytestmark = [pytest.mark.netns, pytest.mark.slow]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with two_hosts() as both:
        yield both


@pytest.fixture(scope="module")
def long_wire() -> Iterator[Hosts]:
    """The same, half a second apart: more than the enforcer waits for a processor on a machine that others share."""
    with Namespace(ipv6=True) as sensor, Namespace() as between, Namespace(ipv6=True) as remote:
        wire(sensor, "eth0", between, "near")
        wire(between, "far", remote, "eth0")
        argv = between.inside(sys.executable, "-m", "harness.longwire", "near", "far", "0.5")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as relay:
            assert relay.stdout is not None
            assert relay.stdout.readline() == "ready\n"
            yield addressed(sensor, remote)
            relay.kill()


@pytest.fixture
def enforcing(hosts: Hosts) -> Iterator[Enforcing]:
    with Enforcing(hosts.sensor, "eth0") as one:
        yield one


CLIENTS: Final = 100  # at a time
ATTEMPTS: Final = 5000 if os.environ.get("OSSENSOR_CHAOS") else 500
FAMILIES = pytest.mark.parametrize("family", [4, 6])
# Who opens; who speaks first after the order.
WAYS = pytest.mark.parametrize("outward", [True, False], ids=["outward", "inward"])
SPEAKERS = pytest.mark.parametrize("speaker", ["opener", "acceptor"])


def test_whoever_sends_has_no_privilege(enforcing: Enforcing) -> None:
    enforcing.order()
    (enforcer,) = (pid for pid in proc.tree(enforcing.pid) if proc.comm(pid) == "oss-antigena")

    assert {name: int(bits, 16) for name, bits in proc.status(enforcer).items() if name.startswith("Cap")} == {
        "CapInh": 0,
        "CapPrm": 0,
        "CapEff": 0,
        "CapBnd": 1 << 13,  # without CAP_SETPCAP nobody may shrink it; NoNewPrivs closes that door
        "CapAmb": 0,
    }
    assert proc.status(enforcer)["NoNewPrivs"] == "1"


@FAMILIES
@WAYS
@SPEAKERS
def test_both_ends_are_reset_and_neighbours_that_differ_in_one_port_lose_nothing(
    hosts: Hosts, enforcing: Enforcing, family: int, speaker: str, *, outward: bool
) -> None:
    pairs = connected(*ways(hosts, family, outward=outward), count=21)
    blocked, neighbours = pairs[10], pairs[:10] + pairs[11:]
    enforcing.order(blocked.order("a"))

    getattr(blocked, speaker).sendall(b"after the order")
    other = blocked.acceptor if speaker == "opener" else blocked.opener
    got = error_of(other)
    # What was sent before the reset arrives before it, if the program is quick.
    if got == "got b'after the order'":
        got = error_of(other)
    assert got == "ECONNRESET"
    assert error_of(getattr(blocked, speaker)) == "ECONNRESET"
    assert [pair.exchange() for pair in neighbours for _ in range(3)] == [True] * 60
    tallies = enforcing.report()
    assert tallies["a"].pop("sent_to_source") == tallies["a"].pop("sent_to_destination") >= 1
    tallies["a"].pop("closed", None)  # where this took three seconds
    assert tallies == {"a": {"matched": 1}}
    close(pairs)


@FAMILIES
def test_a_thousand_of_a_thousand_connections_are_reset_at_both_ends(
    hosts: Hosts, enforcing: Enforcing, family: int
) -> None:
    ended = matched = 0
    for _ in range(10):
        pairs = connected(*ways(hosts, family, outward=True), count=100)
        enforcing.order({"id": "all", "destination": {"network": REMOTE[family]}})
        ended += sum(pair.ends_after() == RESET for pair in pairs)
        matched += enforcing.report()["all"]["matched"]
        enforcing.order()
        close(pairs)

    assert (ended, matched) == (1000, 1000)


@FAMILIES
def test_a_connection_is_reported_closed_once_its_silence_proves_it(
    hosts: Hosts, enforcing: Enforcing, family: int
) -> None:
    (pair,) = connected(*ways(hosts, family, outward=True))
    enforcing.order(pair.order("a"))
    began_s = time.monotonic()
    assert pair.ends_after() == RESET
    early = enforcing.report()["a"]
    assert "closed" not in early or time.monotonic() - began_s > QUIET_S

    proc.eventually("closed", lambda: enforcing.reports[-1]["actions"]["a"].get("closed"))
    assert enforcing.report()["a"]["closed"] == 1
    pair.close()


def syns_again(namespace: Namespace) -> int:
    """How many SYNs the kernel has sent a second time."""
    names, counts = (
        line.split()
        for line in Path(f"/proc/{namespace.pid}/net/netstat").read_text().splitlines()
        if line.startswith("TcpExt:")
    )
    return int(counts[names.index("TCPSynRetrans")])


@FAMILIES
def test_attempts_at_a_quarantined_device_that_does_not_answer_are_all_refused(
    hosts: Hosts, enforcing: Enforcing, family: int
) -> None:
    enforcing.order({"id": "q", "kind": "quarantine", "source": {"network": SENSOR[family]}, "direction": "outgoing"})
    errors, before = [], syns_again(hosts.sensor)
    for _ in range(500):
        with made(hosts.sensor, SENSOR[family], STREAM) as opener:
            errors.append(opener.connect_ex((NOBODY[family], 443)))

    assert errors == [errno.ECONNREFUSED] * 500
    tally = enforcing.report()["q"]
    # A SYN that is not answered for a second is sent again, and answered again.
    again = syns_again(hosts.sensor) - before
    print(f"{again} SYNs were sent again")
    assert tally["matched"] == 500
    assert 500 <= tally["sent_to_source"] <= 500 + again
    assert 500 <= tally["sent_to_destination"] <= 500 + again


def served(listener: socket.socket) -> None:
    """Answers a request on each connection, as quickly as it can, until the listener is shut."""
    while True:
        try:
            accepted = listener.accept()[0]
        except OSError:
            return
        with accepted, contextlib.suppress(OSError):
            accepted.sendall(b"answer to " + accepted.recv(100))


def attempted(of: Namespace, here: str, listener: socket.socket) -> str:
    """What a client sees that connects, asks and waits for the answer."""
    with made(of, here, STREAM) as opener:
        try:
            opener.connect(listener.getsockname()[:2])
            opener.sendall(b"request")
            return opener.recv(100).decode() or "closed"
        except OSError as e:
            return errno.errorcode[e.errno] if e.errno else repr(e)


def attempts(hosts: Hosts, family: int, count: int, *, outward: bool) -> Counter[str]:
    of, here, to, there = ways(hosts, family, outward=outward)
    with made(to, there, STREAM) as listener, ThreadPoolExecutor(CLIENTS) as clients:
        listener.listen(CLIENTS)
        server = threading.Thread(target=served, args=(listener,))
        server.start()
        ends = Counter(clients.map(lambda _: attempted(of, here, listener), range(count)))
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
    return ends


@pytest.mark.alone
@FAMILIES
@WAYS
def test_no_attempt_at_a_quarantined_device_gets_an_answer_over_a_wire_that_has_a_length(
    long_wire: Hosts, family: int, *, outward: bool
) -> None:
    with Enforcing(long_wire.sensor, "eth0") as enforcing:
        enforcing.order({"id": "q", "kind": "quarantine", "source": {"network": SENSOR[family]}})
        ends = attempts(long_wire, family, ATTEMPTS, outward=outward)
        print(dict(ends))

        assert set(ends) <= {"ECONNREFUSED", "ECONNRESET"}
        assert enforcing.report()["q"]["matched"] == ATTEMPTS


@FAMILIES
@WAYS
def test_over_a_wire_without_length_an_answer_may_be_quicker_and_each_attempt_is_seen_all_the_same(
    hosts: Hosts, enforcing: Enforcing, family: int, *, outward: bool
) -> None:
    """A sensor beside the wire is told of a handshake when it is over. How many got an answer first is printed."""
    enforcing.order({"id": "q", "kind": "quarantine", "source": {"network": SENSOR[family]}})
    ends = Counter[str]()
    for seen in range(
        50, 501, 50
    ):  # so many at a time as fit a watch when the enforcer sees none of them before their end
        ends += attempts(hosts, family, 50, outward=outward)
        # A good many may be waiting for their turn still.
        proc.eventually("each is seen", lambda: enforcing.report()["q"]["matched"] == seen)  # noqa: B023
    print(dict(ends))

    assert set(ends) <= {"ECONNREFUSED", "ECONNRESET", "answer to request"}


@FAMILIES
def test_a_quarantine_of_one_direction_leaves_the_other_alone(hosts: Hosts, enforcing: Enforcing, family: int) -> None:
    (out,) = connected(*ways(hosts, family, outward=True))
    enforcing.order({"id": "q", "kind": "quarantine", "source": {"network": SENSOR[family]}, "direction": "incoming"})
    (new_out,) = connected(*ways(hosts, family, outward=True))
    of, here, to, there = ways(hosts, family, outward=False)
    with made(to, there, STREAM) as listener, made(of, here, STREAM) as opener:
        listener.listen(1)
        refused = opener.connect_ex(listener.getsockname()[:2])
        inward = errno.errorcode[refused] if refused else error_of(opener)

    assert inward in {"ECONNREFUSED", "ECONNRESET"}
    assert [pair.exchange() for pair in (new_out,) for _ in range(10)] == [True] * 10
    assert enforcing.report()["q"]["matched"] == 1
    close([out, new_out])


@FAMILIES
@SPEAKERS
def test_both_programs_see_datagrams_refused_and_the_next_port_is_untouched(
    hosts: Hosts, enforcing: Enforcing, family: int, speaker: str
) -> None:
    pairs = []
    for _ in range(2):
        here, there = made(hosts.sensor, SENSOR[family], DATAGRAM), made(hosts.remote, REMOTE[family], DATAGRAM)
        here.connect(there.getsockname()[:2])
        there.connect(here.getsockname()[:2])
        pairs.append(Pair(here, there))
    blocked, neighbour = pairs
    enforcing.order(blocked.order("a", "udp"))

    speaks, hears = blocked if speaker == "opener" else blocked[::-1]
    speaks.send(b"q")
    # An error that waits comes before data that waits (udp_recvmsg); so take whatever was first, and then the other.
    heard = [error_of(hears), error_of(hears)]
    assert sorted(heard) == ["ECONNREFUSED", "got b'q'"]
    assert error_of(speaks) == "ECONNREFUSED"
    assert [neighbour.exchange() for _ in range(100)] == [True] * 100
    tallies = enforcing.report()
    tallies["a"].pop("unconfirmed", None)  # where this took three seconds
    assert tallies == {"a": {"matched": 1, "sent_to_source": 1, "sent_to_destination": 1}}
    close(pairs)


@FAMILIES
def test_a_connection_between_two_local_programs_is_reset_on_loopback(hosts: Hosts, family: int) -> None:
    here = {4: "127.0.0.1", 6: "::1"}[family]
    with Enforcing(hosts.sensor, "lo") as enforcing:
        blocked, neighbour = connected(hosts.sensor, here, hosts.sensor, here, count=2)
        enforcing.order(blocked.order("a"))

        assert blocked.ends_after() == RESET
        assert [neighbour.exchange() for _ in range(10)] == [True] * 10
        assert list(enforcing.report()) == ["a"]
        close([blocked, neighbour])


@FAMILIES
@pytest.mark.parametrize("side", ["left", "right"])
def test_on_a_router_both_ends_are_reset_though_only_one_of_its_links_is_watched(family: int, side: str) -> None:
    length = {4: 24, 6: 64}[family]
    near, far = {4: ("10.7.1.", "10.7.2."), 6: ("fd07:1::", "fd07:2::")}[family]
    with Namespace(ipv6=True) as left, Namespace(ipv6=True) as router, Namespace(ipv6=True) as right:
        wire(left, "eth0", router, "left")
        wire(router, "right", right, "eth0")
        for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
            router.run("sh", "-c", f"echo 1 > /proc/sys/net/{path}")
        for host, name, net, number in (
            *((left, "eth0", near, 2), (router, "left", near, 1)),
            *((right, "eth0", far, 2), (router, "right", far, 1)),
        ):
            address(host, name, f"{net}{number}/{length}")
        left.run("ip", "route", "add", "default", "via", f"{near}1")
        right.run("ip", "route", "add", "default", "via", f"{far}1")
        count_sent(router)
        with Enforcing(router, side) as enforcing:
            blocked, neighbour = connected(left, f"{near}2", right, f"{far}2", count=2)
            enforcing.order(blocked.order("a"))

            assert blocked.ends_after() == RESET
            assert [neighbour.exchange() for _ in range(10)] == [True] * 10
            assert list(enforcing.report()) == ["a"]
            close([blocked, neighbour])
