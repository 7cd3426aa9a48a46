"""Which ECS task this is, from the task metadata endpoint, version 4: what a sidecar's sensor is called by default.

Every container of a task has the task's own random host name or none that says anything, but all know an address that
tells (Amazon ECS developer guide, "task metadata endpoint version 4"). It is asked once, at the start, for a second at
most: a sensor without a good name is better than none.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import suppress
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from .introduction import TASK_MEMBERS
from .protocol import sensor_name_ok

# The document of a task with ten containers, the most that there may be, has some 30 KiB.
_MOST_BYTES: Final = 256 << 10
_LIMIT_S: Final = 1.0
_LONGEST: Final = 512  # an ARN has some 200 characters


class Task(NamedTuple):
    """What is known of the task."""

    name: str  # its id, the end of its ARN, which can name a sensor
    details: dict[str, str]  # members of introduction.TASK_MEMBERS


def maybe_read(document: bytes) -> Task | None:
    """The task that the document tells of, if it is one of a task and its id can name a sensor."""
    try:
        values = json.loads(document)
    except (ValueError, RecursionError):
        return None
    arn = values.get("TaskARN") if isinstance(values, dict) else None
    name = arn.rpartition("/")[2] if isinstance(arn, str) else ""
    if not sensor_name_ok(name):
        return None
    said = {ours: values.get(theirs) for ours, theirs in TASK_MEMBERS.items()}
    return Task(name, {k: v for k, v in said.items() if isinstance(v, str) and v.isprintable() and len(v) <= _LONGEST})


def maybe_task(uri: str, limit_s: float = _LIMIT_S) -> Task | None:
    """The task that the endpoint at this address tells of; None for whatever else is there, or nothing."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    if parts.scheme != "http" or host is None:
        return None
    until_s = time.monotonic() + limit_s
    connection = http.client.HTTPConnection(host, port, timeout=limit_s)
    try:
        connection.connect()
        document = _asked(connection, parts.path.rstrip("/") + "/task", until_s - time.monotonic())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
    return maybe_read(document) if len(document) <= _MOST_BYTES else None


def _asked(connection: http.client.HTTPConnection, path: str, limit_s: float) -> bytes:
    """What is there; empty, if it is not good."""
    # The time limit of a socket is for each read; who answers in drips would be waited for. The socket itself, because
    # the connection lets go of it where the answer is its last, while the body is still to be read.
    deadline = threading.Timer(limit_s, _hang_up, [connection.sock])
    deadline.start()
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.read(_MOST_BYTES + 1) if response.status == 200 else b""
    finally:
        deadline.cancel()
        deadline.join()  # no thread is left when the supervisor forks


def _hang_up(sock: socket.socket) -> None:
    with suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
