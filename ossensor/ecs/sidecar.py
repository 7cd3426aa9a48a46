"""The sensor's container, and how it gets into a task definition. Pure.

Invariants: adding twice is adding once; a member, a variable or a secret that this module does not set stays as it was,
in the sensor's container too; the other containers are not touched at all.

Whatever happens to the sensor, the application goes on, and each choice below follows from that:

- `essential` is false: a sensor that ends does not end the task.
- No container depends on it. `dependsOn: START` in the application would have it captured from its first packet to its
  last (ECS stops in the reverse order), but then an application waits for a sensor that cannot start. The reverse,
  the sensor depending on the application, would stop the sensor first, before the application has said its last.
- The health check only tells. ECS replaces a task when an *essential* container is unhealthy (developer guide,
  "Determine task health using container health checks"), and a restart policy looks at exits, not at health. So it
  costs the application nothing, and shows in the console and in events. A hung sensor is not its affair: the
  supervisor watches its children and restarts them. An unreachable vSensor is not unhealthy either.
- `memory` is a hard limit for the sensor alone: what outgrows it is killed, and not the application.
- No `cpu`: an application that asked for none has the least share (2), and any number here would put the sensor before
  it. Starved, the sensor drops packets, and counts them.
- Exit codes 77 and 78 (errors.Exit) are not restarted: nothing in a task changes before its next revision.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ossensor.errors import Exit
from ossensor.variables import DEVICE, HOSTNAME, KEY

from . import fargate
from .document import Node, Task, computed

# What a container runtime grants by default, less NET_RAW. Dropped one by one, because "ALL" would need NET_RAW added
# again, and Fargate adds nothing but SYS_PTRACE.
DROPPED: Final = (
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
# All processes of an idle sensor, beside rings and slots, have 80 MiB at most; as much again is kept free for load.
PROCESSES_MIB: Final = 128
# With less, nothing of a full interface's ring and buffer (48 MiB) would fit.
LEAST_MIB: Final = PROCESSES_MIB + 64
STOP_MARGIN_S: Final = 5  # between the end of the drain and SIGKILL
_STOP_S: Final = 30  # ECS's own default, said because the drain limit rests on it
DRAIN: Final = "OSSENSOR_DRAIN_SECONDS"
MEMORY: Final = "OSSENSOR_MEMORY_MB"
_NUMBER = re.compile(r"[0-9]{1,7}")


@dataclass(frozen=True)
class Sidecar:
    """What was asked for. Values that CloudFormation will compute are objects (`{"Ref": "Key"}`) in place of texts."""

    image: Any
    vsensor: Any
    key_from: Any  # the ARN of a secret, or of a parameter, that holds the key
    name: str = "ossensor"
    memory_mib: int = 256
    environment: Mapping[str, str] = field(default_factory=dict)
    log_group: str = ""
    log_region: str = ""


def put(task: Task, wanted: Sidecar) -> None:
    """Puts the sensor's container into the task, or brings the one that is there up to date."""
    there = find(task, wanted.name)
    container = Node({} if there is None else there.members, task.node.spell)
    environment = environment_of(container, wanted)
    secrets = {**named(container, "secrets", "valueFrom"), KEY: wanted.key_from}
    # ECS refuses a name that is both a variable and a secret.
    secrets = {name: origin for name, origin in secrets.items() if name not in environment}
    _set(container, "name", wanted.name)
    _set(container, "image", wanted.image)
    _set(container, "essential", False)
    _set(container, "memory", wanted.memory_mib)
    _set(container, "readonlyRootFilesystem", True)
    _set(container, "stopTimeout", stop_s(environment))
    _set(container, "linuxParameters", {**_kept(container, "linuxParameters"), **_linux(container)})
    _set(container, "restartPolicy", _RESTART)
    _set(container, "healthCheck", _HEALTH)
    _set_raw(container, "environment", _merged(container, "environment", "value", environment))
    _set_raw(container, "secrets", _merged(container, "secrets", "valueFrom", secrets))
    if (log := _log(task, container, wanted)) is not None:
        _set_raw(container, "logConfiguration", log)
    if there is None:
        task.append(container.members)


# -- what is set ------------------------------------------------------------------------------------------------------

_RESTART: Final = {
    "enabled": True,
    "ignoredExitCodes": [int(Exit.DRAINED), int(Exit.PRIVILEGE), int(Exit.CONFIGURATION)],
    "restartAttemptPeriod": 60,  # the least: a sensor that ran for a minute was no failure to start
}
_HEALTH: Final = {
    "command": ["CMD", "ossensor", "health"],  # CMD, not CMD-SHELL: the image has no shell
    "interval": 30,
    "timeout": 10,
    "retries": 3,
    "startPeriod": 30,
}


def _linux(container: Node) -> dict[str, Any]:
    return {container.spell("capabilities"): {container.spell("drop"): list(DROPPED)}}


def environment_of(container: Node, wanted: Sidecar) -> dict[str, Any]:
    """The variables of the sensor, name -> value: what is there, then what has to be, then what was asked for."""
    there = named(container, "environment", "value")
    if there.get(MEMORY) == for_packets(fargate.units(container.get("memory"))):
        del there[MEMORY]  # it followed from the limit, and follows from the new one
    defaults = {DEVICE: "default", MEMORY: for_packets(wanted.memory_mib)}
    secret = named(container, "secrets", "valueFrom")
    environment = {name: text for name, text in defaults.items() if name not in secret}
    environment |= {**there, HOSTNAME: wanted.vsensor, **wanted.environment}
    environment.pop(KEY, None)  # in clear for whoever may read the definition; it comes as a secret
    return environment


def for_packets(limit_mib: int | None) -> str:
    """What is left of the container's limit for rings and buffers, as OSSENSOR_MEMORY_MB has it."""
    return str((limit_mib or 0) - PROCESSES_MIB)


def stop_s(environment: Mapping[str, Any]) -> int:
    """What `stopTimeout` has to be, so that the drain's own limit is the shorter one."""
    return max(_STOP_S, number(environment, DRAIN) + STOP_MARGIN_S)


def number(environment: Mapping[str, Any], name: str) -> int:
    """The variable as a number; 0 where it is none that the sensor would take, which `load` says."""
    text = environment.get(name)
    return int(text) if isinstance(text, str) and _NUMBER.fullmatch(text) else 0


def _log(task: Task, container: Node, wanted: Sidecar) -> dict[str, Any] | None:
    """Where the sensor's log goes: as asked for, else as it is, else to the group of another container."""
    spell = container.spell
    prefix = {"awslogs-stream-prefix": wanted.name}
    if wanted.log_group:
        options = {"awslogs-group": wanted.log_group, "awslogs-region": wanted.log_region, **prefix}
        return {spell("logDriver"): "awslogs", spell("options"): options}
    if container.has("logConfiguration"):
        return None
    for other in task.containers:
        configuration = other.node("logConfiguration")
        options = configuration.get("options")
        if configuration.get("logDriver") == "awslogs" and isinstance(options, dict):
            return {spell("logDriver"): "awslogs", spell("options"): {**options, **prefix}}
    return None


# -- small things -----------------------------------------------------------------------------------------------------


def find(task: Task, name: str) -> Node | None:
    """The container of that name."""
    return next((c for c in task.containers if c.get("name") == name), None)


def is_sensor(container: Node) -> bool:
    """Whether the container is one of ours, or of this kind: no other program has this variable."""
    return HOSTNAME in {**named(container, "environment", "value"), **named(container, "secrets", "valueFrom")}


def named(container: Node, name: str, value: str) -> dict[str, Any]:
    """A list of {name, value} objects as a mapping."""
    pairs = {}
    for item in container.nodes(name):
        key = item.get("name")
        if isinstance(key, str):
            pairs[key] = item.members.get(item.spell(value))
    return pairs


def _merged(container: Node, name: str, value: str, wanted: Mapping[str, Any]) -> list[Any]:
    """The list of {name, value} objects that says what `wanted` says and no more, in the order that it had.

    Items that are computed, or named by what is, stay; and so does what else an item has.
    """
    name_key, value_key = container.spell("name"), container.spell(value)
    rest = dict(wanted)
    items = []
    for item in container.get(name) or []:
        key = item.get(name_key) if isinstance(item, dict) else None
        if not isinstance(key, str):
            items.append(item)
        elif key in rest:
            items.append({**item, value_key: rest.pop(key)})
    return [*items, *({name_key: key, value_key: what} for key, what in rest.items())]


def _kept(container: Node, name: str) -> dict[str, Any]:
    return dict(container.node(name).members)


def _set(container: Node, name: str, value: Any) -> None:
    _set_raw(container, name, _respelled(value, container.spell))


def _set_raw(container: Node, name: str, value: Any) -> None:
    container.members[container.spell(name)] = value


def _respelled(value: Any, spell: Callable[[str], str]) -> Any:
    """The value with the members of its objects spelled as the document does; a computed one is the template's."""
    if isinstance(value, dict) and not computed(value):
        return {spell(name): _respelled(item, spell) for name, item in value.items()}
    return [_respelled(item, spell) for item in value] if isinstance(value, list) else value
