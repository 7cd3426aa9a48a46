"""The way of a child's log records to the supervisor's standard error.

Invariant: a process that logs never waits for one that reads, and the death of a child, at any instruction, silences
nobody else. So each child has a socket of its own that keeps records apart: one is there whole or not at all. Writing
to it never blocks, and what does not fit is counted and said later. (Measured: with multiprocessing-logging's one queue
for all, a child killed while its feeder holds the pipe's lock silences every other process. A queue for each child
costs the supervisor a thread and three semaphores, and each of the later children a copy of what it touches of them.)

The supervisor is the privileged process, and reads what a compromised worker may write: records are JSON, of which
nothing but text and numbers under known names is taken.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final

from multiprocessing_logging import MultiProcessingHandler

from .logs import fields_of
from .ratelimit import Bucket

# A child's share: level 5 on a busy interface would otherwise cost more than the capture.
_RECORDS_PER_S: Final = 500.0
_BURST_RECORDS: Final = 1000
# Below what a Unix socket takes as one message by default (net.core.wmem_default, 212,992). The longest record is a
# packet in hex; one of more than 90,000 bytes is cut.
_RECORD_BYTES: Final = 200_000
_CUT_CHARACTERS: Final = 16_000

# What of a record crosses. Not `args`: a message is whole when it leaves.
_CROSSING: Final = (
    *("name", "levelno", "levelname", "created", "msecs", "process", "processName", "exc_text", "msg", "fields"),
)


class ChildHandler(MultiProcessingHandler):  # type: ignore[misc]
    """multiprocessing-logging's handler with a line of its own for one child. Made before that child is forked.

    The parent gives it to a Listener after the fork; the child calls `adopt` first thing.
    """

    def __init__(self, sub_handler: logging.Handler, child: str) -> None:
        # Not the base constructor: it would make the unbounded queue and start its thread before the fork.
        logging.Handler.__init__(self)
        self.sub_handler = sub_handler
        self.child = child
        self.setFormatter(sub_handler.formatter)
        self._is_closed = False
        self._bucket = Bucket(_RECORDS_PER_S, _BURST_RECORDS)
        self.receiving, self.sending = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self.receiving, self.sending):
            end.setblocking(False)

    def adopt(self) -> None:
        """In the child: makes this its only handler."""
        self.receiving.close()
        logging.getLogger().handlers[:] = [self]

    def hang_up(self) -> None:
        """There is no child after all."""
        self.receiving.close()
        self.sending.close()

    def emit(self, record: logging.LogRecord) -> None:
        if not self._bucket.take(time.monotonic()):
            return
        omitted, self._bucket.refused = self._bucket.refused, 0
        record = self._format_record(record)
        values: dict[str, Any] = {name: getattr(record, name, None) for name in _CROSSING}
        values["msg"] = str(record.msg)
        more = {k: v if isinstance(v, int | float) else str(v) for k, v in fields_of(record).items()}
        values["fields"] = more | ({"records_left_out": omitted} if omitted else {})
        try:
            self.sending.send(_encoded(values))
        except OSError:  # EAGAIN: nobody has read the last ones yet; EPIPE: nobody will
            self._bucket.refused += omitted + 1


def _encoded(values: dict[str, Any]) -> bytes:
    data = json.dumps(values).encode()
    if len(data) <= _RECORD_BYTES:
        return data
    short = {name: _cut(value) for name, value in values.items()}
    short["fields"] = {name: _cut(value) for name, value in values["fields"].items()}
    return json.dumps(short).encode()


def _cut(value: Any) -> Any:
    if isinstance(value, str) and len(value) > _CUT_CHARACTERS:
        return f"{value[:_CUT_CHARACTERS]}... ({len(value)} characters in all)"
    return value


def _decoded(data: bytes, child: str) -> dict[str, Any]:
    """What a record may have, and no value but text and numbers. ValueError, RecursionError: it is none.

    Who speaks is what we know, and a message is one line: no child can write a line in another's name. Those of a
    traceback are indented, so that none begins as a record does.
    """
    values = json.loads(data)
    if not isinstance(values, dict):
        raise ValueError("not an object")  # noqa: TRY004  one error for whatever does not fit
    more = values.get("fields")
    scalars = {n: values[n] for n in _CROSSING if isinstance(values.get(n), str | int | float)}
    kept = more if isinstance(more, dict) else {}
    level = scalars.get("levelno")
    # Of a level that is text, it would be a name of its own.
    known: dict[str, Any] = {"levelname": logging.getLevelName(level if isinstance(level, int) else 0)}
    known["processName"] = child
    if isinstance(message := scalars.get("msg"), str) and not message.isprintable():
        known["msg"] = json.dumps(message)[1:-1]
    if isinstance(trace := scalars.get("exc_text"), str):
        known["exc_text"] = "\n".join(f"  {json.dumps(line)[1:-1]}" for line in trace.split("\n"))
    return scalars | known | {"fields": {n: kept[n] for n in kept if isinstance(kept[n], str | int | float)}}


class Listener:
    """The supervisor's end of all children's lines: one thread, which takes from each in turn, one record at a time."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._lines: dict[int, ChildHandler] = {}
        self._all_gone = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, handler: ChildHandler) -> None:
        """Begins to listen; after the fork. RuntimeError: there is no thread to be had.

        The thread is made with the first line, not sooner: capabilities are a thread's, and the supervisor's have been
        limited by then.
        """
        handler.sending.close()  # the child is then the only writer, and its death is the line's end
        if self._thread is None:
            thread = threading.Thread(target=self._listen, name="log listener", daemon=True)
            thread.start()
            self._thread = thread
        with self._all_gone:
            self._lines[handler.receiving.fileno()] = handler
        self._poll.register(handler.receiving, select.EPOLLIN)

    def wait_for_the_end(self, at_most_s: float) -> bool:
        """True when every line has ended and all that was said has been passed on."""
        with self._all_gone:
            return self._all_gone.wait_for(lambda: not self._lines, at_most_s)

    def _listen(self) -> None:
        while True:
            for fd, _ in self._poll.poll():
                self._hear(fd, self._lines[fd])

    def _hear(self, fd: int, handler: ChildHandler) -> None:
        try:
            data = handler.receiving.recv(_RECORD_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._forget(fd)
            return
        try:
            values = _decoded(data, handler.child)
        except (ValueError, RecursionError) as e:
            values = {"levelno": logging.WARNING, "levelname": "WARNING", "msg": f"unreadable log record: {e}"}
        with suppress(Exception):  # a record with wrong types must not end the thread
            handler.sub_handler.handle(logging.makeLogRecord(values))

    def _forget(self, fd: int) -> None:
        self._poll.unregister(fd)
        with self._all_gone:
            handler = self._lines.pop(fd)
            # Not before: from here on the next child's line may have this number.
            handler.receiving.close()
            self._all_gone.notify_all()


def child_handler(child: str) -> ChildHandler:
    """A handler for the child that is about to be forked, onto this process's standard error."""
    return ChildHandler(logging.getLogger().handlers[0], child)
