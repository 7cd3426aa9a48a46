"""A file of the spool that cannot be read for want of a descriptor or of memory: its batch waits, and is not lost."""

from __future__ import annotations

import errno
import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from ossensor.spoolfile import Spooled
from ossensor.transport.client import Job, Result
from ossensor.transport.compression import Policy
from ossensor.transport.protocol import Account, BatchId, Outcome, Stream
from ossensor.transport.window import Window
from ossensor.workers import delivery as delivery_module
from ossensor.workers.delivery import Delivery
from ossensor.workers.lines import Holdings, Item
from ossensor.workers.overflow import Overflow
from ossensor.workers.senders import Senders
from ossensor.workers.spool import Order, Spool, Written

SPOOLED = Spooled(BatchId(Stream("sensor-1", "0123456789abcdef" * 2, "eth0"), 5), 3, 1000)
SECTION = bytes(range(256))


class Client:
    """Whose vSensor stores all."""

    def __init__(self) -> None:
        self.sent: list[Job] = []

    def send(self, job: Job) -> Result:
        self.sent.append(job)
        return Result(job, "201", 0.0, Outcome.STORED)

    def close(self) -> None: ...


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_file_that_cannot_be_read_now_is_read_and_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    written: queue.SimpleQueue[Written] = queue.SimpleQueue()
    Spool(tmp_path, 1 << 20, written.put).order(Order(SPOOLED, memoryview(SECTION), Account()))
    assert written.get(timeout=120).trouble == ""

    now = SimpleNamespace(s=1000.0)
    monkeypatch.setattr(delivery_module, "time", SimpleNamespace(monotonic=lambda: now.s))
    plan: Any = SimpleNamespace(spool_folder=str(tmp_path), spool_bytes=1 << 20, compression=Policy.parse("off"))
    window: Window[Item] = Window(4)
    holdings = Holdings(window)
    overflow = Overflow(plan, holdings, MagicMock(), MagicMock())
    news: queue.SimpleQueue[Any] = queue.SimpleQueue()
    client: Any = Client()
    senders = Senders([client], overflow.spool.read, news.put)
    route = MagicMock()
    route.endpoint.concurrency.return_value = 4
    route.stamp.return_value = SimpleNamespace(generation=0, address="192.0.2.1")
    delivery = Delivery(plan, holdings, route, overflow, senders, MagicMock(), MagicMock())

    def fail(*_: Any, **__: Any) -> bytes:
        raise OSError(number, "none to be had")

    with monkeypatch.context() as short:
        short.setattr(Path, "read_bytes", fail)
        delivery.send_due()
        delivery.unsent(news.get(timeout=120))
    delivery.send_due()  # not yet

    assert (window.in_flight, len(window), window.due_s(), client.sent) == (0, 1, 1005.0, [])
    assert [path.name for path in tmp_path.iterdir()] == [SPOOLED.name]

    now.s = 1005.0
    delivery.send_due()
    delivery.conclude(news.get(timeout=120))
    totals = holdings.totals

    assert [bytes(job.section) for job in client.sent] == [SECTION]
    assert (totals.unspooled, totals.spool_lost, senders.oldest_s, list(tmp_path.iterdir())) == (3, 0, None, [])
