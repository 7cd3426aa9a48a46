"""What the ECS agent says of the task, and what a child writes into the supervisor's log.

Declared: none of the one (transport/taskmetadata.py); ValueError of the other (childlog.py), whose reader catches also
RecursionError. Second oracle: what goes on is printable, a name that can stand in a path, and a log record that
logging takes, one line a message.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

from ossensor import childlog
from ossensor.transport import taskmetadata
from ossensor.transport.introduction import TASK_MEMBERS, Introduction
from ossensor.transport.protocol import sensor_name_ok


def seeds() -> Iterator[bytes]:
    arn = "arn:aws:ecs:eu-central-1:123456789012:task/web/0123456789abcdef0123456789abcdef"
    yield json.dumps(
        {"TaskARN": arn, "Cluster": "web", "Family": "f", "Revision": "7", "LaunchType": "FARGATE"}
    ).encode()
    record = {"name": "ossensor", "levelno": 20, "created": 1.5, "msecs": 500.0, "msg": "ready", "fields": {"n": 1}}
    yield json.dumps({**record, "TaskARN": "task/x", "exc_text": "one\ntwo", "processName": "x"}).encode()


def target(data: bytes) -> bool:
    task = taskmetadata.maybe_read(data)
    if task is not None:
        assert sensor_name_ok(task.name)
        assert task.details.keys() <= TASK_MEMBERS.keys()
        said = Introduction("ossensor/1", "host", task.details)
        assert Introduction.parse(said.body) == said
    try:
        values = childlog._decoded(data, "capture eth0")
    except (ValueError, RecursionError):
        return task is not None
    assert values["processName"] == "capture eth0"
    if isinstance(message := values.get("msg"), str):
        assert message.isprintable()
    logging.makeLogRecord(values)
    return task is not None
