"""A snapshot of a vSensor's live state as people read it in a terminal. Pure; docs/protocol.md, "What is going on".

What a snapshot says is printed by its value, never obeyed. Raises KeyError, TypeError, ValueError or AttributeError
for what is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ossensor.status.text import duration
from ossensor.status.upload import legible

_HEAD: Final = (
    *("sensor", "host", "interface", "packets/s", "MB/s", "packets"),
    *("kernel drops", "dropped", "lost", "repeats", "delay", "heard", "antigena", "books"),
)
_TO_THE_LEFT: Final = frozenset({"sensor", "host", "interface", "antigena", "books"})
_HOST_CHARACTERS: Final = 32


def lines(snapshot: Mapping[str, Any], width: int | None = None, height: int | None = None) -> list[str]:
    """One line for each interface, the busiest first; of more than fit, how many there are."""
    now_s, sensors = snapshot["time_s"], snapshot["sensors"]
    rows = [row for _, row in sorted(_rows(sensors, now_s), key=lambda found: found[0])]
    silent = sum(bool(sensor["is_silent"]) for sensor in sensors.values())
    rates = [sum(float(s[name]) for s in sensors.values()) for name in ("packets_per_s", "bytes_per_s")]
    head = (
        f"{rates[0]:,.0f} packets/s, {rates[1] / 1e6:,.1f} MB/s; sensors: {len(sensors):,}, silent: {silent:,};"
        f" counted for {duration(now_s - snapshot['since_s'])}"
    )
    room = len(rows) if height is None else max(1, height - 4)
    shown = [head, "", *_table(rows[:room])]
    if len(rows) > room:
        shown.append(f"and {len(rows) - room:,} more")
    return [line[:width] for line in shown]


def _rows(sensors: Mapping[str, Any], now_s: float) -> Iterable[tuple[tuple[float, str, str], tuple[str, ...]]]:
    """Each row, and what it is sorted by."""
    for name, sensor in sensors.items():
        host = sensor["task"].get("family") or sensor["host"]
        who = (legible(name), legible(host)[:_HOST_CHARACTERS])
        heard = "SILENT " * bool(sensor["is_silent"]) + duration(max(0.0, now_s - sensor["heard_s"]))
        mode = legible(sensor["antigena_mode"])
        for interface, one in sensor["interfaces"].items() or [("-", None)]:
            counts = ("-",) * 8 if one is None else _counts(one)
            verdict = "-" if one is None else legible(one["verdict"])
            busy = 0.0 if one is None else float(one["bytes_per_s"])
            yield (-busy, name, interface), (*who, legible(interface), *counts, heard, mode, verdict)


def _counts(one: Mapping[str, Any]) -> tuple[str, ...]:
    delay_s = one["delay_s"]
    return (
        f"{one['packets_per_s']:,.0f}",
        f"{one['bytes_per_s'] / 1e6:,.1f}",
        f"{one['packets']:,}",
        f"{one['kernel_drops']:,}",
        f"{sum(one['dropped'].values()):,}",
        f"{one['lost_packets']:,}",
        f"{one['repeats']:,}",
        "-" if delay_s is None else f"{delay_s:,.1f} s",
    )


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(_HEAD, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if title in _TO_THE_LEFT else cell.rjust(width)
            for title, cell, width in zip(_HEAD, row, widths, strict=True)
        ).rstrip()
        for row in (_HEAD, *rows)
    ]
