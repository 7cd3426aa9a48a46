"""Connections between two hosts, the enforcer beside one of them, and the kernel's count of what that one sends."""

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
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

from harness.connections import Pair
from harness.namespaces import Namespace, address, wire
from harness.proc import HANGS_S, happened

from ossensor.antigena.packets import OUR_WINDOW

ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "PYTHONDONTWRITEBYTECODE": "1",
    "PATH": os.environ["PATH"],
}
SENSOR = {4: "10.7.0.1", 6: "fd07::1"}
REMOTE = {4: "10.7.0.2", 6: "fd07::2"}
NOBODY = {4: "10.7.0.3", 6: "fd07::3"}  # an address that the remote host is sent the packets of, and does not have
STREAM, DATAGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM
BOOK = "0123456789abcdef" * 2
# What the enforcer sends and nobody else: a window of its own, and ICMP errors where every port has a listener.
_COUNTERS = f"""
table inet antigena {{
  counter sent {{}}
  chain out {{
    type filter hook output priority 0;
    tcp window {OUR_WINDOW} counter name sent
    icmp type destination-unreachable icmp code port-unreachable counter name sent
    icmpv6 type destination-unreachable icmpv6 code port-unreachable counter name sent
  }}
}}
"""


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
    count_sent(sensor)
    return Hosts(sensor, remote)


@contextlib.contextmanager
def two_hosts() -> Iterator[Hosts]:
    with Namespace(ipv6=True) as sensor, Namespace(ipv6=True) as remote:
        wire(sensor, "eth0", remote, "eth0")
        yield addressed(sensor, remote)


def count_sent(namespace: Namespace) -> None:
    """From now on the kernel counts what an enforcer sends there."""
    namespace.run("nft", _COUNTERS)


def packets_sent(namespace: Namespace) -> int:
    found = json.loads(namespace.run("nft", "-j", "list", "counter", "inet", "antigena", "sent"))
    return int(next(one["counter"]["packets"] for one in found["nftables"] if "counter" in one))


class Enforcing:
    """harness.enforce beside the local program, in its namespace."""

    def __init__(
        self, namespace: Namespace, *interfaces: str, mode: str = "enforce", protected: tuple[str, ...] = ()
    ) -> None:
        confined = ["setpriv", "--bounding-set=-all,+net_raw", "--inh-caps=-all", "--no-new-privs", "--"]
        argv = namespace.inside(*confined, sys.executable, "-m", "harness.enforce", mode, *protected)
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
        )
        self.pid = self._process.pid
        self._namespace = namespace
        self._sent_before = packets_sent(namespace)
        self.reports: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._collect)
        self._reader.start()
        self.version = 0
        self.orders: list[dict[str, Any]] = []
        self._forgotten = 0  # packets for orders that are over, which nobody reports any more
        if interfaces:
            self.attend(*interfaces)

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._news:
                self.reports.append(json.loads(line))
                self._news.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        assert self._process.wait(HANGS_S) == 0
        self._reader.join()
        self._process.stdout.close()

    def tell(self, op: str, values: Mapping[str, Any]) -> None:
        """As the supervisor would."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([op, json.dumps(values)]) + "\n")
        self._process.stdin.flush()

    def attend(self, *interfaces: str, flows: tuple[tuple[str, int], ...] = ()) -> None:
        self.tell("surroundings", {"interfaces": interfaces, "flows": flows})

    def message(self, version: int, *orders: object) -> None:
        """Orders as the uploader passes them on, of a vSensor whose clock is this machine's."""
        ahead_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        told = {"book": BOOK, "version": version, "actions": orders}
        self.tell("orders", {"ahead_s": ahead_s, "orders": told})

    def order(self, *orders: dict[str, Any], lasting_s: int = 600) -> None:
        """Blocks, if not said otherwise, in place of those before. Returns when they are in force."""
        before = self.report() if self.orders else {}
        kept = [one["id"] for one in orders]
        self._forgotten += sum(_packets(counts) for name, counts in before.items() if name not in kept)
        self.orders = self.timed(*orders, lasting_s=lasting_s)
        self._order_again()

    @staticmethod
    def timed(*orders: dict[str, Any], lasting_s: int = 600) -> list[dict[str, Any]]:
        now_s = int(time.time())
        return [{"kind": "block", "start_s": now_s - 1, "expires_s": now_s + lasting_s, **one} for one in orders]

    def _order_again(self) -> None:
        self.version += 1
        self.message(self.version, *self.orders)
        with self._news:  # a look every some milliseconds would be most of what many tests take
            there = self._news.wait_for(lambda: self.reports and self.reports[-1]["version"] == self.version, HANGS_S)
        assert there, f"version {self.version}: {self.reports[-1:]}"

    def report(self, trouble: str = "") -> dict[str, dict[str, int]]:
        """What was done about each order, all that has been seen included; and each packet sent is in it.

        The first of two messages is obeyed before the packets that wait at that moment are read, the second after it;
        where more wait than are read at a time, a test has to ask again.
        """

        def told() -> tuple[int, int]:
            self._order_again()
            self._order_again()
            counted = sum(map(_packets, self.reports[-1]["actions"].values()))
            return self._forgotten + counted, self.packets()

        # Once in nearly all cases; segments of connections that were just ended may still be under way.
        if not happened(lambda: len(set(told())) == 1, HANGS_S):
            raise AssertionError(f"counted and sent: {told()}")
        assert self.reports[-1]["trouble"] == trouble
        return dict(self.reports[-1]["actions"])

    @property
    def refused(self) -> dict[str, str]:
        return dict(self.reports[-1]["refused"])

    def packets(self) -> int:
        """What it has sent, by the kernel's count."""
        return packets_sent(self._namespace) - self._sent_before


def _packets(counts: dict[str, int]) -> int:
    """How many packets an order's counts tell of."""
    return sum(count for name, count in counts.items() if name.startswith(("sent_to_", "asked_")))


RESET = ("ECONNRESET", "ECONNRESET")


def error_of(sock: socket.socket) -> str:
    """What the program sees that waits for data: the name of an error, or what it got."""
    try:
        return f"got {sock.recv(100)!r}"
    except OSError as e:
        return errno.errorcode[e.errno] if e.errno else repr(e)


def close(pairs: list[Pair]) -> None:
    for pair in pairs:
        pair.close()


def ways(hosts: Hosts, family: int, *, outward: bool = True) -> tuple[Namespace, str, Namespace, str]:
    """Arguments of `connected`: who opens, and to whom."""
    ends = (hosts.sensor, SENSOR[family], hosts.remote, REMOTE[family])
    return ends if outward else (*ends[2:], *ends[:2])
