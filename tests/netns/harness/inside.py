"""Sockets of this process in another network namespace: a socket stays in the one that it was made in."""

from __future__ import annotations

import concurrent.futures
import ctypes
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from harness.namespaces import Namespace
from harness.proc import HANGS_S

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000  # sched.h
_libc = ctypes.CDLL(None, use_errno=True)


def inside(namespace: Namespace, make: Callable[[], T]) -> T:
    """What `make` returns, called in a thread that has entered the namespace and ends afterwards."""

    def entered() -> T:
        with Path(f"/proc/{namespace.pid}/ns/net").open("rb") as file:
            if _libc.setns(file.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return make()

    with concurrent.futures.ThreadPoolExecutor(max_workers=1) as thread:
        return thread.submit(entered).result()


def made(namespace: Namespace, address: str, kind: socket.SocketKind, port: int = 0) -> socket.socket:
    """A socket in the namespace, bound to the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = inside(namespace, lambda: socket.socket(family, kind))
    sock.settimeout(HANGS_S)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address, port))
    return sock
