"""G2: a day, as the batches that it has: what every process holds is the same at its end; counts only ever rise.

A day has 86,400 batches of a second; here they are of 10 ms. What comes by the clock (a proof each minute) comes less
often than in a day. The 32 bits of the kernel's counters: tests/unit/test_kernel_counts.py.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
import time
from collections.abc import Callable
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from harness import proc
from harness.programs import UPLOADER, Program, Sensor
from harness.world import World

_LONG = bool(os.environ.get("OSSENSOR_CHAOS"))
pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(2400 if _LONG else 300)]

BATCHES = 86_400 if _LONG else 500
WARM = 10_000 if _LONG else 200
RESTARTS = 100 if _LONG else 3
LINKS = ("cap0", "cap1", "cap2", "cap3") if _LONG else ("cap0", "cap1")
PER_SECOND = 400  # of each link: a few frames a batch
CHANGES = {"OSSENSOR_BATCH_MS": "10", "OSSENSOR_BUFFER_MB": "8"}
GROWTH = 0.02 if _LONG else 0.1  # of a process's private memory, which a young one still makes its own, page by page
AT_WORK = 2  # a connection, a thread, that happens to be there; one of each restart would be more
_LOOKS, _APART_S = 10, 0.05
_ASK_EVERY_S = 1.0 if _LONG else 0.2
_ASK = """
import socket
with socket.socket(socket.AF_UNIX) as s:
    s.connect("\\0ossensor")
    print(b"".join(iter(lambda: s.recv(65536), b"")).decode())
"""


class Held(NamedTuple):
    """By one process. The least of several looks: what is let go of again is no leak, what leaks raises the least."""

    private_kib: int
    descriptors: int
    threads: int


def _now(pid: int) -> Held:
    pages = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = sum(int(found) for found in re.findall(r"^Private_\w+:\s+(\d+) kB", pages, re.MULTILINE))
    return Held(kib, *(len(list(Path(f"/proc/{pid}/{what}").iterdir())) for what in ("fd", "task")))


def _held(*programs: Program) -> dict[int, Held]:
    pids = [pid for program in programs for pid in proc.tree(program.pid)]
    looks: dict[int, list[Held]] = {pid: [] for pid in pids}
    for _ in range(_LOOKS):
        for pid in pids:
            looks[pid].append(_now(pid))
        time.sleep(_APART_S)
    return {pid: Held(*map(min, zip(*of_one, strict=True))) for pid, of_one in looks.items()}


def _batches(world: World) -> int:
    with closing(sqlite3.connect(f"file:{world.store}/index.sqlite?mode=ro", uri=True)) as index:
        (count,) = index.execute("SELECT count(*) FROM batches").fetchone()
    return int(count)


def _counts(world: World) -> dict[str, int]:
    """What the sensor counts, of all interfaces."""
    document: dict[str, Any] = json.loads(world.sensor.run(sys.executable, "-c", _ASK))
    named = ("received", "delivered", "kernel_drops")
    return {f"{one['name']} {count}": one[count] for one in document["interfaces"] for count in named}


def _until(world: World, more: int, watch: Callable[[], None]) -> None:
    """Returns when so many more batches are stored; `watch` looks meanwhile."""
    target = _batches(world) + more
    while _batches(world) < target:
        watch()
        time.sleep(_ASK_EVERY_S)


def _restarted(sensor: Sensor) -> None:
    for _ in range(RESTARTS):
        sensor.kill(UPLOADER)


def _grown(before: dict[int, Held], after: dict[int, Held]) -> list[str]:
    """The processes of both that hold more than before, by more than what is no slope."""
    return [
        f"{proc.comm(pid)}: {before[pid]}, {after[pid]}"
        for pid in before.keys() & after.keys()
        if after[pid].private_kib > before[pid].private_kib * (1 + GROWTH)
        or after[pid].descriptors > before[pid].descriptors + AT_WORK
        or after[pid].threads > before[pid].threads + AT_WORK
    ]


def test_g2_after_as_many_batches_as_a_day_has_and_many_restarts_every_process_holds_what_it_held(world: World) -> None:
    world.add_link(*LINKS)
    vsensor = world.start_vsensor()
    sensor = world.start_sensor(*LINKS, changes=CHANGES)
    senders = {name: world.sender(name, per_second=PER_SECOND) for name in LINKS}
    counted = [_counts(world)]

    def watch() -> None:
        counted.append(_counts(world))

    _until(world, WARM, watch)
    young = _held(sensor, vsensor)
    _restarted(sensor)
    _until(world, WARM, watch)
    restarted = _held(sensor, vsensor)
    began_s, first = time.monotonic(), _batches(world)
    _until(world, BATCHES, watch)
    took_s, batches = time.monotonic() - began_s, _batches(world) - first
    old = _held(sensor, vsensor)
    for pid in old:
        print(f"{proc.comm(pid)} {pid}: {young.get(pid)} -> {restarted.get(pid)} -> {old[pid]}")
    sent = {name: sender.stop() for name, sender in senders.items()}
    assert sensor.terminate()[0] == 0

    print(f"{RESTARTS} restarts; {batches} batches in {took_s:.0f} s; counts looked at {len(counted)} times; {sent}")
    assert old.keys() == restarted.keys()
    assert _grown(young, restarted) == []
    assert _grown(restarted, old) == []
    falls = [name for one, two in pairwise(counted) for name in one if two[name] < one[name]]
    assert falls == []
    for name in LINKS:
        stored, books = world.stored_numbers(name), sensor.books(name)
        # Blocks of five milliseconds: when a worker stands still for a third of a second, the kernel drops, and counts.
        assert stored == sorted(set(stored) & set(range(sent[name])))
        assert (books["received"], books["delivered"]) == (sent[name], len(stored))
        assert books["received"] == books["delivered"] + books["kernel_drops"]
