"""The packet sockets that Antigena watches with: what they show, and that one that sleeps is hooked to nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.inside import inside, made
from harness.namespaces import Namespace, address, wire
from harness.proc import eventually
from harness.resets import ENVIRONMENT
from scapy.all import raw
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from ossensor.antigena.actions import MAX_ACTIONS, Action, parse_action
from ossensor.antigena.filters import programs
from ossensor.antigena.guards import Guards
from ossensor.capture.cooked import WATCHES, Sockets, Watch, open_sockets

pytestmark = [pytest.mark.netns, pytest.mark.slow]

HERE, THERE = "10.7.0.1", "10.7.0.2"
ETH_P_ALL, NO_PROTOCOL = "0003", "ffff"
_MANY = 30_000
_AT_ONCE = 250  # of the 1,000 that the receive backlog holds (net.core.netdev_max_backlog)


def order(ident: str, network: str, port: int | None = None) -> Action:
    source = {"network": network, "port": port}
    return parse_action({"id": ident, "kind": "block", "source": source, "start_s": 0, "expires_s": 60})


def program(*networks: str) -> bytes:
    (one,) = programs([order(network, network) for network in networks], Guards())
    return one.instructions


@pytest.fixture
def namespaces() -> Iterator[tuple[Namespace, Namespace]]:
    with Namespace(ipv6=True) as sensor, Namespace(ipv6=True) as remote:
        wire(sensor, "eth0", remote, "eth0")
        for namespace, plain in ((sensor, HERE), (remote, THERE)):
            address(namespace, "eth0", f"{plain}/24", f"{plain}1/24")
        yield sensor, remote


@pytest.fixture
def sockets(namespaces: tuple[Namespace, Namespace]) -> Iterator[Sockets]:
    opened = inside(namespaces[0], open_sockets)
    yield opened
    opened.close()


def protocols(namespace: Namespace) -> Counter[str]:
    """What the namespace's packet sockets are hooked to."""
    lines = Path(f"/proc/{namespace.pid}/net/packet").read_text().splitlines()[1:]
    return Counter(line.split()[3] for line in lines)


def told(of: Namespace, here: str, to: Namespace, there: str, payload: bytes) -> None:
    """A datagram that has arrived."""
    with made(to, there, socket.SOCK_DGRAM) as receiver, made(of, here, socket.SOCK_DGRAM) as sender:
        sender.sendto(payload, receiver.getsockname())
        assert receiver.recv(100) == payload


def shown(watch: Watch) -> list[tuple[str, bool, bytes]]:
    return [(seen.interface, seen.outgoing, seen.packet[28:]) for seen in watch.read(1 << 20)]


def test_a_watch_that_sleeps_is_hooked_to_no_protocol_before_it_was_awake_and_after(
    namespaces: tuple[Namespace, Namespace], sockets: Sockets
) -> None:
    sensor, _ = namespaces
    found = [protocols(sensor)]
    first, second = sockets.watches[:2]
    first.show(program(THERE))
    found.append(protocols(sensor))
    first.show(program(HERE))
    second.show(program(THERE))
    found.append(protocols(sensor))
    first.show(None)
    second.show(None)
    found.append(protocols(sensor))

    assert found == [
        {"0000": WATCHES},
        {ETH_P_ALL: 1, "0000": WATCHES - 1},
        {ETH_P_ALL: 2, "0000": WATCHES - 2},
        {NO_PROTOCOL: 2, "0000": WATCHES - 2},
    ]


def test_a_watch_shows_from_the_ip_header_on_what_its_program_lets_through_while_it_is_awake(
    namespaces: tuple[Namespace, Namespace], sockets: Sockets
) -> None:
    sensor, remote = namespaces
    watch = sockets.watches[0]
    told(remote, THERE, sensor, HERE, b"before")
    watch.show(program(THERE))
    told(remote, THERE, sensor, HERE, b"in")
    told(sensor, HERE, remote, THERE, b"out")
    told(remote, f"{THERE}1", sensor, HERE, b"not concerned")
    assert shown(watch) == [("eth0", False, b"in"), ("eth0", True, b"out")]

    told(remote, THERE, sensor, HERE, b"waits when it falls asleep")
    watch.show(None)
    told(remote, THERE, sensor, HERE, b"asleep")
    assert shown(watch) == []

    watch.show(program(THERE))
    told(remote, THERE, sensor, HERE, b"awake again")
    assert shown(watch) == [("eth0", False, b"awake again")]
    assert watch.statistics().dropped == 0


def test_a_packet_that_came_with_a_vlan_tag_is_shown_without_it(
    namespaces: tuple[Namespace, Namespace], sockets: Sockets
) -> None:
    sensor, remote = namespaces
    watch = sockets.watches[0]
    watch.show(program(THERE))
    link = Ether(dst=sensor.links()["eth0"]["address"]) / Dot1Q(vlan=7)
    with inside(remote, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)) as sock:
        sock.sendto(raw(link / IP(src=THERE, dst=HERE) / UDP() / b"tagged"), ("eth0", 0))

    assert eventually("shown", lambda: shown(watch)) == [("eth0", False, b"tagged")]


def test_what_finds_no_room_is_counted(namespaces: tuple[Namespace, Namespace], sockets: Sockets) -> None:
    sensor, remote = namespaces
    watch = sockets.watches[0]
    watch.show(program(THERE))
    with made(sensor, HERE, socket.SOCK_DGRAM) as receiver, made(remote, THERE, socket.SOCK_DGRAM) as sender:
        for _ in range(0, _MANY, _AT_ONCE):
            for _ in range(_AT_ONCE):
                sender.sendto(b"x", receiver.getsockname())
            told(remote, f"{THERE}1", sensor, HERE, b"not concerned")  # so all before it are out of the backlog
    received, dropped = watch.statistics()
    kept = len(shown(watch))

    print(f"room for {kept} datagrams of a byte")
    assert received == _MANY
    assert kept + dropped == _MANY
    assert dropped > 0
    assert watch.statistics() == (0, 0)


@pytest.mark.parametrize("family", [4, 6])
def test_all_orders_that_may_be_in_force_are_shown_and_changed_where_a_socket_may_hold_20_kib(
    namespaces: tuple[Namespace, Namespace], sockets: Sockets, family: int
) -> None:
    sensor, _ = namespaces
    sensor.run("sh", "-c", "echo 20480 > /proc/sys/net/core/optmem_max")
    for first in (0, 1):
        actions = [
            order(str(n), {4: f"10.{first}.{n}.1", 6: f"fd{n:02x}:1:2:3:4:5:6:{first}"}[family], 1 + n)
            for n in range(MAX_ACTIONS)
        ]
        made_of = programs(actions, Guards(), most_instructions=1024)
        assert len(made_of) <= WATCHES
        for watch, one in zip(sockets.watches, made_of, strict=False):
            watch.show(one.instructions)
    with pytest.raises(OSError, match="Cannot allocate memory"):
        sockets.watches[0].show(programs(actions, Guards())[0].instructions)


def test_opening_needs_net_raw_and_says_so(namespaces: tuple[Namespace, Namespace]) -> None:
    confined = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--")
    code = "from ossensor.capture.cooked import open_sockets; open_sockets()"
    argv = namespaces[0].inside(*confined, sys.executable, "-c", code)
    done = subprocess.run(argv, env=ENVIRONMENT, capture_output=True, text=True, check=False)

    assert done.returncode == 1
    assert "PermissionError: [Errno 1] Operation not permitted" in done.stderr
