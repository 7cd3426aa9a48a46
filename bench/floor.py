"""The physical floor: what this machine takes for the work on each byte that no implementation can leave out.

Each stage is the fastest that is at hand here, in this process, over a buffer of 1 MiB that it has just touched:
SHA-256 and AES-256-GCM by OpenSSL, memcpy by libc, a TCP stream over loopback in pieces of 256 KiB, write(2) to a file.
Processor time, not time by the clock: that is what the sensor and the vSensor are measured by, too.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MIB: Final = 1 << 20
_PIECE: Final = 256 << 10
_RECORD: Final = 16 << 10  # the longest TLS record (RFC 8446, section 5.1)


def _per_gb(work: Callable[[], int], seconds: float) -> float:
    """Processor seconds of this thread per 10^9 bytes; `work` returns how many it did."""
    work()
    done, began_s, until_s = 0, time.thread_time(), time.monotonic() + seconds
    while time.monotonic() < until_s:
        done += work()
    return (time.thread_time() - began_s) / done * 1e9


def _received(seconds: float) -> float:
    listener = socket.create_server(("127.0.0.1", 0))
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
    into = bytearray(_PIECE)

    def send() -> None:
        piece = bytes(_PIECE)
        try:
            while True:
                sender.sendall(piece)
        except OSError:
            sender.close()

    thread = threading.Thread(target=send)
    thread.start()
    try:
        return _per_gb(lambda: receiver.recv_into(into), seconds)
    finally:
        receiver.close()
        listener.close()
        thread.join()


def _written(folder: Path, data: bytes, seconds: float) -> float:
    fd, name = tempfile.mkstemp(dir=folder)

    def write() -> int:
        # A gigabyte of new pages, as a store's file has, and then from the start again, so that the disk does not fill.
        if os.lseek(fd, 0, os.SEEK_CUR) >= 1 << 30:
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
        return os.write(fd, data)

    try:
        return _per_gb(write, seconds)
    finally:
        os.close(fd)
        Path(name).unlink()


def measure(folder: Path, seconds: float = 0.5) -> dict[str, float]:
    """Processor seconds per 10^9 bytes, by stage; `write` goes to a file in the folder."""
    data = os.urandom(_MIB)
    copy = ctypes.create_string_buffer(_MIB)
    cipher, nonce = AESGCM(os.urandom(32)), bytes(12)
    records = [cipher.encrypt(nonce, data[at : at + _RECORD], None) for at in range(0, _MIB, _RECORD)]

    def sha256() -> int:
        hashlib.sha256(data).digest()
        return _MIB

    def decrypt() -> int:
        for record in records:
            cipher.decrypt(nonce, record, None)
        return _MIB

    def memcpy() -> int:
        ctypes.memmove(copy, data, _MIB)
        return _MIB

    return {
        "SHA-256": _per_gb(sha256, seconds),
        "AES-256-GCM": _per_gb(decrypt, seconds),
        "memcpy": _per_gb(memcpy, seconds),
        "TCP receive": _received(seconds),
        "write": _written(folder, data, seconds),
    }
