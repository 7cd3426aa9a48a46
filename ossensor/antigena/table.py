"""The orders in force at this sensor. Pure: the clock is an argument.

Invariant: what is held is what the newest message said, less what was refused. A message holds all orders, so a lost
one is healed by the next; and each order carries its end, so none outlives it, whether or not the vSensor is heard.

Times are the vSensor's. `now_s` is therefore that clock as the sensor knows it: learnt from signed replies, and kept
going by a steady clock while there are none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from .actions import MAX_ACTIONS, Action, Address
from .refusals import Refusal


@dataclass(frozen=True, slots=True)
class Applied:
    """What a message changed: ids."""

    added: frozenset[str]
    removed: frozenset[str]
    refused: Mapping[str, Refusal]


_NOTHING: Final = Applied(frozenset(), frozenset(), MappingProxyType({}))
_NEVER: Final = (float("inf"), float("-inf"))


def _no_objection(_: Action) -> Refusal | None:
    return None


class Table:
    """See the module. `objection` says why an order may not be taken at all (guards.Guards.objection)."""

    def __init__(self, objection: Callable[[Action], Refusal | None] = _no_objection) -> None:
        self._objection = objection
        self.version = -1
        self._orders: dict[str, Action] = {}
        self.refused: Counter[Refusal] = Counter()
        self._set = InForce(())
        self._holds_s = _NEVER  # [from, until): when _set is what holds

    @property
    def orders(self) -> tuple[Action, ...]:
        """Those that were taken, in force or not yet or no more."""
        return tuple(self._orders.values())

    def apply(self, version: int, actions: Iterable[Action], now_s: float) -> Applied:
        """Takes the orders of a message in place of those before.

        An older message came late, or is played back: its orders are refused. The same version again is the same
        message, and changes nothing.
        """
        if version == self.version:
            return _NOTHING
        given = list(actions)
        if version < self.version:
            self.refused[Refusal.OLDER_VERSION] += len(given)
            return Applied(frozenset(), frozenset(), {action.id: Refusal.OLDER_VERSION for action in given})
        before = self._orders
        self.version, self._orders = version, {}
        refused: dict[str, Refusal] = {}
        # Those that were in force before keep their place: a flood of new orders ends no old one.
        for action in sorted(given, key=lambda one: one.id not in before):
            if reason := self._reason(action, now_s):
                self.refused[reason] += 1
                refused.setdefault(action.id, reason)
            else:
                self._orders[action.id] = action
        self._holds_s = _NEVER
        return Applied(
            frozenset(i for i, action in self._orders.items() if before.get(i) != action),
            frozenset(before.keys() - self._orders.keys()),
            refused,
        )

    def _reason(self, action: Action, now_s: float) -> Refusal | None:
        if action.id in self._orders:
            return Refusal.DUPLICATE
        if action.expires_s <= now_s:
            return Refusal.EXPIRED
        if reason := self._objection(action):
            return reason
        return Refusal.TOO_MANY if len(self._orders) >= MAX_ACTIONS else None

    def in_force(self, now_s: float) -> InForce:
        """The orders that hold now: the same object until that changes."""
        since_s, until_s = self._holds_s
        if not since_s <= now_s < until_s:  # a clock that was set back starts over, too
            holding = tuple(action for action in self._orders.values() if action.in_force(now_s))
            if holding != self._set.actions:
                self._set = InForce(holding)
            self._holds_s = (now_s, self.next_change_s(now_s))
        return self._set

    def next_change_s(self, now_s: float) -> float:
        """When the next order begins or ends; infinity when none does."""
        times = (time_s for action in self._orders.values() for time_s in (action.start_s, action.expires_s))
        return min((time_s for time_s in times if time_s > now_s), default=float("inf"))


class InForce:
    """Orders that hold at one time, found by the addresses of a packet: most name a host."""

    def __init__(self, actions: tuple[Action, ...]) -> None:
        self.actions = actions
        self._by_host: dict[Address, list[tuple[int, Action]]] = {}
        self._wide: list[tuple[int, Action]] = []
        for place, action in enumerate(actions):
            networks = [side.network for side in (action.source, action.destination) if side.network is not None]
            host = next((network.network_address for network in networks if network.num_addresses == 1), None)
            if host is None:
                self._wide.append((place, action))
            else:
                self._by_host.setdefault(host, []).append((place, action))

    def candidates(self, one: Address, other: Address) -> list[Action]:
        """Orders that may concern a connection between the two, in the table's order, each once."""
        found = {*self._by_host.get(one, ()), *self._by_host.get(other, ()), *self._wide}
        return [action for _, action in sorted(found, key=lambda entry: entry[0])]
