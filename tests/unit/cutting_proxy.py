"""Somebody between sensor and vSensor who passes requests on whole, and cuts the line where each test wants it cut.

It ends TLS with the vSensor's own certificate: only who can read the line knows that a reply has come and where it
ends, so only here can it be cut after the commit and before the reply, and not just at about that time.
"""

from __future__ import annotations

import contextlib
import io
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# How many bytes of this reply, to this target, are passed on before the line is cut; None: all, and it is not cut.
Cut = Callable[[str, bytes], int | None]


def _message(stream: io.BufferedIOBase) -> bytes:
    """One request or reply, whole; empty at the end of the stream."""
    lines = []
    length = 0
    while line := stream.readline():
        lines.append(line)
        if line.lower().startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
        if line == b"\r\n":
            return b"".join(lines) + stream.read(length)
    return b""


@dataclass
class CuttingProxy:
    """In threads of this process, on loopback. `replies` has every reply of the vSensor, with its request's target."""

    certificate: Path
    key: Path
    vsensor_port: int
    cut: Cut
    reset: bool = False  # the cut is an RST in place of a FIN

    def __post_init__(self) -> None:
        self.replies: list[tuple[str, bytes]] = []
        self._serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._serving.load_cert_chain(self.certificate, self.key)
        self._asking = ssl.create_default_context(cafile=str(self.certificate))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        """One sensor's connections, one after the other, over one connection to the vSensor."""
        with socket.create_connection(("127.0.0.1", self.vsensor_port), timeout=120) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._asking.wrap_socket(plain, server_hostname="127.0.0.1") as there, there.makefile("rb") as answers:
                while True:
                    try:
                        here, _ = self._listener.accept()
                    except OSError:
                        return
                    with here, contextlib.suppress(OSError):
                        here.settimeout(120)
                        self._serve(here, there, answers)

    def _serve(self, plain: socket.socket, there: ssl.SSLSocket, answers: io.BufferedIOBase) -> None:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._serving.wrap_socket(plain, server_side=True) as here, here.makefile("rb") as requests:
            while request := _message(requests):
                target = request.split(b" ", 2)[1].decode()
                there.sendall(request)
                reply = _message(answers)
                self.replies.append((target, reply))
                passed = self.cut(target, reply)
                here.sendall(reply[:passed])
                if passed is not None:
                    if self.reset:
                        here.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
