"""Whom the application speaks to: TCP port 7000 answers what it was sent, UDP port 7001 takes what comes."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import suppress

ADDRESS = sys.argv[1]


def answer(connection: socket.socket) -> None:
    with connection, suppress(ConnectionResetError):  # an application that is stopped reads no further
        while data := connection.recv(65536):
            connection.sendall(data)


sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind((ADDRESS, 7001))  # unread: a full buffer drops, without the ICMP that a closed port would send back
listener = socket.create_server((ADDRESS, 7000))
while True:
    threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()
