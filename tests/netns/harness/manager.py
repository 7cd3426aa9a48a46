"""The part of systemd that a service sees: a notify socket, a watchdog, and the descriptor store.

What was sent before a question is in its answer: a message leaves its socket and is taken in under one lock, and who
asks waits until the socket is empty.

What goes out to the next process goes as with systemd: from descriptor 3 on, with LISTEN_PID, LISTEN_FDS and
LISTEN_FDNAMES. A small program fetches them and becomes the service: `under` is put before its command.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from harness import proc

WATCHDOG_S = 8
MOST_FDS = 64
_FETCH = """
import os, socket, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
    s.connect(sys.argv[1])
    names, fds, _, _ = socket.recv_fds(s, 65536, 64)
high = [os.dup(fd) for fd in fds]
while high and min(high) < 3 + len(high):
    high = [os.dup(fd) for fd in high]
for number, fd in enumerate(high, 3):
    os.dup2(fd, number, inheritable=True)
os.closerange(3 + len(high), 1024)
if high:
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": names.decode()}
os.execv(sys.argv[2], sys.argv[2:])
"""


class Manager:
    """Hears what its service says, and keeps what it is given, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._handout = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock, name in ((self._notify, "notify"), (self._handout, "handout")):
            sock.bind(str(folder / name))
            (folder / name).chmod(0o666)  # /run/systemd/notify is writable by all, too
        self._handout.listen(1)
        self._heard: list[str] = []
        self._kept: list[tuple[str, int]] = []
        self._lock = threading.Lock()
        for work in (self._listen, self._hand_out):
            threading.Thread(target=work, daemon=True).start()

    @property
    def environment(self) -> dict[str, str]:
        """Of a service with a watchdog and a store."""
        return {
            "NOTIFY_SOCKET": str(self._folder / "notify"),
            "WATCHDOG_USEC": str(WATCHDOG_S * 1_000_000),
            "FDSTORE": str(MOST_FDS),
        }

    @property
    def under(self) -> tuple[str, ...]:
        """Runs a command with what is kept."""
        return (sys.executable, "-c", _FETCH, str(self._folder / "handout"))

    def _listen(self) -> None:
        with suppress(OSError, ValueError):  # until it is shut, or closed
            while True:
                select.select([self._notify], [], [])
                with self._lock:
                    message, fds, _, _ = socket.recv_fds(self._notify, 65_536, MOST_FDS)
                    if not message:
                        return
                    self.take(message.decode().splitlines(), fds)

    def take(self, lines: list[str], fds: list[int]) -> None:
        """What one message says."""
        values = dict(line.split("=", 1) for line in lines)
        if "FDSTORE" in values:
            self._kept += [(values["FDNAME"], fd) for fd in fds]
        elif "FDSTOREREMOVE" in values:
            for name, fd in [one for one in self._kept if one[0] == values["FDNAME"]]:
                os.close(fd)
                self._kept.remove((name, fd))
        self._heard += lines

    @contextmanager
    def _up_to_date(self) -> Iterator[None]:
        """All that was sent so far is taken in, and no more is while the block lasts."""

        def empty() -> bool:
            with self._lock:
                return not select.select([self._notify], [], [], 0)[0]

        proc.eventually("what was sent is heard", empty)
        with self._lock:
            yield

    def _hand_out(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._handout.accept()
                with connection, self._up_to_date():
                    names = ":".join(name for name, _ in self._kept).encode() or b"-"
                    socket.send_fds(connection, [names], [fd for _, fd in self._kept])

    def kept(self, kind: str = "") -> list[str]:
        """The names of what is kept, one for each descriptor; of one kind, or all."""
        with self._up_to_date():
            return [name for name, _ in self._kept if name.startswith(kind)]

    def heard(self) -> list[str]:
        """Every line so far."""
        with self._up_to_date():
            return list(self._heard)

    def wait_for(self, part: str, *, count: int = 1, timeout_s: float = proc.HANGS_S) -> str:
        """The `count`th line with this part, once it is there."""

        def found() -> list[str]:
            return [line for line in self.heard() if part in line][count - 1 :]

        return proc.eventually(part, found, timeout_s)[0]

    def forget_all(self) -> None:
        """What stopping a service does."""
        with self._lock:
            for _, fd in self._kept:
                os.close(fd)
            self._kept.clear()

    def close(self) -> None:
        for sock in (self._notify, self._handout):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # wakes its thread up
            sock.close()
        self.forget_all()
        for name in ("notify", "handout"):
            (self._folder / name).unlink()


@contextmanager
def manager(folder: Path) -> Iterator[Manager]:
    made = Manager(folder)
    try:
        yield made
    finally:
        made.close()
