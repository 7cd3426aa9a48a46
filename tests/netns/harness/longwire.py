"""A wire with length: passes frames between two interfaces, each after a delay.

    python -m harness.longwire ONE OTHER DELAY_S

(Kernels without netem have nothing of the kind.) Says `ready`, and runs until it is killed.
"""

from __future__ import annotations

import select
import socket
import sys
import time
from collections import deque

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23  # linux/if_packet.h


def end(interface: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
    sock.bind((interface, _ETH_P_ALL))
    sock.setblocking(False)
    return sock


def main() -> None:
    one, other, delay_s = end(sys.argv[1]), end(sys.argv[2]), float(sys.argv[3])
    across = {one: other, other: one}
    travelling: deque[tuple[float, socket.socket, bytes]] = deque()
    print("ready", flush=True)
    while True:
        wait_s = max(0.0, travelling[0][0] - time.monotonic()) if travelling else None
        for sock in select.select([one, other], [], [], wait_s)[0]:
            travelling.append((time.monotonic() + delay_s, across[sock], sock.recv(65536)))
        while travelling and travelling[0][0] <= time.monotonic():
            _, sock, frame = travelling.popleft()
            sock.send(frame)


if __name__ == "__main__":
    main()
