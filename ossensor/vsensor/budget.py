"""A bound on the bytes of bodies that are in memory at one time, over all requests.

Invariant: the sum of all loans never exceeds the limit, and a closed loan owes nothing. Those who wait for a loan are
served in their order, those before them who hold one already: they need the rest to finish, and then give back all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import NamedTuple, Self


class _Wish(NamedTuple):
    amount_bytes: int
    lent: asyncio.Future[None]


class Budget:
    """Lends bytes. For one thread: the event loop's."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.lent_bytes = 0
        self._waiting: deque[_Wish] = deque()

    def loan(self) -> Loan:
        return Loan(self)

    def take(self, amount_bytes: int) -> bool:
        """True when `amount_bytes` more are lent now; False, and nothing is, when they would pass the limit."""
        if self.lent_bytes + amount_bytes > self.limit_bytes:
            return False
        self.lent_bytes += amount_bytes
        return True

    async def take_in_turn(self, amount_bytes: int, patience_s: float, *, first: bool) -> bool:
        """As `take`, once there is room and nobody waits before; False when there is none within `patience_s`."""
        if (first or not self._waiting) and self.take(amount_bytes):
            return True
        wish = _Wish(amount_bytes, asyncio.get_running_loop().create_future())
        if first:
            self._waiting.appendleft(wish)
        else:
            self._waiting.append(wish)
        try:
            await asyncio.wait([wish.lent], timeout=patience_s)
        except asyncio.CancelledError:
            if wish.lent.done():
                self.give_back(amount_bytes)
            raise
        finally:
            if not wish.lent.done():
                self._waiting.remove(wish)
                self._serve()  # who wanted less, and stood behind
        return wish.lent.done()

    def give_back(self, amount_bytes: int) -> None:
        self.lent_bytes -= amount_bytes
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self.take(self._waiting[0].amount_bytes):
            self._waiting.popleft().lent.set_result(None)


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
        held_bytes, self._held_bytes = self._held_bytes, 0
        self._budget.give_back(held_bytes)

    def grow(self, amount_bytes: int) -> bool:
        """True when the loan is larger by `amount_bytes`; False when the budget does not allow it."""
        if not self._budget.take(amount_bytes):
            return False
        self._held_bytes += amount_bytes
        return True

    async def grow_in_turn(self, amount_bytes: int, patience_s: float) -> bool:
        """As `grow`, but waits for others to give back, unless no wait would help."""
        if self._held_bytes + amount_bytes > self._budget.limit_bytes:
            return False
        if not await self._budget.take_in_turn(amount_bytes, patience_s, first=self._held_bytes > 0):
            return False
        self._held_bytes += amount_bytes
        return True
