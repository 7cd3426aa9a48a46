"""HOST:PORT, as options give it: read, opened, shown."""

from __future__ import annotations

import socket
from typing import Final

from ossensor.errors import ConfigurationError

# Connections that wait in the kernel while a successor starts: all that a few hundred sensors keep.
_BACKLOG: Final = 512


def parse(option: str, text: str, faults: list[str]) -> tuple[str, int]:
    """Host and port; with a fault added, nothing that could be used."""
    host, colon, port = text.rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not host or not (port.isascii() and port.isdecimal()) or len(port) > 5 or int(port) > 65535:
        faults.append(f"{option}: {text!r} is not HOST:PORT with a port of 0 to 65535")
        return "", 0
    return host, int(port)


def listen(option: str, address: tuple[str, int]) -> socket.socket:
    """A socket that is listening at the first address that the host's name stands for. Raises ConfigurationError."""
    host, port = address
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            # Or a restart would have to wait for the connections of the last run to be forgotten (TIME_WAIT).
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(where)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as e:  # socket.gaierror is one
        raise ConfigurationError([f"{option}: cannot listen on {host} port {port}: {e.strerror}"]) from e
    return listener


def text(listener: socket.socket) -> str:
    """Where it listens, its port known."""
    return pair(*listener.getsockname()[:2])


def pair(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
