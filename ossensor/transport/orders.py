"""The exchange about Antigena: what a sensor did, and the orders in force in reply. Pure; docs/protocol.md, "Antigena".

Both are full states and not changes, so a message that is lost is made good by the next one. What an action is,
and whether it may be enforced, is not judged here (antigena/actions.py): a message is JSON of the right shape, or not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .protocol import MAX_ORDERS_BYTES, MAX_REPORT_BYTES, MAX_SEQUENCE, MalformedError, text

_BOOK: Final = re.compile(r"[0-9a-f]{32}")
_MODES: Final = ("enforce", "observe", "off")


@dataclass(frozen=True, slots=True)
class Orders:
    """What the vSensor orders of one sensor, all of it. Versions are compared within one book only."""

    book: str = ""  # 32 hexadecimal digits that name the vSensor's order book; empty: there is none
    version: int = 0
    actions: tuple[Mapping[str, Any], ...] = ()

    @property
    def body(self) -> bytes:
        return json.dumps({"book": self.book, "version": self.version, "actions": list(self.actions)}).encode()

    @classmethod
    def parse(cls, body: bytes) -> Orders:
        """The orders in a body. Raises MalformedError."""
        values = _object(body, MAX_ORDERS_BYTES)
        actions = values.get("actions")
        if not isinstance(actions, list) or not all(isinstance(action, dict) for action in actions):
            raise MalformedError("the actions are no list of objects")
        return cls(_book(values), _count(values.get("version")), tuple(actions))


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the orders since the sensor has had them. `actions` are counts by name, for each action's id."""

    mode: str = "off"  # "observe": what would have been done is counted, and nothing is
    book: str = ""
    version: int = 0  # of the orders that are in force at the sensor
    actions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # by id: why an action is not in force
    trouble: str = ""  # why the orders as a whole are not

    @property
    def body(self) -> bytes:
        return json.dumps(
            {
                "mode": self.mode,
                "book": self.book,
                "version": self.version,
                "actions": {name: dict(counts) for name, counts in self.actions.items()},
                "refused": dict(self.refused),
                "trouble": self.trouble,
            }
        ).encode()

    @classmethod
    def parse(cls, body: bytes) -> Report:
        """The report in a body; members that this version does not know are passed over. Raises MalformedError."""
        values = _object(body, MAX_REPORT_BYTES)
        mode = values.get("mode")
        if mode not in _MODES:
            raise MalformedError("the mode is none")
        actions, refused = values.get("actions", {}), values.get("refused", {})
        if not isinstance(actions, dict) or not isinstance(refused, dict):
            raise MalformedError("actions or refusals are no objects")
        return cls(
            mode,
            _book(values),
            _count(values.get("version")),
            {text(name): _counts(counts) for name, counts in actions.items()},
            {text(name): text(why) for name, why in refused.items()},
            text(values.get("trouble", "")),
        )


def _object(body: bytes, most_bytes: int) -> dict[str, Any]:
    if len(body) > most_bytes:
        raise MalformedError(f"more than {most_bytes} bytes")
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise MalformedError("no JSON") from e
    if not isinstance(values, dict):
        raise MalformedError("no JSON object")
    return values


def _book(values: Mapping[str, Any]) -> str:
    book = values.get("book")
    if not isinstance(book, str) or (book and _BOOK.fullmatch(book) is None):
        raise MalformedError("the book has no name")
    return book


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value <= MAX_SEQUENCE:
        raise MalformedError("a number is none")
    return value


def _counts(counts: object) -> dict[str, int]:
    if not isinstance(counts, dict):
        raise MalformedError("counts are no object")
    return {text(name): _count(value) for name, value in counts.items()}
