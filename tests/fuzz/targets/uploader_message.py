"""What an uploader that is somebody else's by now says to the supervisor, message by message, one a line.

Parsed in control.py, uplink.py, gate.py, filters.py, status/upload.py; orders go on to the enforcer's channel.
Declared: none, and the supervisor must not end by it. Second oracle: what it leaves out of the capture is addresses and
ports, as Python's ipaddress reads them, no more than it may be; what it shows is printable; and the enforcer is sent
whole messages, which a Parts of the other end puts together as the same text.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any
from unittest import mock

from ossensor import filters
from ossensor.control import Channel, Parts
from ossensor.enforcement import Enforcement
from ossensor.filters import Flow
from ossensor.gate import Gate
from ossensor.transport.protocol import packet_filter_ok
from ossensor.uplink import Uplink

_MOST_BYTES = 64 << 10


class _Bank:
    """A filter bank that compiles nothing."""

    described = ""

    def __init__(self, flows: Iterable[Flow] = (), vsensor: str = "") -> None:
        self.flows, self.vsensor = frozenset(flows), vsensor

    def with_flows(self, flows: Iterable[Flow]) -> _Bank:
        return _Bank(flows, self.vsensor)

    def with_vsensor(self, vsensor: str) -> _Bank:
        return _Bank(self.flows, vsensor)


class _Keeper:
    def keep(self, _: object) -> None: ...


def _line(**message: Any) -> bytes:
    return json.dumps(message).encode()


def seeds() -> Iterator[bytes]:
    yield _line(op="guard", flows=[["192.0.2.1", 8443], ["::ffff:10.0.0.1", 1], ["fe80::1%eth0", 443]])
    yield _line(op="heed", packet_filter="tcp port 80", section_bytes=1 << 20) + b"\n" + _line(op="retired", queue=0)
    counts = {"waiting_batches": 1, "batches": 2, "attempts": 3, "wire_bytes": 4, "spool_bytes": 5}
    yield _line(op="upload", reachable=True, trouble="", spool_trouble="x", **counts)
    yield b"\n".join(_line(op="orders", number=n, parts=2, text=text) for n, text in enumerate(('{"ahead_s": 1,', "}")))


@contextmanager
def _silent() -> Iterator[None]:
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


# libpcap would ask the network for host names.
@_silent()
@mock.patch("ossensor.gate.bpf_fault", lambda _: None)
def target(data: bytes) -> bool:
    """True when a message meant something."""
    gate = Gate(_Bank(), _Keeper())  # type: ignore[arg-type]
    to_enforcer, enforcers = Channel.pair()
    enforcement = Enforcement(None, lambda _: None)  # type: ignore[arg-type]
    enforcement._channel = to_enforcer
    ordered: list[str] = []

    def order(text: str) -> None:
        ordered.append(text)
        enforcement.order(text)

    def heed(asked: Any) -> dict[str, Any]:
        return {"refused": gate.narrow(asked.get("packet_filter"), []), "epochs": {}}

    ours, theirs = Channel.pair()
    uplink = Uplink(None, None, None, lambda flows: gate.guard(flows, []), heed, order)  # type: ignore[arg-type]
    uplink._channel = ours
    heard, parts = [], Parts()
    for line in data.split(b"\n"):
        if line:
            socket.send_fds(theirs._sock, [line[:_MOST_BYTES]], [])
            uplink.listen()
            heard += [whole for message, _ in enforcers.receive() if (whole := parts.maybe_whole(message)) is not None]
            _replies(theirs)
    assert heard == ordered
    assert len(gate.bank.flows) <= filters.MAX_FLOWS
    for flow in gate.bank.flows:
        assert str(ip_address(flow.address)) == flow.address
        assert 0 < flow.port < 1 << 16
    assert packet_filter_ok(gate.bank.vsensor)
    if uplink.said is not None:
        assert (uplink.said.trouble + uplink.said.spool_trouble).isprintable()
    for channel in (to_enforcer, enforcers, ours, theirs):
        channel.close()
    return bool(ordered or gate.bank.flows or gate.bank.vsensor or uplink.said)


def _replies(theirs: Channel) -> None:
    for message, _ in theirs.receive():
        assert message["op"] in {"guarded", "heeded"}
