"""Whom the application speaks to: TCP port 7000 answers what it was sent, UDP port 7001 takes what comes.

Prints the port of each connection's other end when it begins, and again, with the error's name, when it is reset.
"""

from __future__ import annotations

import errno
import socket
import sys
import threading

ADDRESS = sys.argv[1]


def answer(connection: socket.socket, port: int) -> None:
    print(port, flush=True)
    try:
        with connection:
            while data := connection.recv(65536):
                connection.sendall(data)
    except ConnectionResetError as e:
        print(port, errno.errorcode[e.errno], flush=True)


sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind((ADDRESS, 7001))  # unread: a full buffer drops, without the ICMP that a closed port would send back
listener = socket.create_server((ADDRESS, 7000))
while True:
    accepted, (_, other) = listener.accept()
    threading.Thread(target=answer, args=(accepted, other), daemon=True).start()
