"""The JSON that sensor and vSensor send each other: welcome, introduction, orders, report (transport/*.py).

Declared: MalformedError. Second oracle: what was read, written, and read again is the same; and what goes into a log or
onto a page is printable.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple
from typing import Any

from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import Limits, MalformedError, Welcome

_ACTION = {"id": "a", "kind": "quarantine", "source": {"network": "10.0.0.1"}, "start_s": 1, "expires_s": 2}
_EPOCH = "0123456789abcdef" * 2


def seeds() -> Iterator[bytes]:
    yield Welcome("tcp port 80", "[2001:db8::7]:8443", Limits(8 << 20, 4)).body
    yield Introduction("ossensor/1", "host", {"arn": "x"}, ("eth0",), 1, "enforce", "why", {"eth0": _EPOCH}).body
    yield Orders(_EPOCH, 8, (_ACTION,)).body
    yield Report("observe", _EPOCH, 7, {"a": {"matched": 3}}, {"b": "why"}, "trouble").body


def target(data: bytes) -> bool:
    # Any of these is an object, whose members the others pass over: so each is given to all.
    return sum(_read(kind, data) for kind in (Welcome, Introduction, Orders, Report)) > 0


def _read(kind: Any, data: bytes) -> bool:
    try:
        message = kind.parse(data)
    except MalformedError:
        return False
    try:
        again = kind.parse(message.body)
    except MalformedError as e:
        assert "bytes" in str(e) or "too long" in str(e)  # our own spelling may be the longer one
    except RecursionError:
        assert kind is Orders
    else:
        assert again == message
    if kind is not Orders:
        assert _printable(astuple(message))
    return True


def _printable(value: Any) -> bool:
    if isinstance(value, str):
        return value.isprintable()
    if isinstance(value, dict):
        return all(_printable(name) and _printable(v) for name, v in value.items())
    return all(map(_printable, value)) if isinstance(value, tuple) else True
