"""Log records of the first process: six debug levels, text or JSON, and the way to standard error.

Invariant: who logs never waits for one that reads, and what does not fit is counted and said later. A child's records
come through childlog.py.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import select
import threading
import time
from typing import Any, Final

# OSSENSOR_DEBUG n shows everything at or above logging.INFO - n. The names say what each level adds.
INFO: Final = logging.INFO
STATS: Final = logging.INFO - 1  # capture and Antigena statistics
SEND: Final = logging.INFO - 2  # what is sent, how large, and the answer
ANTIGENA: Final = logging.INFO - 3
CHUNK: Final = logging.INFO - 4  # a line for each batch: packets, bytes, span of time
PACKET: Final = logging.INFO - 5  # every packet in hex

_NAMES: Final = {STATS: "STATS", SEND: "SEND", ANTIGENA: "ANTIGENA", CHUNK: "CHUNK", PACKET: "PACKET"}

_STDERR: Final = 2
# A few seconds' worth for a reader that comes back; 10,000 lines are some megabytes.
_OUTLET_LINES: Final = 10_000
# At the end: for a reader that takes nothing, and for our own thread on a machine that is too busy to run it.
_UNREAD_S: Final = 0.5
_UNWRITTEN_S: Final = 2.0


def fields(**values: Any) -> dict[str, Any]:
    """For a record's `extra`: values that a program reads, kept apart from the message."""
    return {"fields": values}


class TextFormatter(logging.Formatter):
    """`2026-11-23T09:01:19.123Z INFO supervisor: capturing interface=eth0`."""

    def format(self, record: logging.LogRecord) -> str:
        values = "".join(f" {_word(k)}={_word(v)}" for k, v in fields_of(record).items())
        text = f"{_utc(record)} {record.levelname} {record.processName}: {record.getMessage()}{values}"
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        return f"{text}\n{record.exc_text}" if record.exc_text else text


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, process, pid, message, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        # Fields first: one that is called `process` does not pass for ours.
        values: dict[str, Any] = fields_of(record) | {
            "time": _utc(record),
            "level": record.levelname,
            "process": record.processName,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        if record.exc_text:
            values["traceback"] = record.exc_text
        return json.dumps(values, default=str)


def _word(value: Any) -> str:
    """One word: what a peer made us say can neither break the line nor pass for another field."""
    text = str(value)
    return text if text.isprintable() and not set(text) & {" ", '"', "="} else json.dumps(text)


def _utc(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class Outlet(logging.Handler):
    """Standard error behind a thread: who logs never waits for who reads it, a stopped terminal or a full pipe."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: queue.Queue[str] = queue.Queue(_OUTLET_LINES)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write, name="log outlet", daemon=True)

    def start(self) -> None:
        """Begins to write. Called after privileges are limited: capabilities are a thread's, not a process's."""
        if self._thread.ident is None:
            self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        if self._left_out:
            line = f"{line}\n({self._left_out} log lines before this one were left out: nobody read them)"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._left_out += 1
        else:
            self._left_out = 0

    def _write(self) -> None:
        while True:
            line = self._lines.get()
            # Not through sys.stderr: multiprocessing flushes that at each fork, and would wait for its lock, which a
            # full pipe holds. OSError: nobody will ever read it, the pipe is closed.
            rest = (line + "\n").encode("utf-8", "backslashreplace")
            with contextlib.suppress(OSError):
                while rest:
                    rest = rest[_write(_STDERR, rest) :]
            self._lines.task_done()

    def flush_briefly(self) -> None:
        """Gives what is queued a moment to be written."""
        self.start()
        wait_briefly(self._lines, _STDERR)


def _write(fd: int, data: bytes) -> int:
    """As os.write, but it waits, too, where somebody who shares a terminal with us has made it non-blocking."""
    while True:
        try:
            return os.write(fd, data)
        except BlockingIOError:
            poll = select.poll()
            poll.register(fd, select.POLLOUT)
            poll.poll()


def wait_briefly(lines: queue.Queue[str], fd: int) -> None:
    """Until a thread has written all lines to the descriptor, or it seems that nobody will read them."""
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    began_s = time.monotonic()
    with lines.all_tasks_done:
        while lines.unfinished_tasks:
            lines.all_tasks_done.wait(0.05)
            if time.monotonic() - began_s > (_UNWRITTEN_S if poll.poll(0) else _UNREAD_S):
                return


def start() -> None:
    """Lets the first process's lines out; see Outlet.start."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Outlet):
            handler.start()


def flush_briefly() -> None:
    """Before the first process leaves: its own lines, and those of its children."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, Outlet):
            handler.flush_briefly()


def configure(debug: int, log_format: str) -> None:
    """Sets up the root logger of the first process: one handler, on standard error."""
    for level, name in _NAMES.items():
        logging.addLevelName(level, name)
    handler = Outlet()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(INFO - debug)
    # Libraries speak in their own terms of what our modules report in ours.
    for name in ("requests", "asyncio", "http_message_signatures"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It warns, with a traceback, of each head that it cannot parse, which a peer can send as often as it likes.
    logging.getLogger("urllib3").setLevel(logging.ERROR)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What `fields` put into the record."""
    values: dict[str, Any] = getattr(record, "fields", {})
    return values
