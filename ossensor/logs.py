"""Log records: six debug levels, text or JSON, and the way from a child to the supervisor's standard error.

Invariant: a process that logs never waits for one that reads, and the death of a child, at any instruction, silences
nobody else. So each child has a queue of its own (measured: with multiprocessing-logging's one queue for all, a child
killed while its feeder holds the pipe's lock silences every other process), the queue is bounded, and what does not fit
is counted and said later.

The supervisor is the privileged process, and multiprocessing's queues unpickle: a compromised worker could make it run
anything. Records cross as plain values, and the reading end refuses every other pickle.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import multiprocessing
import os
import pickle
import queue
import threading
import time
from multiprocessing.queues import Queue
from typing import Any, Final

from multiprocessing_logging import MultiProcessingHandler

from .ratelimit import Bucket

# OSSENSOR_DEBUG n shows everything at or above logging.INFO - n. The names say what each level adds.
INFO: Final = logging.INFO
STATS: Final = logging.INFO - 1  # capture and Antigena statistics
SEND: Final = logging.INFO - 2  # what is sent, how large, and the answer
ANTIGENA: Final = logging.INFO - 3
CHUNK: Final = logging.INFO - 4  # a line for each batch: packets, bytes, span of time
PACKET: Final = logging.INFO - 5  # every packet in hex

_NAMES: Final = {STATS: "STATS", SEND: "SEND", ANTIGENA: "ANTIGENA", CHUNK: "CHUNK", PACKET: "PACKET"}

# A child's share: 1,000 records of a few hundred bytes wait at most, 500 a second pass. Level 5 on a busy interface
# would otherwise cost more than the capture.
_QUEUE_RECORDS: Final = 1000
_STDERR: Final = 2
_RECORDS_PER_S: Final = 500.0
# A few seconds' worth for a reader that comes back; 10,000 lines are some megabytes.
_OUTLET_LINES: Final = 10_000
# The longest is a packet of 256 KiB in hex.
_RECORD_BYTES: Final = 1 << 20

# What of a record crosses to the supervisor. Not `args`: a message is whole when it leaves.
_CROSSING: Final = (
    "name",
    "levelno",
    "levelname",
    "created",
    "msecs",
    "process",
    "processName",
    "exc_text",
    "msg",
    "fields",
)


def fields(**values: Any) -> dict[str, Any]:
    """For a record's `extra`: values that a program reads, kept apart from the message."""
    return {"fields": values}


class TextFormatter(logging.Formatter):
    """`2026-11-23T09:01:19.123Z INFO supervisor: capturing interface=eth0`."""

    def format(self, record: logging.LogRecord) -> str:
        values = "".join(f" {k}={_word(v)}" for k, v in _fields(record).items())
        text = f"{_utc(record)} {record.levelname} {record.processName}: {record.getMessage()}{values}"
        if record.exc_info and not record.exc_text:
            record.exc_text = self.formatException(record.exc_info)
        return f"{text}\n{record.exc_text}" if record.exc_text else text


class JsonFormatter(logging.Formatter):
    """One object a line: time, level, process, pid, message, and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        values: dict[str, Any] = {
            "time": _utc(record),
            "level": record.levelname,
            "process": record.processName,
            "pid": record.process,
            "message": record.getMessage(),
            **_fields(record),
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
                    rest = rest[os.write(_STDERR, rest) :]
            self._lines.task_done()

    def flush_briefly(self, at_most_s: float = 0.5) -> None:
        """Gives what is queued a moment to be written."""
        self.start()
        with self._lines.all_tasks_done:
            self._lines.all_tasks_done.wait_for(lambda: not self._lines.unfinished_tasks, at_most_s)


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
    for name in ("urllib3", "requests", "asyncio", "http_message_signatures"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _record(values: dict[str, Any]) -> dict[str, Any]:
    """What a record may have, and no value but text and numbers: a nest of lists is short to send and long to print."""
    more = values.get("fields", {})
    scalars = {n: values[n] for n in _CROSSING if isinstance(values.get(n), str | int | float)}
    return scalars | {
        "fields": {n: more[n] for n in more if isinstance(n, str) and isinstance(more[n], str | int | float)}
    }


class _PlainUnpickler(pickle._Unpickler):  # noqa: SLF001
    """Loads builtin values and refuses every name, hence every class and function.

    The one written in Python: the memo of the C one is an array that grows to any index that a pickle names.
    """

    def find_class(self, module_name: str, global_name: str) -> Any:
        raise pickle.UnpicklingError(f"a log record may not name {module_name}.{global_name}")


class _PlainQueue(Queue):  # type: ignore[type-arg]
    """A multiprocessing queue whose reading end takes plain values only."""

    def receive(self) -> bytes:
        """The next record's pickle. EOFError or OSError: the child is gone, or sent what no child of ours sends."""
        data: bytes = self._reader.recv_bytes(_RECORD_BYTES)  # type: ignore[attr-defined]
        with contextlib.suppress(ValueError):  # a child that writes past the semaphore had taken no room
            self._sem.release()  # type: ignore[attr-defined]
        return data

    def write_fd(self) -> int:
        """The descriptor that the child must keep to be heard."""
        return int(self._writer.fileno())  # type: ignore[attr-defined]

    def close_reader(self) -> None:
        """In the child, which only writes."""
        self._reader.close()  # type: ignore[attr-defined]

    def close_writer(self) -> None:
        """In the parent, after the fork: the child is then the only writer, and its death is the reader's EOF."""
        self._writer.close()  # type: ignore[attr-defined]


class ChildHandler(MultiProcessingHandler):  # type: ignore[misc]
    """multiprocessing-logging's handler with a queue of its own for one child. Made before that child is forked.

    The parent calls `listen` after the fork; the child calls `adopt` first thing.
    """

    def __init__(self, sub_handler: logging.Handler, name: str) -> None:
        # Not the base constructor: it would make the unbounded queue and start its thread before the fork.
        logging.Handler.__init__(self)
        self.sub_handler = sub_handler
        self.setFormatter(sub_handler.formatter)
        self.queue = _PlainQueue(_QUEUE_RECORDS, ctx=multiprocessing.get_context("fork"))
        self._is_closed = False
        self._bucket = Bucket(_RECORDS_PER_S, _QUEUE_RECORDS)
        self._receive_thread = threading.Thread(target=self._receive, name=f"log {name}", daemon=True)

    def listen(self) -> None:
        """Starts passing the child's records on, until the child is gone."""
        self.queue.close_writer()
        self._receive_thread.start()

    def adopt(self) -> None:
        """Makes this the child's only handler. Leaving never waits for records to be read."""
        self.queue.cancel_join_thread()
        self.queue.close_reader()
        logging.getLogger().handlers[:] = [self]

    def _receive(self) -> None:
        while True:
            try:
                data = self.queue.receive()
            except (EOFError, OSError):
                return  # a record cut off by the child's death is lost with it
            try:
                values = _PlainUnpickler(io.BytesIO(data)).load()
            except Exception as e:  # noqa: BLE001  whatever a hostile pickle raises; it must not end the thread
                values = {"levelno": logging.WARNING, "levelname": "WARNING", "msg": f"unreadable log record: {e}"}
            with contextlib.suppress(Exception):  # a record with wrong types must not end the thread either
                self.sub_handler.handle(logging.makeLogRecord(_record(values)))

    def emit(self, record: logging.LogRecord) -> None:
        if not self._bucket.take(time.monotonic()):
            return
        omitted, self._bucket.refused = self._bucket.refused, 0
        record = self._format_record(record)
        values: dict[str, Any] = {name: getattr(record, name, None) for name in _CROSSING}
        values["msg"] = str(record.msg)
        more = {k: v if isinstance(v, int | float) else str(v) for k, v in _fields(record).items()}
        values["fields"] = more | ({"records_left_out": omitted} if omitted else {})
        try:
            self._send(values)
        except queue.Full:
            self._bucket.refused += omitted + 1

    def flush_briefly(self, at_most_s: float = 0.5) -> None:
        """Before the child leaves: gives the feeder thread a moment to write what is queued."""
        self.queue.close()
        feeder = getattr(self.queue, "_thread", None)
        if feeder is not None:
            feeder.join(at_most_s)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    values: dict[str, Any] = getattr(record, "fields", {})
    return values


def child_handler(name: str) -> ChildHandler:
    """A handler for the child that is about to be forked, onto this process's standard error."""
    return ChildHandler(logging.getLogger().handlers[0], name)
