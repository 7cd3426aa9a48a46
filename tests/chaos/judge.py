"""The verdict over one run: what was sent, what is stored, what the books say, as equalities of integers. Pure.

of each link:   sent = stored + counted, each number once, each frame as it was sent
of each epoch:  received = kernel drops + stored                          (`ossensor audit`)
of the run:     every kind of fault struck, and was felt
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Of the faults that were planned: a process that another fault has just killed cannot always be killed again.
STRUCK: Final = 0.9


@dataclass(frozen=True)
class Link:
    """What became of one oracle's frames. `epochs`: the audit's objects of this interface."""

    name: str
    sent: int
    stored: Sequence[int]
    altered: int
    epochs: Sequence[Mapping[str, Any]]


def wrong_with(link: Link) -> list[str]:
    """Everything about the link's frames that is not as it must be."""
    times = Counter(link.stored)
    twice, spurious = len(link.stored) - len(times), sum(number >= link.sent for number in times)
    found = {name: _sum(link.epochs, name) for name in ("received", "kernel_drops", "packets")}
    missing = link.sent + spurious - len(times)
    faults = [
        (twice, f"{twice} frames are stored twice"),
        (spurious, f"{spurious} frames are stored that were not sent"),
        (link.altered, f"{link.altered} frames are stored otherwise than they were sent"),
        (found["received"] - link.sent, f"{link.sent} frames were sent, and the books say {found['received']}"),
        (found["packets"] - len(link.stored), f"{found['packets']} packets by the index, {len(link.stored)} stored"),
        (missing - found["kernel_drops"], f"{missing} frames are missing, and {found['kernel_drops']} are counted"),
        *((not _balances(one), f"epoch {one['epoch']}: {one['verdict']} {one['finding']}") for one in link.epochs),
    ]
    return [f"{link.name}: {text}" for wrong, text in faults if wrong]


def _sum(epochs: Iterable[Mapping[str, Any]], name: str) -> int:
    return sum(one["finding"][name] or 0 for one in epochs)


def _balances(epoch: Mapping[str, Any]) -> bool:
    return bool(epoch["verdict"] == "balanced")


def vacuous(planned: Counter[str], struck: Counter[str], felt: Mapping[str, int]) -> list[str]:
    """What did not happen and should have. `felt`: how often each trace that faults leave was found."""
    never = [f"no fault of the kind {kind!r} struck" for kind in planned if not struck[kind]]
    few = struck.total() < STRUCK * planned.total()
    share = [f"only {struck.total()} of {planned.total()} faults struck"] if few else []
    return never + share + [f"nothing shows that {trace}" for trace, count in felt.items() if not count]
