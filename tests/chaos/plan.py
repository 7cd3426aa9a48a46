"""What is done to the sensor and its vSensor, and when: drawn from a seed. Pure.

Invariant: a plan is a function of its seed and its length, and every kind of fault is in it. Each kind is drawn by a
generator of its own, so that kinds are independent of each other, and adding one moves none of the others.

What is replayed is the plan. At which instruction a fault strikes is the scheduler's to say: a seed that failed once
may have to be run some times.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Final, NamedTuple

LINKS: Final = ("cap0", "cap1", "cap2")


class Kind(NamedTuple):
    """One kind of fault. A lane's faults come one after the other; those of different lanes know nothing of another."""

    lane: str
    every_s: float  # between two of them, on average
    lasts_s: tuple[float, float] = (0.0, 0.0)
    targets: tuple[str, ...] = ("",)


# Long against what a reader needs to notice it, short against what memory and disk hold.
_WHILE: Final = (2.0, 5.0)
_FREEZE: Final = (0.5, 3.0)  # less than the ten seconds after which the supervisor takes it for hung

KINDS: Final = {
    "kill worker": Kind("worker", 2, targets=LINKS),
    "freeze worker": Kind("worker", 15, _FREEZE, LINKS),
    "kill uploader": Kind("uploader", 3),
    "freeze uploader": Kind("uploader", 15, _FREEZE),
    "kill enforcer": Kind("enforcer", 5),
    "freeze enforcer": Kind("enforcer", 15, _FREEZE),
    "kill supervisor": Kind("supervisor", 15),
    "freeze supervisor": Kind("supervisor", 20, _FREEZE),
    "restart sensor": Kind("supervisor", 25),
    "hang": Kind("supervisor", 90, targets=("worker", "uploader", "enforcer")),
    "exclude by SIGHUP": Kind("supervisor", 30, (0.2, 1.0)),
    "change key": Kind("supervisor", 90),
    "kill server": Kind("vsensor", 8),
    "freeze server": Kind("vsensor", 40, _WHILE),
    "kill streamer": Kind("vsensor", 15),
    "kill janitor": Kind("vsensor", 15),
    "kill keeper": Kind("vsensor", 20),
    "vSensor away": Kind("vsensor", 60, _WHILE),
    "black hole": Kind("line", 25, _WHILE),
    "reset": Kind("line", 25, _WHILE),
    "slow line": Kind("line", 25, _WHILE),
    "lossy line": Kind("line", 25, _WHILE),
    "store full": Kind("disk", 20, _WHILE),
    "spool full": Kind("disk", 20, _WHILE),
    "sensor's clock": Kind("clock", 8, targets=("3600", "-3600", "61", "-301", "0")),
    "vSensor's clock": Kind("clock", 8, targets=("3600", "-3600", "61", "-301", "0")),
    "link down": Kind("link", 8, (0.1, 2.0)),
    "link anew": Kind("link", 15, (0.0, 1.0)),
}


@dataclass(frozen=True, order=True)
class Fault:
    """One fault, `at_s` after the load began, or when its lane is free."""

    at_s: float
    kind: str
    lasts_s: float = 0.0
    target: str = ""


def drawn(seed: int, load_s: float) -> list[Fault]:
    """The plan, by time: at least one of each kind, however short the load."""
    return sorted(fault for name, kind in KINDS.items() for fault in _of(name, kind, seed, load_s))


def _of(name: str, kind: Kind, seed: int, load_s: float) -> Iterable[Fault]:
    rng = random.Random(f"{seed} {name}")
    at_s = rng.uniform(0, min(kind.every_s, load_s))
    while at_s <= load_s:
        yield Fault(round(at_s, 3), name, round(rng.uniform(*kind.lasts_s), 3), rng.choice(kind.targets))
        at_s += rng.expovariate(1 / kind.every_s)


def lanes(plan: Iterable[Fault]) -> dict[str, list[Fault]]:
    """What each lane is to do, by time."""
    found: dict[str, list[Fault]] = {}
    for fault in sorted(plan):
        found.setdefault(KINDS[fault.kind].lane, []).append(fault)
    return found


def written(plan: Iterable[Fault]) -> str:
    """A line of JSON for each fault; `read` takes it back."""
    return "".join(json.dumps(asdict(fault)) + "\n" for fault in plan)


def read(text: str) -> list[Fault]:
    """What `written` wrote, also among other lines of a log, and with faults deleted or moved by hand."""
    return sorted(Fault(**json.loads(line)) for line in text.splitlines() if line.startswith('{"at_s"'))
