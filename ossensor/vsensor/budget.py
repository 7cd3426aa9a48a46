"""A bound on the bytes of bodies that are in memory at one time, over all requests.

Invariant: the sum of all loans never exceeds the limit, and a closed loan owes nothing.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Budget:
    """Lends bytes. For one thread: the event loop's."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.lent_bytes = 0

    def loan(self) -> Loan:
        return Loan(self)

    def take(self, amount_bytes: int) -> bool:
        """True when `amount_bytes` more are lent now; False, and nothing is, when they would pass the limit."""
        if self.lent_bytes + amount_bytes > self._limit_bytes:
            return False
        self.lent_bytes += amount_bytes
        return True


class Loan:
    """What one request holds; given back whole when the block ends."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._held_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._budget.lent_bytes -= self._held_bytes
        self._held_bytes = 0

    def grow(self, amount_bytes: int) -> bool:
        """True when the loan is larger by `amount_bytes`; False when the budget does not allow it."""
        if not self._budget.take(amount_bytes):
            return False
        self._held_bytes += amount_bytes
        return True
