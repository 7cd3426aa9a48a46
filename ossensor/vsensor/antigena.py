"""The vSensor's half of the exchange about Antigena: a report comes in, the orders in force go out.

Invariant: what goes out is what the book's file holds at the vSensor's time of the reply; no order goes out after its
end. A report is a full state, so the latest of each sensor is all that needs keeping, and in memory: after a restart
the next one is a period away.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, NamedTuple

from ossensor.transport.orders import Orders, Report

from .bookfile import BookFile
from .orderbook import Book
from .trail import Trail

# Sensors come and go, each Fargate task is one. A report is usually some hundred bytes, but may have a megabyte, and as
# objects take 4 to 18 times that [M]: whoever has a sensor's key must not fill our memory with names that he makes up.
_REMEMBERED: Final = 4096
_REMEMBERED_BYTES: Final = 16 << 20


class Reported(NamedTuple):
    """The latest report of a sensor, and when it came, by the vSensor's clock."""

    report: Report
    time_s: int
    size_bytes: int = 0


class Antigena:
    """For one event loop, which goes on while the disk is at it."""

    def __init__(self, file: BookFile, trail: Trail, clock: Callable[[], float]) -> None:
        self._file = file
        self._trail = trail
        self._clock = clock
        # One, and of its own: what waits for the disk here keeps no batch from being opened.
        self._thread = ThreadPoolExecutor(1, "antigena")
        self.reports: OrderedDict[str, Reported] = OrderedDict()  # by sensor, the latest heard of last
        self._held_bytes = 0

    def close(self) -> None:
        """Returns when what is under way is done. Book and trail are their owner's to close."""
        self._thread.shutdown()

    async def exchange(self, sensor: str, report: Report, size_bytes: int) -> Orders:
        """Keeps the report, which was sent in so many bytes. The orders for this sensor.

        Raises sqlite3.Error when the book cannot be brought up to date.
        """
        before = self.reports.get(sensor)
        self._keep(sensor, Reported(report, int(self._clock()), size_bytes))
        if news := differences(None if before is None else before.report, report):
            await self.note("report", sensor=sensor, version=report.version, **news)
        book = await self.current()
        return Orders(book.id, book.version, tuple(action.to_json() for action in book.for_sensor(sensor)))

    def _keep(self, sensor: str, reported: Reported) -> None:
        """The others that fit beside it, the latest heard of, stay."""
        if (before := self.reports.pop(sensor, None)) is not None:
            self._held_bytes -= before.size_bytes
        self.reports[sensor] = reported
        self._held_bytes += reported.size_bytes
        while len(self.reports) > _REMEMBERED or self._held_bytes > _REMEMBERED_BYTES:
            _, forgotten = self.reports.popitem(last=False)
            self._held_bytes -= forgotten.size_bytes

    async def current(self) -> Book:
        """The book less what has expired by now. Raises sqlite3.Error."""
        now_s = self._clock()
        if now_s < self._file.book.first_expiry_s:
            return self._file.book
        # Durable, too: a version that a sensor has seen must not come again, with other orders, after a crash.
        gone: list[str] = []

        def without(book: Book) -> Book:
            after = book.expired(now_s)
            gone.extend(sorted(book.orders.keys() - after.orders.keys()))
            return after

        book = await self.change(without)
        if gone:
            await self.note("expired", version=book.version, ids=gone)
        return book

    async def introduced(self, sensor: str, family: str) -> None:
        """Orders to a task family are this sensor's from now on, when it is of that family. Raises sqlite3.Error."""
        if self._file.book.families.get(sensor, "") != family:
            await self.change(lambda book: book.introduced(sensor, family))

    async def change(self, edit: Callable[[Book], Book]) -> Book:
        """As BookFile.change, `edit` in the other thread."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._file.change, edit)

    async def note(self, event: str, **members: Any) -> None:
        """As Trail.note."""
        await asyncio.get_running_loop().run_in_executor(self._thread, partial(self._trail.note, event, **members))


def differences(before: Report | None, now: Report) -> dict[str, Any]:
    """What a report says that the one before did not, for the trail; empty when that is nothing."""
    if before is None or before.book != now.book:
        before = Report(mode="")
    actions = {
        name: changed
        for name, counts in now.actions.items()
        if (changed := {n: v for n, v in counts.items() if before.actions.get(name, {}).get(n, 0) != v})
    }
    refused = {name: why for name, why in now.refused.items() if before.refused.get(name) != why}
    found: dict[str, Any] = {"actions": actions, "refused": refused}
    for member in ("mode", "trouble"):
        if getattr(before, member) != getattr(now, member):
            found[member] = getattr(now, member)
    return {name: value for name, value in found.items() if value or name in {"mode", "trouble"}}
