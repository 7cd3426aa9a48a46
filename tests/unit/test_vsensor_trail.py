"""The audit trail: every line whole and alone, whatever broke off before it; what is lost is counted."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ossensor.vsensor.trail import Trail


def read(path: Path) -> list[dict[str, Any] | str]:
    """Each line, decoded; as it is when it broke off."""
    found: list[dict[str, Any] | str] = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            found.append(line)
    return found


@contextmanager
def room_for(size_bytes: int) -> Iterator[None]:
    """A limit on a file's size stands for a full disk: the kernel writes what fits, and then nothing."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


TIME = {"time": "2026-11-18T11:06:40Z"}


def test_lines_are_appended_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    for n in range(2):
        with closing(Trail(path, lambda: 1_795_000_000.9)) as trail:
            trail.record("order", n=n)
            trail.note("report", sensor="s")

    report = {**TIME, "event": "report", "sensor": "s"}
    assert read(path) == [{**TIME, "event": "order", "n": 0}, report, {**TIME, "event": "order", "n": 1}, report]


@pytest.mark.parametrize("put_back", [False, True])
def test_a_file_that_was_moved_away_gets_no_line_any_more(tmp_path: Path, *, put_back: bool) -> None:
    """As logrotate does it, which removes it some day."""
    path, aside = tmp_path / "trail", tmp_path / "trail.1"
    with closing(Trail(path, lambda: 1_795_000_000.0)) as trail:
        trail.record("order")
        path.rename(aside)
        if put_back:  # its "create"
            path.touch(0o600)
        trail.record("clear")
        trail.note("expired")

    assert read(aside) == [{**TIME, "event": "order"}]
    assert read(path) == [{**TIME, "event": "clear"}, {**TIME, "event": "expired"}]
    assert path.stat().st_mode & 0o777 == 0o600


def test_on_a_full_disk_an_order_fails_and_notes_are_counted_and_no_line_is_mixed(tmp_path: Path) -> None:
    path = tmp_path / "trail"
    with closing(Trail(path, lambda: 1_795_000_000.0)) as trail:
        trail.record("order")
        with room_for(path.stat().st_size + 10):
            with pytest.raises(OSError, match="No space left"):
                trail.record("order", text="the one that broke off")
            for _ in range(3):
                trail.note("report")
        trail.note("report", n=1)
        trail.record("clear")

    first, torn, *rest = read(path)
    assert (first, torn) == ({**TIME, "event": "order"}, json.dumps({**TIME})[:10])
    assert rest == [{**TIME, "event": "report", "n": 1, "lost_before": 3}, {**TIME, "event": "clear"}]


def test_an_order_is_flushed_and_a_note_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    with closing(Trail(tmp_path / "trail", lambda: 0.0)) as trail:
        monkeypatch.setattr(os, "fsync", flushed.append)
        trail.note("report")
        assert flushed == []
        trail.record("order")
        assert flushed == [trail._fd]
