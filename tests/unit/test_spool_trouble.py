"""What is said of a disk that took nothing: for as long as it matters, and never by silence."""

from __future__ import annotations

import errno
import os
import queue
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from ossensor.transport.protocol import BatchId, Stream
from ossensor.transport.window import Window
from ossensor.workers.lines import Holdings, InSlot, Item, Line, stream_of
from ossensor.workers.overflow import Overflow
from ossensor.workers.spool import Written


@pytest.mark.parametrize("number,stays", [(errno.ENOSPC, ""), (errno.EIO, "Input/output error")])
def test_a_full_disk_is_trouble_until_nothing_has_to_go_there(
    line: Line, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, stays: str
) -> None:
    plan: Any = SimpleNamespace(spool_folder=str(tmp_path), spool_bytes=1 << 20, compression=None)
    window: Window[Item] = Window(4)
    reports: queue.SimpleQueue[Written] = queue.SimpleQueue()
    overflow = Overflow(plan, Holdings(window, {0: line}), MagicMock(), reports.put)
    for batch in line.consumer.listen():
        section = line.consumer.section(batch)
        assert section is not None
        name = BatchId(Stream("sensor-1", batch.epoch, "eth0"), batch.sequence)
        line.in_slots[name] = item = InSlot(0, batch, section)
        window.add(stream_of(name), batch.sequence, item)

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    overflow.relieve(rescue=False)
    overflow.written(reports.get(timeout=120))
    overflow.relieve(rescue=False)
    assert overflow.trouble == os.strerror(number)

    name = next(iter(line.in_slots))  # the vSensor is back, and has the first
    line.consumer.settle(line.in_slots.pop(name).batch)
    overflow.relieve(rescue=True)
    assert overflow.trouble == os.strerror(number)  # all has to go there
    overflow.relieve(rescue=False)
    assert overflow.trouble == stays


def test_a_bug_in_the_thread_that_writes_ends_the_process(tmp_path: Path) -> None:
    """It would have been gone without a word, and nothing written any more."""
    script = (
        "import sys, time; from pathlib import Path; from ossensor.workers.spool import Spool\n"
        "Spool(Path(sys.argv[1]), 1, print)._orders.put(None); time.sleep(120)"
    )
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        70,
        "AttributeError: 'NoneType' object has no attribute 'spooled'",
    )
