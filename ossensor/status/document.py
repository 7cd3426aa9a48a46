"""The answer to `ossensor status`: one JSON object. Pure.

A program may rely on `format` and on the names below; within one format, names are only ever added.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .upload import Upload

FORMAT: Final = 1


@dataclass(frozen=True)
class InterfaceStatus:
    """One interface that is captured, or should be. Counts are packets, by the equation of accounting.py."""

    name: str
    index: int
    up: bool
    state: str  # running, backoff, draining, stopped, failed, idle; absent: chosen, and there is no room or no memory
    trouble: str = ""
    failures: int = 0  # of its worker, in a row
    restarts: int = 0  # of its worker, in all
    received: int = 0
    kernel_drops: int = 0
    delivered: int = 0
    spooled: int = 0
    in_flight: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    received_per_s: float = 0.0
    kernel_drops_per_s: float = 0.0
    delivered_per_s: float = 0.0
    slots: int = 0
    slots_in_use: int = 0


@dataclass(frozen=True)
class UploaderStatus:
    """The process, and what it last said; nothing yet, if it has just started."""

    state: str
    failures: int
    restarts: int
    trouble: str
    said: Upload | None


@dataclass(frozen=True)
class SpoolStatus:
    """Batches on disk."""

    folder: str
    limit_bytes: int


@dataclass(frozen=True)
class SensorStatus:
    """All of it. `actions` are Antigena's."""

    version: str
    sensor: str
    pid: int
    phase: str  # running, draining
    up_s: float
    vsensor: str
    interfaces: list[InterfaceStatus]
    uploader: UploaderStatus
    spool: SpoolStatus | None = None
    notes: list[str] = field(default_factory=list)  # what stays wrong until somebody acts: a SIGHUP that was refused
    actions: list[Mapping[str, Any]] = field(default_factory=list)


def encode(sensor: SensorStatus, verdict: Mapping[str, Any]) -> bytes:
    """The document as it is sent: one line."""
    return json.dumps({"format": FORMAT, **verdict, **dataclasses.asdict(sensor)}).encode() + b"\n"


def decode(data: bytes) -> dict[str, Any]:
    """The document. ValueError, whose text is for people, when it is none that this version can read."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError("the answer is cut short, or not a sensor's") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError("the answer is of another version of ossensor")
    return document
