"""What supervisor and uploader say to each other, over a SEQPACKET pair: one JSON object a message, descriptors beside.

The supervisor believes nothing here that it has not checked: the uploader talks to the network, and may be somebody
else's by then. All it can ask for is that addresses be left out of the capture, a bounded number of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import Any, Final

_LARGEST_BYTES: Final = 64 << 10
_MOST_FDS: Final = 8


class Channel:
    """One end. Messages keep their borders; a message is whole or not there."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        a.setblocking(False)
        b.setblocking(False)
        return cls(a), cls(b)

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()

    def send(self, op: str, fds: tuple[int, ...] = (), **values: Any) -> bool:
        """False when the other end is gone or does not read; what to do then is the death of a child's business."""
        data = json.dumps({"op": op, **values}).encode()
        try:
            socket.send_fds(self._sock, [data], list(fds))
        except (BlockingIOError, BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
            return False
        return True

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """Every waiting message with its descriptors; one that is no object with an `op` is left out."""
        messages: list[tuple[dict[str, Any], list[int]]] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, _LARGEST_BYTES, _MOST_FDS)
            except (BlockingIOError, ConnectionResetError):
                return messages
            if not data:
                return messages
            values = None
            with contextlib.suppress(ValueError):
                values = json.loads(data)
            if isinstance(values, dict) and isinstance(values.get("op"), str):
                messages.append((values, fds))
            else:
                for fd in fds:
                    os.close(fd)
