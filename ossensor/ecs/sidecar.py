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

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ossensor.errors import ConfigurationError, Exit
from ossensor.settings import load
from ossensor.variables import CONFIG_PATH, DEVICE, HOSTNAME, KEY

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
_PROCESSES_MIB: Final = 128
# With less, nothing of a full interface's ring and buffer (48 MiB) would fit.
LEAST_MIB: Final = _PROCESSES_MIB + 64
_STOP_MARGIN_S: Final = 5  # between the end of the drain and SIGKILL
_STOP_S: Final = 30  # ECS's own default, said because the drain limit rests on it
_MOST_STOP_S: Final = 120  # ContainerDefinition.stopTimeout on Fargate
_DRAIN: Final = "OSSENSOR_DRAIN_SECONDS"
_MEMORY: Final = "OSSENSOR_MEMORY_MB"
_PATHS: Final = ("_FILE", "_PATH", "_DIR")  # variables that name files of the container, not of this machine


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


def faults(task: Task, wanted: Sidecar) -> list[str]:
    """Every reason for which the sensor would not run in this task, or would run twice."""
    prefix = f"{task.where}: " if task.where else ""
    return [prefix + fault for fault in _faults(task, wanted)]


def put(task: Task, wanted: Sidecar) -> list[str]:
    """Puts the sensor's container into the task, or brings the one that is there up to date. Returns remarks."""
    there = _find(task, wanted.name)
    container = Node({} if there is None else there.members, task.node.spell)
    environment = _environment(container, wanted)
    secrets = {**_named(container, "secrets", "valueFrom"), KEY: wanted.key_from}
    _set(container, "name", wanted.name)
    _set(container, "image", wanted.image)
    _set(container, "essential", False)
    _set(container, "memory", wanted.memory_mib)
    _set(container, "readonlyRootFilesystem", True)
    _set(container, "stopTimeout", _stop_s(environment))
    _set(container, "linuxParameters", {**_kept(container, "linuxParameters"), **_linux(container)})
    _set(container, "restartPolicy", _RESTART)
    _set(container, "healthCheck", _HEALTH)
    _set_raw(container, "environment", _merged(container, "environment", "value", environment, without=KEY))
    _set_raw(container, "secrets", _merged(container, "secrets", "valueFrom", secrets, without=HOSTNAME))
    if (log := _log(task, container, wanted)) is not None:
        _set_raw(container, "logConfiguration", log)
    if there is None:
        task.append(container.members)
    return _remarks(task, container, environment, wanted.memory_mib)


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


def _environment(container: Node, wanted: Sidecar) -> dict[str, Any]:
    """Name -> value: what is there, then what has to be, then what was asked for."""
    there = _named(container, "environment", "value")
    if there.get(_MEMORY) == _for_packets(fargate.units(container.get("memory"))):
        del there[_MEMORY]  # it followed from the limit, and follows from the new one
    environment = {DEVICE: "default", _MEMORY: _for_packets(wanted.memory_mib), **there, HOSTNAME: wanted.vsensor}
    environment |= wanted.environment
    environment.pop(KEY, None)  # in clear for whoever may read the definition; it comes as a secret
    return environment


def _for_packets(limit_mib: int | None) -> str:
    """What is left of the container's limit for rings and buffers, as OSSENSOR_MEMORY_MB has it."""
    return str((limit_mib or 0) - _PROCESSES_MIB)


def _stop_s(environment: Mapping[str, Any]) -> int:
    drain = environment.get(_DRAIN, "")
    return max(_STOP_S, int(drain) + _STOP_MARGIN_S) if isinstance(drain, str) and drain.isdecimal() else _STOP_S


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


# -- what is wrong ----------------------------------------------------------------------------------------------------


def _faults(task: Task, wanted: Sidecar) -> Iterator[str]:
    there = _find(task, wanted.name)
    if there is not None and not _is_sensor(there):
        yield f"container {wanted.name!r} is there and is no sensor: choose another --name"
    for other in task.containers:
        name = other.get("name")
        if name != wanted.name and _is_sensor(other):
            yield f"container {name!r} is a sensor already; two would send everything twice: --name {name} updates it"
    if there is None and len(task.containers) >= fargate.MAX_CONTAINERS:
        yield f"{len(task.containers)} containers are there, and a task has {fargate.MAX_CONTAINERS} at most"
    if task.whole and not task.node.has("executionRoleArn"):
        yield f"{task.node.spell('executionRoleArn')} is missing: ECS needs it to fetch the key's secret"
    container = there or Node({}, task.node.spell)
    for name in ("environment", "secrets"):
        if container.has(name) and not isinstance(container.get(name), list):
            yield f"container {wanted.name!r}: {container.spell(name)} is no list, or computed: nothing can be added"
    yield from _memory_faults(task, wanted)
    yield from _settings(_environment(container, wanted), wanted.memory_mib)[0]


def _memory_faults(task: Task, wanted: Sidecar) -> Iterator[str]:
    """Whether what all containers reserve fits into the task: ContainerDefinition.memory in the API reference."""
    if wanted.memory_mib < LEAST_MIB:
        yield f"--memory {wanted.memory_mib}: the sensor needs {LEAST_MIB} MiB at least"
    others = [c for c in task.containers if c.get("name") != wanted.name]
    reserved = sum(fargate.units(c.get("memoryReservation") or c.get("memory")) or 0 for c in others)
    whole = fargate.units(task.node.get("memory")) if task.whole else None
    needed = reserved + wanted.memory_mib
    if whole is not None and needed > whole:
        better = fargate.next_size(fargate.units(task.node.get("cpu")), needed)
        advice = f"give the task {better}" if better else "give the task more CPU, hence more memory"
        yield (
            f"{task.node.spell('memory')} is {whole} MiB; its containers reserve {reserved} and the sensor needs"
            f" {wanted.memory_mib}: {advice}, or let them reserve less"
        )


def _settings(environment: Mapping[str, Any], limit_mib: int) -> tuple[list[str], list[str]]:
    """(faults, warnings) that the sensor itself would have with these variables, as far as can be told from here."""
    texts = {
        name: "vsensor" if name == HOSTNAME and computed(value) else value
        for name, value in environment.items()
        if not name.endswith(_PATHS) and (name == HOSTNAME or isinstance(value, str))
    }
    faults = []
    if _stop_s(texts) > _MOST_STOP_S:
        faults.append(f"{_DRAIN}: Fargate waits {_MOST_STOP_S} s at most, so {_MOST_STOP_S - _STOP_MARGIN_S} at most")
    packets = texts.get(_MEMORY, "")
    if packets.isdecimal() and int(packets) > max(limit_mib, LEAST_MIB) - _PROCESSES_MIB:
        faults.append(f"{_MEMORY} is {packets}: with --memory {limit_mib} it can be {_for_packets(limit_mib)} at most")
    # A key that stands for the secret, no config file, and every interface that is named exists there.
    judged = {**texts, KEY: "0" * 32, CONFIG_PATH: "/proc/nowhere/ossensor.cfg"}
    try:
        loaded = load(judged, interface_names=lambda: texts.get(DEVICE, "").split())
    except ConfigurationError as e:
        return [*e.faults, *faults], []
    return faults, loaded.warnings


def _remarks(task: Task, container: Node, environment: Mapping[str, Any], limit_mib: int) -> list[str]:
    prefix = f"{task.where}: " if task.where else ""
    remarks = _settings(environment, limit_mib)[1]
    if not container.has("logConfiguration"):
        remarks.append("the sensor's log goes nowhere: no container has awslogs; give --log-group and --log-region")
    if not task.whole:
        remarks.append(
            "a list of containers says nothing of its task: network mode awsvpc, an execution role that may read the"
            " secret, and enough memory were not checked"
        )
    return [prefix + remark for remark in remarks]


# -- small things -----------------------------------------------------------------------------------------------------


def _find(task: Task, name: str) -> Node | None:
    return next((c for c in task.containers if c.get("name") == name), None)


def _is_sensor(container: Node) -> bool:
    return HOSTNAME in {**_named(container, "environment", "value"), **_named(container, "secrets", "valueFrom")}


def _named(container: Node, name: str, value: str) -> dict[str, Any]:
    """A list of {name, value} objects as a mapping."""
    pairs = {}
    for item in container.nodes(name):
        key = item.get("name")
        if isinstance(key, str):
            pairs[key] = item.members.get(item.spell(value))
    return pairs


def _merged(container: Node, name: str, value: str, wanted: Mapping[str, Any], *, without: str) -> list[Any]:
    """The list of {name, value} objects that says what `wanted` says, in the order that it had.

    Items that are computed, or named by what is, stay; and so does what else an item has. `without` goes: ECS refuses
    a name that is both a variable and a secret.
    """
    name_key, value_key = container.spell("name"), container.spell(value)
    rest = dict(wanted)
    items = []
    for item in container.get(name) or []:
        key = item.get(name_key) if isinstance(item, dict) else None
        if not isinstance(key, str):
            items.append(item)
        elif key != without and key in rest:
            items.append({**item, value_key: rest.pop(key)})
        elif key != without and key not in wanted:
            items.append(item)
    return [*items, *({name_key: key, value_key: what} for key, what in rest.items() if key != without)]


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
