"""Sends back what comes over the one connection that it accepts: python -m harness.echo ADDRESS. Says its port."""

from __future__ import annotations

import socket
import sys


def main() -> None:
    address = sys.argv[1]
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        print(listener.getsockname()[1], flush=True)
        connection, _ = listener.accept()
    with connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(100):
            connection.sendall(data)


if __name__ == "__main__":
    main()
