"""What doing nothing costs, beside a peer that does nothing: as many bare processes, each of which wakes once a second.

A share of a core says as much of the machine's hour as of the program: within a day one sensor with 200 interfaces took
1.0 to 7 %, and the bare processes 1.0 to 1.7. So the two are watched together, and compared. How often they wake does
not depend on the hour at all, and is what a change to the program would change.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

from harness import proc
from harness.programs import Program
from harness.world import World

WINDOWS, WINDOW_S = 3, 5.0
_PEER = """
import os, select, sys, time
count = int(sys.argv[1])
for number in range(count):
    if not os.fork():
        poll = select.poll()
        time.sleep(number / count)  # so that they take turns
        while True:
            poll.poll(1000)
os.wait()
"""
_WAKES = re.compile(r"^voluntary_ctxt_switches:\t(\d+)", re.MULTILINE)


class Cost(NamedTuple):
    """Of windows: what comes once, as a proof does each minute, is no cost of idling."""

    share: float  # of a core, by the program and all its processes; the median
    times_the_peer: float  # in processor time; the median
    # Of each process; the least. Others' work can only add to it: an answer that comes in two pieces is two wakes.
    wakes_per_s: float


class _Pair(NamedTuple):
    """The first processes of a program and of its peer, and how many processes each has."""

    ours: int
    theirs: int
    count: int


def costs(*idlers: tuple[World, Program]) -> list[Cost]:
    """Watches programs that have nothing to do, all in the same quarter of a minute."""
    pairs = [_beside(world, program) for world, program in idlers]
    windows = [_window(pairs) for _ in range(WINDOWS)]
    found = []
    for pair, of_one in zip(pairs, zip(*windows, strict=True), strict=True):
        shares, times_the_peer, wakes_per_s = zip(*of_one, strict=True)
        found.append(Cost(statistics.median(shares), statistics.median(times_the_peer), min(wakes_per_s)))
        print(
            f"idle: {found[-1].share:.2%} of a core, {found[-1].times_the_peer:.2f} times what {pair.count} bare"
            f" processes take, {found[-1].wakes_per_s:.2f} wakes/s each;"
            f" windows {[round(one.times_the_peer, 2) for one in of_one]}"
        )
    return found


def _beside(world: World, program: Program) -> _Pair:
    count = len(proc.tree(program.pid))
    peer = world.start(world.generator, sys.executable, "-c", _PEER, str(count))
    proc.eventually("the peer is there", lambda: len(proc.tree(peer.pid)) == count + 1)

    def settled() -> bool:
        before_s = proc.scheduled_s(peer.pid)
        time.sleep(2)
        return proc.scheduled_s(peer.pid) - before_s < 2 * 0.001 * count

    proc.eventually("the peer's start is over", settled)
    return _Pair(program.pid, peer.pid, count)


def _wakes(pid: int) -> int:
    """How often the process and its descendants went to sleep by themselves."""
    threads = (thread for one in proc.tree(pid) for thread in Path(f"/proc/{one}/task").iterdir())
    return sum(int(number) for thread in threads for number in _WAKES.findall((thread / "status").read_text()))


def _look(pair: _Pair) -> tuple[float, float, int, float]:
    return proc.scheduled_s(pair.ours), proc.scheduled_s(pair.theirs), _wakes(pair.ours), time.monotonic()


def _window(pairs: list[_Pair]) -> list[Cost]:
    before = [_look(pair) for pair in pairs]
    time.sleep(WINDOW_S)
    after = [_look(pair) for pair in pairs]
    found = []
    for pair, early, late in zip(pairs, before, after, strict=True):
        ours_s, theirs_s, wakes, wall_s = (two - one for one, two in zip(early, late, strict=True))
        found.append(Cost(ours_s / wall_s, ours_s / theirs_s, wakes / wall_s / pair.count))
    return found
