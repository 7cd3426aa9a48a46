"""What supervisor and uploader say to each other, over a SEQPACKET pair: one JSON object a message, descriptors beside.

The supervisor believes nothing here that it has not checked: the uploader talks to the network, and may be somebody
else's by then. All it can ask for is that addresses, a bounded number of them, or what a filter refuses, be left out of
the capture: never for more than the user's settings let in.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Mapping
from typing import Any, Final

_LARGEST_BYTES: Final = 64 << 10
_MOST_FDS: Final = 8
_PATIENCE_S: Final = 2.0
# A peer that never stops talking must not keep us from everything else.
_MOST_MESSAGES: Final = 256
# Of a text that is longer than a message. JSON spells it once more, at most at double length.
_PART_CHARACTERS: Final = 24_000
_MOST_PARTS: Final = 128


class Channel:
    """One end. Messages keep their borders; a message is whole or not there. `ended`: the other end is gone."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.ended = False

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
        """False when the other end is gone or does not read for a while (hundreds of interfaces fill the buffer)."""
        data = json.dumps({"op": op, **values}).encode()
        if len(data) > _LARGEST_BYTES:
            raise AssertionError(f"a message {op!r} of {len(data)} bytes would be cut")
        deadline_s = time.monotonic() + _PATIENCE_S
        while True:
            try:
                socket.send_fds(self._sock, [data], list(fds))
            except BlockingIOError:
                if time.monotonic() >= deadline_s:
                    return False
                poll = select.poll()
                poll.register(self._sock, select.POLLOUT)
                poll.poll(100)
            except (BrokenPipeError, ConnectionResetError, ConnectionRefusedError):
                self.ended = True
                return False
            else:
                return True

    def send_text(self, op: str, text: str) -> bool:
        """As `send`, of a text in ASCII that may be longer than a message: in parts, which a `Parts` puts together."""
        parts = [text[at : at + _PART_CHARACTERS] for at in range(0, len(text), _PART_CHARACTERS)] or [""]
        if len(parts) > _MOST_PARTS:
            raise AssertionError(f"a text {op!r} of {len(text)} characters would be cut")
        return all(self.send(op, number=n, parts=len(parts), text=part) for n, part in enumerate(parts))

    def receive(self) -> list[tuple[dict[str, Any], list[int]]]:
        """The waiting messages, so many at most, with their descriptors; what is no object with an `op` is left out."""
        messages: list[tuple[dict[str, Any], list[int]]] = []
        for _ in range(_MOST_MESSAGES):
            fds: list[int] = []
            try:
                data, fds, _, _ = socket.recv_fds(self._sock, _LARGEST_BYTES, _MOST_FDS)
            except BlockingIOError:
                return messages
            except ConnectionResetError:
                data = b""
            if not data:
                # The end; or an empty message, which nobody of ours sends.
                self.ended = True
                for fd in fds:
                    os.close(fd)
                return messages
            values = None
            with contextlib.suppress(ValueError, RecursionError):
                values = json.loads(data)
            if isinstance(values, dict) and isinstance(values.get("op"), str):
                messages.append((values, fds))
            else:
                for fd in fds:
                    os.close(fd)
        return messages


def _can_be_sent_on(text: str) -> bool:
    return len(text) <= _PART_CHARACTERS and text.isascii() and text.isprintable()


class Parts:
    """Puts a text together again. Parts arrive in order or not at all; a text that breaks off is forgotten.

    And one that `send_text` could not send on: the supervisor passes texts from one child to another.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []

    def maybe_whole(self, message: Mapping[str, Any]) -> str | None:
        """The text that this message, of one `op`, completes."""
        number, parts, text = message.get("number"), message.get("parts"), message.get("text")
        if number == 0:
            self._texts = []
        fits = number == len(self._texts) and type(parts) is int and parts <= _MOST_PARTS
        if not fits or not isinstance(text, str) or not _can_be_sent_on(text):
            self._texts = []
            return None
        self._texts.append(text)
        if len(self._texts) != parts:
            return None
        whole, self._texts = "".join(self._texts), []
        return whole
