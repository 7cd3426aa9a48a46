"""Real connections, ended by a program with CAP_NET_RAW alone: at both ends, and no connection beside them."""

from __future__ import annotations

import contextlib
import errno
import json
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
from typing import Any, NamedTuple, Self

import pytest
from harness.inside import made
from harness.namespaces import Namespace, address, wire
from harness.proc import eventually

pytestmark = [pytest.mark.netns, pytest.mark.slow]

_ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parent),
    "PYTHONDONTWRITEBYTECODE": "1",
    "PATH": os.environ["PATH"],
}
SENSOR = {4: "10.7.0.1", 6: "fd07::1"}
REMOTE = {4: "10.7.0.2", 6: "fd07::2"}
NOBODY = {4: "10.7.0.3", 6: "fd07::3"}  # an address that the remote host is sent the packets of, and does not have
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


class Enforcing:
    """harness.enforce beside the local program, in its namespace."""

    def __init__(self, namespace: Namespace, interface: str, how: str = "link") -> None:
        confined = ["setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all", "--no-new-privs", "--"]
        argv = namespace.inside(*confined, sys.executable, "-m", "harness.enforce", interface, how)
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=_ENVIRONMENT,
        )
        assert self._said() == "ready\n"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(timeout=10) == 0

    def _said(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def _ask(self, what: object) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        return self._said()

    def order(self, *orders: dict[str, Any]) -> None:
        now_s = int(time.time())
        times = {"start_s": now_s - 1, "expires_s": now_s + 600}
        assert self._ask([{"kind": "block", **times, **one} for one in orders]) == "applied\n"

    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ask("report"))
        return found


class Hosts(NamedTuple):
    """The sensor's namespace, where the local program lives too, and another host."""

    sensor: Namespace
    remote: Namespace


def addressed(sensor: Namespace, remote: Namespace) -> Hosts:
    address(sensor, "eth0", f"{SENSOR[4]}/24", f"{SENSOR[6]}/64")
    address(remote, "eth0", f"{REMOTE[4]}/24", f"{REMOTE[6]}/64")
    neighbour = remote.links()["eth0"]["address"]
    for there in NOBODY.values():
        sensor.run("ip", "neighbour", "add", there, "lladdr", neighbour, "dev", "eth0")
    return Hosts(sensor, remote)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    with Namespace(ipv6=True) as sensor, Namespace(ipv6=True) as remote:
        wire(sensor, "eth0", remote, "eth0")
        yield addressed(sensor, remote)


@pytest.fixture(scope="module")
def long_wire() -> Iterator[Hosts]:
    """The same, 100 ms apart: beyond all that the worker may wait for a processor, on a machine that others share."""
    with Namespace(ipv6=True) as sensor, Namespace() as between, Namespace(ipv6=True) as remote:
        wire(sensor, "eth0", between, "near")
        wire(between, "far", remote, "eth0")
        argv = between.inside(sys.executable, "-m", "harness.longwire", "near", "far", "0.1")
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=_ENVIRONMENT) as relay:
            assert relay.stdout is not None
            assert relay.stdout.readline() == "ready\n"
            yield addressed(sensor, remote)
            relay.kill()


@pytest.fixture
def enforcing(hosts: Hosts, request: pytest.FixtureRequest) -> Iterator[Enforcing]:
    with Enforcing(hosts.sensor, "eth0", getattr(request, "param", "link")) as one:
        yield one


class Pair(NamedTuple):
    """A connection: the end that opened it and the end that accepted."""

    opener: socket.socket
    acceptor: socket.socket

    def exchange(self, data: bytes = b"x" * 1000) -> bool:
        """Whether each end got what the other sent."""
        for one, other in (self, self[::-1]):
            one.sendall(data)
            if other.recv(len(data), socket.MSG_WAITALL) != data:
                return False
        return True

    def order(self, ident: str, protocol: str = "tcp") -> dict[str, Any]:
        """The block of exactly this connection."""
        sides = {
            name: {"network": sock.getsockname()[0], "port": sock.getsockname()[1]}
            for name, sock in (("source", self.opener), ("destination", self.acceptor))
        }
        return {"id": ident, "protocol": protocol, **sides}


def connected(of: Namespace, here: str, to: Namespace, there: str, count: int = 1) -> list[Pair]:
    """Connections to one listening port, whose openers' ports differ."""
    with made(to, there, STREAM) as listener:
        listener.listen(count)
        pairs = []
        for _ in range(count):
            opener = made(of, here, STREAM)
            opener.connect(listener.getsockname()[:2])
            pairs.append(Pair(opener, listener.accept()[0]))
            pairs[-1].acceptor.settimeout(10)
        return pairs


def error_of(sock: socket.socket) -> str:
    """What the program sees that waits for data: the name of an error, or what it got."""
    try:
        return f"got {sock.recv(100)!r}"
    except OSError as e:
        return errno.errorcode[e.errno] if e.errno else repr(e)


def close(pairs: list[Pair]) -> None:
    for pair in pairs:
        pair.opener.close()
        pair.acceptor.close()


FAMILIES = pytest.mark.parametrize("family", [4, 6])
# Who opens; who speaks first after the order.
WAYS = pytest.mark.parametrize("outward", [True, False], ids=["outward", "inward"])
# How the remote end is sent its packets; the local one is by a raw socket always.
BOTH = pytest.mark.parametrize("enforcing", ["link", "raw"], indirect=True)
SPEAKERS = pytest.mark.parametrize("speaker", ["opener", "acceptor"])


def ways(hosts: Hosts, family: int, *, outward: bool) -> tuple[Namespace, str, Namespace, str]:
    ends = (hosts.sensor, SENSOR[family], hosts.remote, REMOTE[family])
    return ends if outward else (*ends[2:], *ends[:2])


@FAMILIES
@WAYS
@SPEAKERS
@BOTH
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
    assert list(tallies) == ["a"]
    assert tallies["a"]["matched"] == 1
    assert tallies["a"]["sent"]["source"] == tallies["a"]["sent"]["destination"] >= 1
    assert tallies["a"]["refused"] == {}
    close(pairs)


@FAMILIES
@BOTH
def test_a_thousand_of_a_thousand_connections_are_reset_at_both_ends(
    hosts: Hosts, enforcing: Enforcing, family: int
) -> None:
    ended = 0
    for _ in range(10):
        pairs = connected(*ways(hosts, family, outward=True), count=100)
        enforcing.order({"id": "all", "destination": {"network": REMOTE[family]}})
        for pair in pairs:
            pair.opener.sendall(b"x")
        for pair in pairs:
            ends = [error_of(end) for end in pair]
            ends = [error_of(end) if said == "got b'x'" else said for said, end in zip(ends, pair, strict=True)]
            ended += ends == ["ECONNRESET", "ECONNRESET"]
        enforcing.order()
        close(pairs)
    tally = enforcing.report()["all"]

    assert ended == 1000
    assert tally["matched"] == 1000


@FAMILIES
@BOTH
def test_a_connection_is_reported_closed_once_its_silence_proves_it(
    hosts: Hosts, enforcing: Enforcing, family: int
) -> None:
    (pair,) = connected(*ways(hosts, family, outward=True))
    enforcing.order(pair.order("a"))
    pair.opener.sendall(b"x" * 100)
    assert {error_of(pair.opener)} == {"ECONNRESET"}

    closed = [enforcing.report().get("a", {}).get("closed", 0)]
    eventually("closed", lambda: closed.append(enforcing.report().get("a", {}).get("closed", 0)) or sum(closed))
    assert closed[0] == 0
    assert sum(closed) == 1
    close([pair])


@FAMILIES
def test_attempts_at_a_quarantined_device_that_does_not_answer_are_all_refused(
    hosts: Hosts, enforcing: Enforcing, family: int
) -> None:
    enforcing.order({"id": "q", "kind": "quarantine", "source": {"network": SENSOR[family]}, "direction": "outgoing"})
    errors = []
    for _ in range(500):
        with made(hosts.sensor, SENSOR[family], STREAM) as opener:
            errors.append(opener.connect_ex((NOBODY[family], 443)))

    assert errors == [errno.ECONNREFUSED] * 500
    tally = enforcing.report()["q"]
    assert (tally["matched"], tally["sent"]) == (500, {"source": 500, "destination": 500})


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
    with made(to, there, STREAM) as listener, ThreadPoolExecutor(50) as clients:
        listener.listen(100)
        server = threading.Thread(target=served, args=(listener,))
        server.start()
        ends = Counter(clients.map(lambda _: attempted(of, here, listener), range(count)))
        listener.shutdown(socket.SHUT_RDWR)
        server.join()
    return ends


@FAMILIES
@WAYS
def test_no_attempt_at_a_quarantined_device_gets_an_answer_over_a_wire_that_has_a_length(
    long_wire: Hosts, family: int, *, outward: bool
) -> None:
    with Enforcing(long_wire.sensor, "eth0") as enforcing:
        enforcing.order({"id": "q", "kind": "quarantine", "source": {"network": SENSOR[family]}})
        ends = attempts(long_wire, family, 500, outward=outward)
        print(dict(ends))

        assert set(ends) <= {"ECONNREFUSED", "ECONNRESET"}
        assert enforcing.report()["q"]["matched"] == 500


@FAMILIES
@WAYS
def test_over_a_wire_without_length_an_answer_may_be_quicker_and_each_attempt_is_seen_all_the_same(
    hosts: Hosts, enforcing: Enforcing, family: int, *, outward: bool
) -> None:
    """A sensor beside the wire is told of a handshake when it is over. How many got an answer first is printed."""
    enforcing.order({"id": "q", "kind": "quarantine", "source": {"network": SENSOR[family]}})
    ends = attempts(hosts, family, 500, outward=outward)
    print(dict(ends))

    assert set(ends) <= {"ECONNREFUSED", "ECONNRESET", "answer to request"}
    assert enforcing.report()["q"]["matched"] == 500


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
    tally = enforcing.report()["q"]
    assert tally["matched"] == 1
    close([out, new_out])


@FAMILIES
@SPEAKERS
@BOTH
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
    assert list(tallies) == ["a"]
    assert (tallies["a"]["matched"], tallies["a"]["sent"]) == (1, {"source": 1, "destination": 1})
    close(pairs)


@FAMILIES
def test_a_connection_between_two_local_programs_is_reset_on_loopback(hosts: Hosts, family: int) -> None:
    here = {4: "127.0.0.1", 6: "::1"}[family]
    with Enforcing(hosts.sensor, "lo") as enforcing:
        blocked, neighbour = connected(hosts.sensor, here, hosts.sensor, here, count=2)
        enforcing.order(blocked.order("a"))
        blocked.opener.sendall(b"x")

        assert error_of(blocked.opener) == "ECONNRESET"
        said = error_of(blocked.acceptor)
        assert (error_of(blocked.acceptor) if said == "got b'x'" else said) == "ECONNRESET"
        assert [neighbour.exchange() for _ in range(10)] == [True] * 10
        assert list(enforcing.report()) == ["a"]
        close([blocked, neighbour])


@FAMILIES
@pytest.mark.parametrize("how", ["link", "raw"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_on_a_router_both_ends_are_reset_though_only_one_of_its_links_is_watched(
    family: int, how: str, side: str
) -> None:
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
        with Enforcing(router, side, how) as enforcing:
            blocked, neighbour = connected(left, f"{near}2", right, f"{far}2", count=2)
            enforcing.order(blocked.order("a"))
            blocked.opener.sendall(b"x")

            said = error_of(blocked.acceptor)
            assert (error_of(blocked.acceptor) if said == "got b'x'" else said) == "ECONNRESET"
            assert error_of(blocked.opener) == "ECONNRESET"
            assert [neighbour.exchange() for _ in range(10)] == [True] * 10
            assert list(enforcing.report()) == ["a"]
            close([blocked, neighbour])
