"""A program: takes interfaces down and up again, in turns, at a steady rate; all are up when it ends.

    python -m harness.flaps PER_SECOND SECONDS INTERFACE...

Prints "flapping" before the first, and how many flaps it did after the last.
"""

from __future__ import annotations

import fcntl
import itertools
import socket
import struct
import sys
import time

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h


def _flags(sock: socket.socket, request: int, name: str, flags: int = 0) -> int:
    answer = fcntl.ioctl(sock, request, struct.pack("16sh14x", name.encode(), flags))
    return int(struct.unpack("16sh14x", answer)[1])


def main(per_second: int, seconds: int, names: list[str]) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        up = {name: _flags(sock, _SIOCGIFFLAGS, name) for name in names}
        print("flapping", flush=True)
        start_s, done = time.monotonic(), 0
        for done, name in enumerate(itertools.cycle(names)):
            due_s = start_s + done / per_second
            if due_s >= start_s + seconds:
                break
            time.sleep(max(0.0, due_s - time.monotonic()))
            _flags(sock, _SIOCSIFFLAGS, name, up[name] & ~_IFF_UP)
            _flags(sock, _SIOCSIFFLAGS, name, up[name])
    return done


if __name__ == "__main__":
    rate, duration, *interfaces = sys.argv[1:]
    print(main(int(rate), int(duration), interfaces))
