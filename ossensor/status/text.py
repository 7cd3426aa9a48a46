"""A status document as people read it. Pure; what a document says is printed by its value, never obeyed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from .upload import legible

_UNITS: Final = ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s"))
_HEAD: Final = (
    *("interface", "state", "received", "/s", "kernel drops", "/s", "delivered", "/s"),
    *("spooled", "in flight", "dropped", "slots", "restarts"),
)


def lines(document: Mapping[str, Any]) -> list[str]:
    """The whole status."""
    uploader = document["uploader"]
    head = (
        f"ossensor {legible(document['version'])}, sensor {legible(document['sensor'])}: {document['health']},"
        f" {document['phase']} for {duration(document['up_s'])}, pid {document['pid']}"
    )
    return [
        head,
        *(f"  {legible(reason)}" for reason in document["reasons"]),
        "",
        *_table(_HEAD, [_interface(one) for one in document["interfaces"]]),
        "",
        *_uploader(uploader, document["vsensor"]),
        *_spool(document["spool"], uploader["said"]),
        *(f"antigena   {_action(action)}" for action in document["actions"]),
    ]


def verdict(document: Mapping[str, Any]) -> str:
    """One line: how it is, and why."""
    reasons = "; ".join(map(legible, document["reasons"]))
    return f"{document['health']}: {reasons}" if reasons else document["health"]


def duration(seconds: float) -> str:
    """In the two largest units: `3 min 12 s`."""
    whole = int(seconds)
    for unit_s, name, smaller_s, smaller in _UNITS:
        if whole >= unit_s:
            return f"{whole // unit_s} {name} {whole % unit_s // smaller_s} {smaller}"
    return f"{whole} s"


def _interface(one: Mapping[str, Any]) -> tuple[str, ...]:
    state = one["state"] if one["up"] else f"{one['state']} (down)"
    rates = (f"{one[f'{name}_per_s']:,.0f}" for name in ("received", "kernel_drops", "delivered"))
    counts = (f"{one[name]:,}" for name in ("received", "kernel_drops", "delivered"))
    pairs = [cell for pair in zip(counts, rates, strict=True) for cell in pair]
    dropped = ", ".join(f"{count:,} {legible(reason)}" for reason, count in one["dropped"].items() if count) or "0"
    slots = f"{one['slots_in_use']}/{one['slots']}"
    return (
        legible(one["name"]), state, *pairs, f"{one['spooled']:,}", f"{one['in_flight']:,}", dropped, slots,
        str(one["restarts"]),
    )  # fmt: skip


def _uploader(uploader: Mapping[str, Any], vsensor: str) -> Iterable[str]:
    yield f"uploader   {uploader['state']}, {uploader['restarts']} restarts"
    said = uploader["said"]
    if said is None:
        yield f"vSensor    {legible(vsensor)}"
        return
    reachable = "answers" if said["reachable"] else "is not reachable"
    yield (
        f"vSensor    {legible(vsensor)} {reachable}; {said['waiting_batches']:,} batches wait,"
        f" {said['batches']:,} acknowledged in {said['attempts']:,} attempts, {size(said['wire_bytes'])} sent"
    )


def _spool(spool: Mapping[str, Any] | None, said: Mapping[str, Any] | None) -> Iterable[str]:
    if spool is not None:
        used = "?" if said is None else size(said["spool_bytes"])
        yield f"spool      {legible(spool['folder'])}: {used} of {size(spool['limit_bytes'])}"


def _action(action: Mapping[str, Any]) -> str:
    return " ".join(f"{legible(str(name))}={legible(str(value))}" for name, value in action.items())


def size(count: float) -> str:
    """Bytes, in the largest unit that leaves a whole one."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if n < 2 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (head, *rows)
    ]
