"""An operator's requests and what they are answered with, as decoded JSON. Pure; docs/protocol.md, "The operator"."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from ossensor.antigena.actions import MAX_DURATION_S, ActionError, parse_action
from ossensor.transport.orders import Report

from .antigena import Reported
from .orderbook import Book, Entry, RejectedError, Target

_MEMBERS: Final = ("target", "duration_s", "action")


def read_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object in a body; one without members for an empty body. Raises RejectedError."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        # Of a member given twice, programs take one or the other: an order must mean one thing.
        if len(dict(pairs)) < len(pairs):
            raise RejectedError("a member is given twice")
        return dict(pairs)

    try:
        given = json.loads(body or b"{}", object_pairs_hook=once)
    except (ValueError, RecursionError) as e:
        raise RejectedError("the body is no JSON") from e
    if not isinstance(given, dict):
        raise RejectedError("the body is no JSON object")
    return given


def read_order(given: Mapping[str, Any], now_s: int, new_id: Callable[[], str]) -> Entry:
    """The order that is asked for. Raises RejectedError with all that is wrong with it.

    Without `start_s` it begins now; it ends at `action.expires_s`, or `duration_s` after its start. Without an id, it
    gets `new_id`'s.
    """
    faults = _strangers(given, _MEMBERS)
    target = Target("all")
    try:
        target = Target.parse(given.get("target"))
    except RejectedError as e:
        faults += e.faults
    action = given.get("action")
    if not isinstance(action, Mapping):
        raise RejectedError(*faults, "action: an order has one, which is an object")
    start_s = action.get("start_s", now_s)
    members = {"id": None, **action, "start_s": start_s}
    if "expires_s" not in members:
        duration_s = _duration(given, faults)
        members["expires_s"] = (start_s if type(start_s) is int else now_s) + duration_s
    elif "duration_s" in given:
        faults.append("duration_s: action.expires_s says already when it ends")
    if members["id"] is None:
        members["id"] = new_id()
    try:
        made = parse_action(members)
    except ActionError as e:
        raise RejectedError(*faults, *e.faults) from e
    if faults:
        raise RejectedError(*faults)
    return Entry(target, made)


def read_extension(given: Mapping[str, Any]) -> int:
    """By how many seconds. Raises RejectedError."""
    faults = _strangers(given, ("duration_s",))
    duration_s = _duration(given, faults)
    if faults:
        raise RejectedError(*faults)
    return duration_s


def _strangers(given: Mapping[str, Any], known: tuple[str, ...]) -> list[str]:
    return [f"{name[:64]!a}: unknown, known are {', '.join(known)}" for name in given if name not in known]


def _duration(given: Mapping[str, Any], faults: list[str]) -> int:
    value = given.get("duration_s")
    if type(value) is int and 1 <= value <= MAX_DURATION_S:
        return value
    faults.append(f"duration_s: a whole number of seconds from 1 to {MAX_DURATION_S}")
    return 1


def written(entry: Entry) -> dict[str, Any]:
    """An order, as it is answered and recorded."""
    return {"target": entry.target.to_json(), "action": entry.action.to_json()}


def listing(book: Book, reports: Mapping[str, Reported], now_s: float) -> dict[str, Any]:
    """All that is in force or will be, what each sensor said became of it, and which sensors there are."""
    mentions: dict[str, dict[str, Any]] = {}
    for sensor, reported in reports.items():
        report = reported.report
        if report.book == book.id:
            for name in report.actions.keys() | report.refused.keys():
                mentions.setdefault(name, {})[sensor] = _mention(report, name)
    orders = [
        {**written(entry), "in_force": entry.action.in_force(now_s), "sensors": mentions.get(name, {})}
        for name, entry in book.orders.items()
    ]
    sensors = {
        sensor: {
            "mode": reported.report.mode,
            "heard_s": reported.time_s,
            "current": (reported.report.book, reported.report.version) == (book.id, book.version),
            "trouble": reported.report.trouble,
        }
        for sensor, reported in reports.items()
    }
    return {"book": book.id, "version": book.version, "time_s": int(now_s), "orders": orders, "sensors": sensors}


def _mention(report: Report, name: str) -> dict[str, Any]:
    return {"counts": dict(report.actions.get(name, {})), "refused": report.refused.get(name, "")}
