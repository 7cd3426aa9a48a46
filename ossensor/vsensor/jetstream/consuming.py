"""The life of a process that writes a stream's batches into a store."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine
from contextlib import closing
from dataclasses import dataclass

from ossensor.errors import ConfigurationError, Exit
from ossensor.vsensor.housekeeping import Housekeeping
from ossensor.vsensor.index import Index
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.report import Report
from ossensor.vsensor.retention import Keeping
from ossensor.vsensor.server import REPORT_S, every, stop_on_signals
from ossensor.vsensor.store import Store

from .access import Access
from .consumer import Consumer
from .link import Link


@dataclass(frozen=True, slots=True)
class Settings:
    """What is consumed, and where to."""

    layout: Layout
    access: Access
    name: str
    partitions: range
    keeping: Keeping
    durable: bool


def run(settings: Settings, report: Report) -> int:
    """The exit code of a process that was asked to stop: 0, everything in hand stored and acknowledged.

    Raises OSError, sqlite3.Error or ConfigurationError: the store cannot be opened, or others consume the same.
    """
    layout, keeping = settings.layout, settings.keeping
    store = Store(
        layout,
        durable=settings.durable,
        rotate_bytes=keeping.rotate_bytes,
        rotate_s=keeping.rotate_s,
        limits=keeping.limits,
    )
    report.recovered(store.recovery)
    store.start()
    tally: Counter[str] = Counter()
    try:
        # A reader of its own, as in the vSensor.
        with closing(Index(layout.index, durable=settings.durable)) as index:
            asyncio.run(_consume(settings, store, index, report, tally))
    finally:
        store.close()
    report.progress(store.totals(), tally)
    return Exit.DRAINED


async def _consume(settings: Settings, store: Store, index: Index, report: Report, tally: Counter[str]) -> None:
    stop = asyncio.Event()
    stop_on_signals(stop.set)
    faults: list[str] = []
    link = Link(settings.access, None, report.nats)
    house = Housekeeping(store, settings.layout.root, report, compress=settings.keeping.compress)

    async def consume(partition: int) -> None:
        try:
            await Consumer(link, store, index, settings.name, partition, tally).run(stop.is_set)
        except ConfigurationError as e:
            faults.extend(e.faults)
            stop.set()

    async with asyncio.TaskGroup() as tasks:
        works: list[Coroutine[None, None, None]] = [
            link.run(_nothing_to_do),
            every(REPORT_S, lambda: report.progress(store.totals(), tally)),
            house.run(),
        ]
        beside = [tasks.create_task(work) for work in works]
        async with asyncio.TaskGroup() as consumers:
            for partition in settings.partitions:
                consumers.create_task(consume(partition))
        for task in beside:
            task.cancel()
    if faults:
        raise ConfigurationError(faults)


async def _nothing_to_do() -> None:
    """At each connection: consumers subscribe by themselves."""
