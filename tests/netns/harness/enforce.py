"""The least that a worker must do around the enforcer: handles, filters and raw sockets.

    python -m harness.enforce INTERFACE link|raw

With `raw`, nothing is put on the link itself, as in workers/enforcer.py.
Takes a line of JSON at a time: a list of orders to enforce from now on, answered by `applied`, or `"report"`, answered
by the tallies since the last. It runs with CAP_NET_RAW alone, and says so when it has more.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
import time
from pathlib import Path

import pcap

from ossensor.antigena.actions import Action, parse_action
from ossensor.antigena.enforcer import Enforcer, Outgoing
from ossensor.antigena.filters import programs
from ossensor.antigena.frames import SNAPLEN_BYTES
from ossensor.antigena.guards import Guards
from ossensor.antigena.table import Table
from ossensor.capture import bpf
from ossensor.capture.hardware import ethernet_framed, hardware_type

_NET_RAW = 1 << 13  # linux/capability.h


class Sockets:
    """Where answers go out."""

    def __init__(self) -> None:
        # IPPROTO_RAW: the packet comes with its header (raw(7); for IPv6 the same, net/ipv6/raw.c).
        self._raw = {
            4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW),
            6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW),
        }

    def send(self, outgoing: Outgoing, handle: pcap.pcap) -> None:
        if outgoing.how == "link":
            assert handle.sendpacket(outgoing.packet) == len(outgoing.packet)
        else:
            self._raw[outgoing.to.address.version].sendto(outgoing.packet, (str(outgoing.to.address), 0))


def opened(interface: str, instructions: bytes) -> pcap.pcap:
    handle = pcap.pcap(interface, snaplen=SNAPLEN_BYTES, promisc=False, immediate=True, timestamp_in_ns=True)
    handle.setnonblock()
    with socket.socket(fileno=os.dup(handle.fileno())) as sock:
        bpf.attach(sock, instructions)
    return handle


def reopened(interface: str, actions: tuple[Action, ...], guards: Guards) -> list[tuple[pcap.pcap, frozenset[str]]]:
    ethernet = ethernet_framed(hardware_type(interface))
    made = programs(actions, guards, ethernet=ethernet)
    return [(opened(interface, program.instructions), program.ids) for program in made]


def check_privilege() -> None:
    (effective,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff"))
    assert int(effective.split()[1], 16) == _NET_RAW, effective


def captured(handle: pcap.pcap) -> list[bytes]:
    frames: list[bytes] = []
    assert handle.dispatch(-1, lambda _, frame: frames.append(frame)) >= 0
    return frames


class Worker:
    """One interface's handles and their enforcer."""

    def __init__(self, interface: str, how: str) -> None:
        self._interface = interface
        mac = Path(f"/sys/class/net/{interface}/address").read_text().replace(":", "")
        self._guards = Guards()
        self._table = Table(self._guards.objection)
        self._enforcer = Enforcer(self._table, self._guards, bytes.fromhex(mac) if how == "link" else None)
        self._sockets = Sockets()
        self.handles = reopened(interface, (), self._guards)

    def answer(self, handle: pcap.pcap, ids: frozenset[str]) -> None:
        for frame in captured(handle):
            for outgoing in self._enforcer.process(frame, handle.datalink(), time.time(), ids):
                self._sockets.send(outgoing, handle)

    def order(self, orders: list[object]) -> str:
        self._table.apply(self._table.version + 1, map(parse_action, orders), time.time())
        for handle, _ in self.handles:
            handle.close()
        self.handles = reopened(self._interface, self._table.in_force(time.time()).actions, self._guards)
        return "applied"

    def report(self) -> str:
        for outgoing in self._enforcer.judge(time.time()):
            self._sockets.send(outgoing, self.handles[0][0])
        return json.dumps({ident: tally.to_json() for ident, tally in self._enforcer.report().items()})


def main() -> None:
    check_privilege()
    worker = Worker(*sys.argv[1:])
    print("ready", flush=True)
    while True:
        readable = select.select([sys.stdin, *(handle.fileno() for handle, _ in worker.handles)], [], [])[0]
        for handle, ids in worker.handles:
            if handle.fileno() in readable:
                worker.answer(handle, ids)
        if sys.stdin in readable:
            line = sys.stdin.readline()
            if not line:
                return
            asked = json.loads(line)
            print(worker.report() if asked == "report" else worker.order(asked), flush=True)


if __name__ == "__main__":
    main()
