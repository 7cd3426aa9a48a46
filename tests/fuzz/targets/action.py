"""What connections are to be ended: an order as an operator gives it, and as a vSensor passes it on.

Declared: RejectedError (vsensor/orderform.py), ActionError (antigena/actions.py). Second oracle: an action written and
read again is the same, and not longer than is promised; it concerns no connection of addresses that it does not name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from ipaddress import ip_address

from ossensor.antigena import words
from ossensor.antigena.actions import MAX_ACTION_BYTES, Action, ActionError, End, parse_action
from ossensor.vsensor import orderform
from ossensor.vsensor.orderbook import Book, RejectedError

_NOW_S = 1_795_000_000
_STRANGERS = End(ip_address("203.0.113.99"), 4), End(ip_address("203.0.113.98"), 5)
_STRANGERS_6 = End(ip_address("3fff::99"), 4), End(ip_address("3fff::98"), 5)


def seeds() -> Iterator[bytes]:
    sides = {"source": {"network": "10.0.0.0/8", "port": 1}, "destination": {"network": "192.0.2.1", "port": None}}
    block = {"kind": "block", "protocol": "tcp", **sides, "reason": "ü", "expires_s": _NOW_S + 60}
    yield json.dumps({"target": {"sensor": "sensor-1"}, "action": {"id": "a", **block}}).encode()
    quarantine = {"kind": "quarantine", "source": {"network": "2001:db8::1"}, "direction": "outgoing"}
    yield json.dumps({"target": {"all": True}, "duration_s": 600, "action": quarantine}).encode()
    yield json.dumps(
        {"target": {"family": "web"}, "duration_s": 1, "action": {**quarantine, "start_s": _NOW_S}}
    ).encode()
    yield json.dumps({"id": "b", "start_s": _NOW_S, **block}).encode()
    yield b'{"duration_s": 600}'


def target(data: bytes) -> bool:
    try:
        given = orderform.read_object(data)
    except RejectedError:
        return False
    taken = False
    try:
        entry = orderform.read_order(given, _NOW_S, lambda: "new")
        _hold(entry.action)
        taken = True
        Book("0" * 32).placed(entry, float(_NOW_S))
    except RejectedError as e:
        assert all(fault.isprintable() for fault in e.faults)
    try:
        _hold(parse_action(given))
        taken = True
    except ActionError as e:
        assert all(fault.isprintable() for fault in e.faults)
    try:
        orderform.read_extension(given)
        taken = True
    except RejectedError as e:
        assert all(fault.isprintable() for fault in e.faults)
    return taken


def _hold(action: Action) -> None:
    text = json.dumps(action.to_json())
    assert parse_action(json.loads(text)) == action
    assert len(text) <= MAX_ACTION_BYTES
    assert words.action(action).isprintable()
    one, other = _STRANGERS if action.family == 4 else _STRANGERS_6
    networks = [side.network for side in (action.source, action.destination) if side.network is not None]
    if not any(end.address in network for end in (one, other) for network in networks):
        assert not any(action.concerns(protocol, one, other) for protocol in ("tcp", "udp"))
