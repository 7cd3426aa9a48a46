"""What the operator ordered, and of whom: an immutable value, and the changes that make the next one. Pure.

Invariant: the version rises with every change of what any sensor is ordered, and with nothing else; and no sensor is
ordered more than MAX_ACTIONS, whatever family it will turn out to belong to. An order too many is refused to who gives
it: a sensor that had to leave some out would choose which connections live.

Immutable, so that a reader never waits for the disk: bookfile.py makes the next book durable, and then puts it in the
place of this one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from ossensor.antigena.actions import MAX_ACTIONS, MAX_DURATION_S, Action
from ossensor.errors import TheirsError
from ossensor.transport.protocol import sensor_name_ok

from .layout import RESERVED_SENSORS

# Every change walks through the book, and a list of all of it is some megabytes.
MAX_ORDERS: Final = 8192
_FAMILY_CHARACTERS_MAX: Final = 255  # of an ECS task definition's family


class RejectedError(TheirsError):
    """An order that this book does not take. Carries every fault found, one line each."""

    def __init__(self, *faults: str) -> None:
        super().__init__("; ".join(faults))
        self.faults = list(faults)


class ConflictError(RejectedError):
    """It would be good in another book: there is no room, or the id is taken."""


class UnknownError(RejectedError):
    """No order in force has this id."""


class Target(NamedTuple):
    """Whom an order is for: one sensor, every sensor of an ECS task family, or all of them (without a name)."""

    kind: Literal["sensor", "family", "all"]
    name: str = ""

    def to_json(self) -> dict[str, Any]:
        return {self.kind: self.name or True}

    @classmethod
    def parse(cls, given: object) -> Target:
        """The target that a decoded JSON object of exactly one member describes. Raises RejectedError."""
        match given:
            case {"all": True, **rest} if not rest:
                return cls("all")
            case {"sensor": str(name), **rest} if not rest:
                if sensor_name_ok(name) and name not in RESERVED_SENSORS:
                    return cls("sensor", name)
                raise RejectedError("target.sensor: not a sensor's name")
            case {"family": str(name), **rest} if not rest:
                if 0 < len(name) <= _FAMILY_CHARACTERS_MAX and name.isprintable():
                    return cls("family", name)
                raise RejectedError(f"target.family: not a printable name of 1 to {_FAMILY_CHARACTERS_MAX} characters")
        raise RejectedError('target: not one of {"sensor": NAME}, {"family": NAME}, {"all": true}')


EVERYBODY: Final = Target("all")


class Entry(NamedTuple):
    """An action, and whom it is for."""

    target: Target
    action: Action


@dataclass(frozen=True)
class Book:
    """All orders that have not expired, and the family of each sensor that has told one."""

    id: str  # 32 hexadecimal digits
    version: int = 0
    orders: Mapping[str, Entry] = field(default_factory=dict)  # by the action's id
    families: Mapping[str, str] = field(default_factory=dict)  # by sensor; as many as the store has folders

    @cached_property
    def _by_target(self) -> Mapping[Target, tuple[Action, ...]]:
        found: dict[Target, tuple[Action, ...]] = {}
        for target, action in self.orders.values():
            found[target] = (*found.get(target, ()), action)
        return found

    @cached_property
    def first_expiry_s(self) -> float:
        """From when on `expired` has something to take out."""
        return min((order.action.expires_s for order in self.orders.values()), default=float("inf"))

    def for_sensor(self, sensor: str) -> tuple[Action, ...]:
        """What this sensor is ordered, the most particular first."""
        own, all_ = self._by_target.get(Target("sensor", sensor), ()), self._by_target.get(EVERYBODY, ())
        family = self.families.get(sensor)
        return own + (self._by_target.get(Target("family", family), ()) if family else ()) + all_

    def placed(self, order: Entry, now_s: float) -> Book:
        """With this order. Raises RejectedError for one of another time, ConflictError for one too many."""
        action = order.action
        if action.id in self.orders:
            raise ConflictError(f"id: {action.id} is in force already")
        if faults := _faults_in_time(action, now_s):
            raise RejectedError(*faults)
        if len(self.orders) >= MAX_ORDERS:
            raise ConflictError(f"there are {MAX_ORDERS} orders in force already")
        orders = {**self.orders, action.id: order}
        _check_room(orders)
        return self._next(orders=orders)

    def cleared(self, action_id: str) -> Book:
        """Without this order. Raises UnknownError."""
        self._find(action_id)
        return self._next(orders={name: order for name, order in self.orders.items() if name != action_id})

    def extended(self, action_id: str, duration_s: int, now_s: float) -> Book:
        """With this order holding so much longer than it did. Raises UnknownError or RejectedError."""
        target, action = self._find(action_id)
        expires_s = action.expires_s + duration_s
        # A length is bounded, the number of extensions is not; so what is long past of an order is forgotten.
        start_s = max(action.start_s, expires_s - MAX_DURATION_S)
        if duration_s < 1 or start_s > max(now_s, action.start_s):
            raise RejectedError(f"duration_s: it would end more than {MAX_DURATION_S} seconds from now, or never begin")
        action = replace(action, start_s=start_s, expires_s=expires_s)
        return self._next(orders={**self.orders, action_id: Entry(target, action)})

    def expired(self, now_s: float) -> Book:
        """Without what has ended."""
        if now_s < self.first_expiry_s:
            return self
        return self._next(orders={n: order for n, order in self.orders.items() if now_s < order.action.expires_s})

    def introduced(self, sensor: str, family: str) -> Book:
        """With this sensor in this task family; in none when that is empty."""
        if self.families.get(sensor, "") == family:
            return self
        families = {name: known for name, known in self.families.items() if name != sensor}
        if family:
            families[sensor] = family
        # A sensor may take an equal version for the same orders: it must see that these are later ones.
        other = self._next(families=families)
        return replace(other, version=self.version) if other.for_sensor(sensor) == self.for_sensor(sensor) else other

    def _find(self, action_id: str) -> Entry:
        if action_id not in self.orders:
            raise UnknownError(f"no order in force has the id {action_id[:64]!r}")
        return self.orders[action_id]

    def _next(self, **changes: Any) -> Book:
        return replace(self, version=self.version + 1, **changes)


def _faults_in_time(action: Action, now_s: float) -> list[str]:
    faults = []
    if action.expires_s <= now_s:
        faults.append("expires_s: in the past")
    if action.start_s > now_s + MAX_DURATION_S:
        faults.append(f"start_s: more than {MAX_DURATION_S} seconds from now")
    return faults


def _check_room(orders: Mapping[str, Entry]) -> None:
    """Raises ConflictError when some sensor could be ordered more than MAX_ACTIONS.

    The busiest sensor is counted as one of the busiest family, which it may tell us any minute that it is.
    """
    counts = Counter(order.target for order in orders.values())
    busiest = {kind: max((n for target, n in counts.items() if target.kind == kind), default=0) for kind in _KINDS}
    if (most := sum(busiest.values())) > MAX_ACTIONS:
        raise ConflictError(
            f"a sensor would have {most} orders ({busiest['sensor']} of its own, {busiest['family']} of its family's,"
            f" {busiest['all']} of everybody's), where {MAX_ACTIONS} are allowed"
        )


_KINDS: Final = ("sensor", "family", "all")
