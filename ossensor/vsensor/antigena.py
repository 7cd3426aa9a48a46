"""The vSensor's half of the exchange about Antigena: a report comes in, the orders in force go out.

Invariant: what goes out is what the book's file holds at the vSensor's time of the reply; no order goes out after its
end. A report is a full state, so the latest of each sensor is all that needs keeping, and in memory: after a restart
the next one is a period away.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, NamedTuple

from ossensor.transport.orders import Orders, Report

from .bookfile import BookFile
from .orderbook import Book

# Sensors come and go, each Fargate task is one. A report has at most a megabyte, and usually less than a kilobyte.
_REMEMBERED: Final = 4096


class Reported(NamedTuple):
    """The latest report of a sensor, and when it came, by the vSensor's clock."""

    report: Report
    time_s: int


class Antigena:
    """For one event loop."""

    def __init__(self, file: BookFile, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock
        self.reports: OrderedDict[str, Reported] = OrderedDict()  # by sensor, the latest heard of last

    async def exchange(self, sensor: str, report: Report) -> Orders:
        """Keeps the report. The orders for this sensor. Raises sqlite3.Error when the book cannot be brought up."""
        self.reports[sensor] = Reported(report, int(self._clock()))
        self.reports.move_to_end(sensor)
        if len(self.reports) > _REMEMBERED:
            self.reports.popitem(last=False)
        book = await self.current()
        return Orders(book.id, book.version, tuple(action.to_json() for action in book.for_sensor(sensor)))

    async def current(self) -> Book:
        """The book less what has expired by now. Raises sqlite3.Error."""
        now_s = self._clock()
        if now_s < self._file.book.first_expiry_s:
            return self._file.book
        # Durable, too: a version that a sensor has seen must not come again, with other orders, after a crash.
        return await self.change(lambda book: book.expired(now_s))

    async def introduced(self, sensor: str, family: str) -> None:
        """Orders to a task family are this sensor's from now on, when it is of that family. Raises sqlite3.Error."""
        if self._file.book.families.get(sensor, "") != family:
            await self.change(lambda book: book.introduced(sensor, family))

    async def change(self, edit: Callable[[Book], Book]) -> Book:
        """As BookFile.change; the loop goes on while the disk is at it."""
        return await asyncio.to_thread(self._file.change, edit)
