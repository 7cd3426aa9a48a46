"""What a sensor tells of itself, to a vSensor that has proved to hold the key and to nobody else. Pure.

The registration goes to whoever is at the address, so it says almost nothing (registration.py). This is the other half:
who and where the sensor is, what it captures, and whether it could do what it was asked to. It is sent after each
proof, once a minute that is; a vSensor that does not know it answers 404, and nothing is the worse for it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import Final

from .protocol import MAX_CONTROL_BYTES, TEXT_CHARACTERS_MAX, MalformedError, text

# What the task metadata endpoint calls what, where the sensor runs in a task.
TASK_MEMBERS: Final = {
    "arn": "TaskARN",
    "cluster": "Cluster",
    "family": "Family",
    "revision": "Revision",
    "availability_zone": "AvailabilityZone",
    "launch_type": "LaunchType",
}
# A host with more tells of so many: names of 15 bytes, and 16 KiB for everything.
INTERFACES_MAX: Final = 256
_EPOCH: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Introduction:
    """One sensor, at this moment."""

    application: str
    host: str
    task: Mapping[str, str] = field(default_factory=dict)  # members of TASK_MEMBERS that are known
    interfaces: tuple[str, ...] = ()
    interfaces_in_all: int = 0
    antigena: str = "off"
    packet_filter_refused: str = ""  # why the filter that the vSensor asked for is not in force
    epochs: Mapping[str, str] = field(default_factory=dict)  # the present one of each of the interfaces

    def now(self, interfaces: list[str], refused: str, epochs: Mapping[str, str]) -> Introduction:
        """With what changes, as far as it fits into a message: of many interfaces, not all epochs do."""
        said = replace(
            self,
            host=_sayable(self.host),  # sethostname(2) takes any bytes
            interfaces=tuple(sorted(interfaces)[:INTERFACES_MAX]),
            interfaces_in_all=len(interfaces),
            packet_filter_refused=_sayable(refused),
            epochs={name: epochs[name] for name in sorted(epochs)},
        )
        while said.epochs and len(said.body) > MAX_CONTROL_BYTES:
            said = replace(said, epochs=dict(islice(said.epochs.items(), len(said.epochs) // 2)))
        return said

    @property
    def body(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, body: bytes) -> Introduction:
        """The introduction in a body; members that this version does not know are passed over.

        Raises MalformedError for one that is no JSON object, or has a member that no sensor would send.
        """
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as e:
            raise MalformedError("the introduction is no JSON") from e
        if not isinstance(values, dict) or len(body) > MAX_CONTROL_BYTES:
            raise MalformedError("the introduction is no JSON object, or too long")
        task, interfaces = values.get("task", {}), values.get("interfaces", [])
        in_all = values.get("interfaces_in_all", 0)
        if not isinstance(task, dict) or not isinstance(interfaces, list) or len(interfaces) > INTERFACES_MAX:
            raise MalformedError("task or interfaces are not what they should be")
        epochs = values.get("epochs", {})
        if not isinstance(epochs, dict) or not all(_EPOCH.fullmatch(text(epoch)) for epoch in epochs.values()):
            raise MalformedError("the epochs are not what they should be")
        if type(in_all) is not int or not 0 <= in_all < 2**31:
            raise MalformedError("the number of interfaces is none")
        return cls(
            application=text(values.get("application", "")),
            host=text(values.get("host", "")),
            task={name: text(task[name]) for name in TASK_MEMBERS if name in task},
            interfaces=tuple(text(name) for name in interfaces),
            interfaces_in_all=in_all,
            antigena=text(values.get("antigena", "off")),
            packet_filter_refused=text(values.get("packet_filter_refused", "")),
            epochs={text(name): epoch for name, epoch in epochs.items()},
        )


def _sayable(told: str) -> str:
    """So much of it as protocol.text() takes."""
    return "".join(c for c in told if c.isprintable())[:TEXT_CHARACTERS_MAX]
