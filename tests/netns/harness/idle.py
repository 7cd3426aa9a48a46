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

WINDOWS, WINDOW_S = 5, 5.0
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
    """Medians of windows: what comes once, as a proof does each minute, is no cost of idling."""

    share: float  # of a core, by the program and all its processes
    times_the_peer: float  # in processor time
    wakes_per_s: float  # of each process


def cost(world: World, program: Program) -> Cost:
    """Watches the program, with nothing to do, for half a minute."""
    count = len(proc.tree(program.pid))
    peer = world.start(world.generator, sys.executable, "-c", _PEER, str(count))
    proc.eventually("the peer is there", lambda: len(proc.tree(peer.pid)) == count + 1)

    def settled() -> bool:
        before_s = proc.scheduled_s(peer.pid)
        time.sleep(2)
        return proc.scheduled_s(peer.pid) - before_s < 2 * 0.001 * count

    proc.eventually("the peer's start is over", settled, timeout_s=30)
    windows = [_window(program.pid, peer.pid, count) for _ in range(WINDOWS)]
    found = Cost(*(statistics.median(figures) for figures in zip(*windows, strict=True)))
    print(
        f"idle: {found.share:.2%} of a core, {found.times_the_peer:.2f} times what {count} bare processes take,"
        f" {found.wakes_per_s:.2f} wakes/s each; windows {[round(one.times_the_peer, 2) for one in windows]}"
    )
    return found


def _wakes(pid: int) -> int:
    """How often the process and its descendants went to sleep by themselves."""
    threads = (thread for one in proc.tree(pid) for thread in Path(f"/proc/{one}/task").iterdir())
    return sum(int(number) for thread in threads for number in _WAKES.findall((thread / "status").read_text()))


def _window(ours: int, theirs: int, count: int) -> Cost:
    before = proc.scheduled_s(ours), proc.scheduled_s(theirs), _wakes(ours), time.monotonic()
    time.sleep(WINDOW_S)
    after = proc.scheduled_s(ours), proc.scheduled_s(theirs), _wakes(ours), time.monotonic()
    ours_s, theirs_s, wakes, wall_s = (late - early for early, late in zip(before, after, strict=True))
    return Cost(ours_s / wall_s, ours_s / theirs_s, wakes / wall_s / count)
