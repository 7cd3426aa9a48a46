"""An application. Without further arguments it speaks with its peer, over one connection, until that fails.

`from PORT` does the same from that port, and prints the name of the error that ended it; `burst N` sends N numbered
datagrams; `credentials N` fetches its role's credentials N times, and prints them once.
"""

from __future__ import annotations

import errno
import socket
import sys
import time
import urllib.request

PEER, AGENT, *WHAT = sys.argv[1:]


def speak(port: int = 0) -> None:
    with socket.create_connection((PEER, 7000), timeout=5, source_address=("", port)) as connection:
        turn = 0
        while True:
            turn += 1
            connection.sendall(b"turn %08d" % turn)
            if connection.recv(100) != b"turn %08d" % turn:
                sys.exit("another answer than was expected")
            if turn % 20 == 0 and not port:
                print(turn)
            time.sleep(0.005)


def speak_from(port: int) -> None:
    try:
        speak(port)
    except OSError as e:
        print(errno.errorcode[e.errno or 0])


def burst(count: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((PEER, 7001))
        for number in range(count):
            sender.send(b"burst %08d" % number)


def credentials(count: int) -> None:
    answers = set()
    for _ in range(count):
        with urllib.request.urlopen(f"http://{AGENT}/v2/credentials", timeout=5) as reply:
            answers.add(reply.read().decode())
    print(*answers)


match WHAT:
    case ["from", port]:
        speak_from(int(port))
    case ["burst", count]:
        burst(int(count))
    case ["credentials", count]:
        credentials(int(count))
    case _:
        speak()
