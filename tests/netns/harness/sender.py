"""A program: sends numbered frames at a steady rate, until it has sent enough or its standard input ends.

    python -m harness.sender INTERFACE TAG FIRST PER_SECOND [COUNT]

Prints "sending" before the first frame, and how many it has sent after the last. A frame it counts is one that the
kernel took: on a veth pair, one that the other end's taps have been offered.

Whoever was kept from the processor makes up for it, in steps that the receive backlog holds (1,000 packets,
net.core.netdev_max_backlog): what finds no room there is gone before any tap has seen it.
"""

from __future__ import annotations

import select
import socket
import sys
import time

from harness.frames import small

_STEP_S = 0.005
_MOST_A_STEP = 500


def _ended() -> bool:
    return bool(select.select([sys.stdin], [], [], 0)[0])


def main(interface: str, tag: int, first: int, per_second: int, count: int | None) -> int:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as wire:
        wire.bind((interface, 0))
        print("sending", flush=True)
        sent, start = 0, time.monotonic()
        while sent != count and not (count is None and _ended()):
            due = int((time.monotonic() - start) * per_second)
            due = min(due, sent + _MOST_A_STEP, due if count is None else count)
            for number in range(first + sent, first + due):
                wire.send(small(tag, number))
            sent = due
            time.sleep(_STEP_S)
    return sent


if __name__ == "__main__":
    name, *numbers = sys.argv[1:]
    tag_, first_, rate, *limit = map(int, numbers)
    print(main(name, tag_, first_, rate, limit[0] if limit else None))
