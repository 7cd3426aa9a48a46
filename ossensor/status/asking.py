"""Asking a running sensor how it is: the other end of server.py, with a time limit."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import Any, Final

from .document import decode
from .server import Peer, kernel_address

# A supervisor's loop answers within milliseconds; one that does not in so long, beside a busy application, hangs.
PATIENCE_S: Final = 3.0
# Some thousands of interfaces.
_LARGEST_BYTES: Final = 8 << 20
_QUEUE_FULL_S: Final = 0.05


class NoAnswerError(Exception):
    """Nobody answered. `nobody_there`: because nobody listens."""

    def __init__(self, why: str, *, nobody_there: bool = False) -> None:
        super().__init__(why)
        self.nobody_there = nobody_there


def ask(address: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    """The sensor's document. Raises NoAnswerError, whose text is for people."""
    deadline_s = time.monotonic() + patience_s
    with closing(_connected(address, deadline_s)) as connection:
        if address.startswith("@") and Peer.of(connection).pid == 0:
            # Abstract names are shared with the other containers of a task; see server.py.
            raise NoAnswerError(f"{address} is held by a process of another container")
        data = _everything(connection, deadline_s, patience_s)
    if not data:
        raise NoAnswerError(f"the sensor at {address} answers only root and its own user")
    try:
        return decode(data)
    except ValueError as e:
        raise NoAnswerError(f"{address}: {e}") from None


def _connected(address: str, deadline_s: float) -> socket.socket:
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(max(0.001, deadline_s - time.monotonic()))
        try:
            connection.connect(kernel_address(address))
        except BlockingIOError:  # with a time limit, a full queue is told at once (unix(7): EAGAIN)
            connection.close()
            if time.monotonic() >= deadline_s:
                raise NoAnswerError(f"too many ask at {address}, or the sensor hangs") from None
            time.sleep(_QUEUE_FULL_S)
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            raise NoAnswerError(f"no sensor listens at {address}", nobody_there=True) from None
        except OSError as e:
            connection.close()
            raise NoAnswerError(f"{address}: {e.strerror or e}") from None
        else:
            return connection


def _everything(connection: socket.socket, deadline_s: float, patience_s: float) -> bytes:
    data = bytearray()
    while True:
        connection.settimeout(max(0.001, deadline_s - time.monotonic()))
        try:
            piece = connection.recv(1 << 16)
        except TimeoutError:
            raise NoAnswerError(f"the sensor has not answered for {patience_s:g} s: it hangs, or is stopped") from None
        except ConnectionResetError:
            return b""
        if not piece:
            return bytes(data)
        data += piece
        if len(data) > _LARGEST_BYTES:
            raise NoAnswerError("the answer is too long to be a sensor's")
