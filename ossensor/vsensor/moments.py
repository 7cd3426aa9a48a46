"""Moments as people and programs write them. Pure."""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

_EPOCH_S: Final = re.compile(r"([0-9]{1,11})(?:\.([0-9]{1,9}))?")
# What is left of a moment in ISO 8601 without its fraction, which datetime would cut to microseconds.
_FRACTION: Final = re.compile(r"(.*:[0-9]{2}|.*T[0-9]{6})[.,]([0-9]{1,9})(.*)")
_ISO: Final = re.compile(r"[0-9]{4}-?[0-9]{2}-?[0-9]{2}T[0-9:]{4,8}(?:Z|[+-][0-9]{2}:?[0-9]{2})?")
ALLOWED: Final = "2026-11-23T10:18:55.5Z, 2026-11-23T11:18:55+01:00, or seconds since 1970"


def parse(text: str) -> int:
    """Unix time in nanoseconds. ValueError says what is wrong with the text, without repeating it.

    A zone is demanded: a store holds what sensors in many zones saw, and the zone of the reader's machine is not one
    that a line in a runbook would say.
    """
    if match := _EPOCH_S.fullmatch(text):
        return int(match[1]) * 10**9 + _fraction_ns(match[2])
    whole, fraction = text, ""
    if match := _FRACTION.fullmatch(text):
        whole, fraction = match[1] + match[3], match[2]
    try:
        moment = dt.datetime.fromisoformat(whole) if _ISO.fullmatch(whole) else None
    except ValueError as e:  # as the 31st of a short month
        raise ValueError(str(e)) from None
    if moment is None:
        raise ValueError(f"allowed: {ALLOWED}")
    if moment.tzinfo is None:
        raise ValueError("has no zone: add Z, or +01:00")
    seconds = (moment - dt.datetime.fromtimestamp(0, dt.UTC)) // dt.timedelta(seconds=1)
    return seconds * 10**9 + _fraction_ns(fraction)


def _fraction_ns(digits: str | None) -> int:
    return int((digits or "").ljust(9, "0"))


def show(ns: int) -> str:
    """The moment in UTC, in the form that `parse` takes."""
    seconds, fraction = divmod(ns, 10**9)
    whole = dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{whole}.{fraction:09d}Z" if fraction else f"{whole}Z"
