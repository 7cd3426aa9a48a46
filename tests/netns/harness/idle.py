"""What doing nothing costs, beside a peer that does nothing: as many bare processes, each of which wakes once a second.

A share of a core says as much of the machine's hour as of the program: within a day one sensor with 200 interfaces took
1.0 to 7 %, and the bare processes 1.3 to 1.7 in the slow hours. So the two are watched together, and compared.
"""

from __future__ import annotations

import sys
import time

from harness import proc
from harness.programs import Program
from harness.world import World

WATCH_S = 20
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


def cost(world: World, program: Program) -> tuple[float, float]:
    """The share of a core that the program and all its processes take, and how often the peer's that is."""
    count = len(proc.tree(program.pid))
    peer = world.start(world.generator, sys.executable, "-c", _PEER, str(count))
    proc.eventually("the peer is there", lambda: len(proc.tree(peer.pid)) == count + 1)

    def settled() -> bool:
        before_s = proc.scheduled_s(peer.pid)
        time.sleep(2)
        return proc.scheduled_s(peer.pid) - before_s < 2 * 0.001 * count

    proc.eventually("the peer's start is over", settled, timeout_s=30)
    pids = program.pid, peer.pid
    before_s, start_s = [proc.scheduled_s(pid) for pid in pids], time.monotonic()
    time.sleep(WATCH_S)
    used_s = [proc.scheduled_s(pid) - earlier_s for pid, earlier_s in zip(pids, before_s, strict=True)]
    share = used_s[0] / (time.monotonic() - start_s)
    print(f"idle: {share:.2%} of a core, {used_s[0] / used_s[1]:.2f} times what {count} bare processes take")
    return share, used_s[0] / used_s[1]
