"""The uploader's drain is over while the spool's thread stands between a file's name and saying so.

The next life sends that file, so its packets are spooled, and not lost with the slot as well.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
from held_line import PACKETS

from ossensor.errors import Exit
from ossensor.transport.window import Window
from ossensor.workers import spool as spool_module
from ossensor.workers import uploader as uploader_module
from ossensor.workers.inbox import Inbox
from ossensor.workers.lines import Holdings, Line
from ossensor.workers.overflow import Overflow
from ossensor.workers.uploader import Uploader

HANGS_S = 90.0


class Disk:
    """The folder's flush is what a file's name waits for: the first, which Spool.found makes, passes."""

    def __init__(self) -> None:
        self.calls = 0
        self.named, self.may_flush = threading.Event(), threading.Event()

    def sync_folder(self, _: Path) -> None:
        self.calls += 1
        if self.calls > 1:
            self.named.set()
            self.may_flush.wait(HANGS_S)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk()
    monkeypatch.setattr(spool_module, "sync_folder", made.sync_folder)
    yield made
    made.may_flush.set()


def _uploader(line: Line, folder: Path) -> Uploader:
    """As much of one as its last turn touches."""
    made = Uploader.__new__(Uploader)
    made._inbox = Inbox()
    holdings = Holdings(Window(4), {0: line})
    made._lines, made._window = holdings.lines, holdings.window
    plan: Any = SimpleNamespace(
        spool_folder=str(folder), spool_bytes=1 << 20, compression=None, to=SimpleNamespace(sensor="sensor-1")
    )
    made._plan, made._scheduler = plan, None
    made._drain = MagicMock(rescuing=True)
    for part in ("_channel", "_heartbeat", "_endpoint", "_route", "_delivery", "_liaison", "_self_report", "_totals"):
        setattr(made, part, MagicMock())
    made._senders, made._stats_at_s = MagicMock(), float("inf")
    made._overflow = Overflow(plan, holdings, MagicMock(), made._report)
    return made


@pytest.mark.parametrize("hangs", [False, True])
def test_a_file_that_has_its_name_when_the_drain_is_over_is_not_lost_too(
    line: Line, disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, hangs: bool
) -> None:
    uploader = _uploader(line, tmp_path)
    withdraw = uploader._overflow.spool.withdraw  # type: ignore[union-attr]

    def over(*_: Any, **__: Any) -> bool:
        assert disk.named.wait(HANGS_S)
        return True

    def withdrawn() -> None:
        withdraw()
        if not hangs:
            disk.may_flush.set()

    monkeypatch.setattr(uploader._overflow.spool, "withdraw", withdrawn)  # type: ignore[union-attr]
    monkeypatch.setattr(uploader._drain, "over", over)
    monkeypatch.setattr(uploader, "_wait", lambda _: None)
    monkeypatch.setattr(uploader_module, "_LAST_FILE_S", 0.0 if hangs else HANGS_S)
    assert uploader.run(MagicMock()) is Exit.DRAINED

    there = [path for path in tmp_path.iterdir() if not path.name.endswith(".part")]
    spooled, in_slots = line.consumer.region.spooled(), line.consumer.region.in_flight()
    assert (len(there), spooled, in_slots) == (1, 0 if hangs else PACKETS, (3 if hangs else 2) * PACKETS)
    uploader._inbox.close()
