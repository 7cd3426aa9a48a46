"""The verdict over one run: what was sent, what is stored, what the books say, as equalities of integers. Pure.

of each link:   sent = stored + counted, each number once, each frame as it was sent     (the sensor's last lines)
of each epoch:  received = kernel drops + stored                                         (`ossensor audit`)
of the run:     every kind of fault struck, and was felt
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

# Of the faults that were planned: a process that another fault has just killed cannot always be killed again.
STRUCK: Final = 0.9
_ARRIVED: Final = frozenset({"received", "delivered", "spooled"})
# What a flood or a stop may cost, or the end of a link while slots and disk are full: its last reader waits for room a
# while, and then what is left is counted. Every other reason would be a loss by a fault that is to cost nothing.
_ALLOWED: Final = _ARRIVED | {"kernel_drops", "shutdown", "interface_gone", "in_flight"}


@dataclass(frozen=True)
class Link:
    """What became of one oracle's frames.

    `epochs`: the audit's objects of this interface; `books`: what the sensor said when it closed each epoch's.
    """

    name: str
    sent: int
    stored: Sequence[int]
    altered: int
    epochs: Sequence[Mapping[str, Any]]
    books: Sequence[Mapping[str, int]]


def wrong_with(link: Link) -> list[str]:
    """Everything about the link's frames that is not as it must be."""
    times = Counter(link.stored)
    twice, spurious = len(link.stored) - len(times), sum(number >= link.sent for number in times)
    received, packets = sum(one["received"] for one in link.books), _packets(link.epochs)
    counted = [sum(count for name, count in one.items() if name not in _ARRIVED) for one in link.books]
    missing = link.sent + spurious - len(times)
    # What a stop could not deliver, the vSensor never hears of: it is in the sensor's last line alone.
    unfinished = [one for one in link.epochs if one["verdict"] == "open"]
    may_be = sum(one["received"] > one["kernel_drops"] + one["delivered"] + one.get("spooled", 0) for one in link.books)
    lost, left = sum(one["lost"] for one in link.epochs), sum(one.get("shutdown", 0) for one in link.books)
    refused = {name: count for one in link.books for name, count in one.items() if name not in _ALLOWED and count}
    faults = [
        (twice, f"{twice} frames are stored twice"),
        (spurious, f"{spurious} frames are stored that were not sent"),
        (link.altered, f"{link.altered} frames are stored otherwise than they were sent"),
        (received != link.sent, f"{link.sent} frames were sent, and the books say {received}"),
        (packets != len(link.stored), f"{packets} packets by the index, {len(link.stored)} stored"),
        (missing != sum(counted), f"{missing} frames are missing, and {sum(counted)} are counted"),
        (lost > left, f"{lost} packets are in sequences that never came, and stops left {left}"),
        (refused, f"given up: {refused}"),
        (len(unfinished) > may_be, f"{len(unfinished)} epochs are open, and {may_be} were left so"),
        *((_is_wrong(one), f"epoch {one['epoch']}: {one['verdict']} {one['finding']}") for one in link.epochs),
    ]
    return [f"{link.name}: {text}" for wrong, text in faults if wrong]


def _packets(epochs: Iterable[Mapping[str, Any]]) -> int:
    return sum(one["finding"]["packets"] for one in epochs)


def _is_wrong(epoch: Mapping[str, Any]) -> bool:
    return bool(epoch["finding"]["faults"])


def vacuous(planned: Counter[str], struck: Counter[str], felt: Mapping[str, int]) -> list[str]:
    """What did not happen and should have. `felt`: how often each trace that faults leave was found."""
    never = [f"no fault of the kind {kind!r} struck" for kind in planned if not struck[kind]]
    few = struck.total() < STRUCK * planned.total()
    share = [f"only {struck.total()} of {planned.total()} faults struck"] if few else []
    return never + share + [f"nothing shows that {trace}" for trace, count in felt.items() if not count]
