"""What cannot run on Fargate, sensor or not, with the reason. Pure.

Only what AWS documents as refused is refused here (the API's reference, and the developer guide's "Task definition
differences for Fargate"), since a rule that is out of date would refuse what works:
`tmpfs` was on that list until January 2026 and is not here. A value that CloudFormation computes is not judged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from .document import Node, Task

MAX_CONTAINERS: Final = 10  # Amazon ECS service quotas, "Containers per task definition"; not adjustable
_LOG_DRIVERS: Final = ("awslogs", "awsfirelens", "splunk")
_ADDABLE: Final = ("SYS_PTRACE",)

_GB: Final = 1024
# CPU units -> what the task's memory may be, in MiB. Amazon ECS developer guide, "Task size".
_SIZES: Final[dict[int, Sequence[int]]] = {
    256: (512, 1 * _GB, 2 * _GB),
    512: range(1 * _GB, 4 * _GB + 1, _GB),
    1024: range(2 * _GB, 8 * _GB + 1, _GB),
    2048: range(4 * _GB, 16 * _GB + 1, _GB),
    4096: range(8 * _GB, 30 * _GB + 1, _GB),
    8192: range(16 * _GB, 60 * _GB + 1, 4 * _GB),
    16384: range(32 * _GB, 120 * _GB + 1, 8 * _GB),
}
_SIZE = re.compile(r"(\d{1,6}|\d{0,3}\.\d{1,3}) ?(vcpu|gb)?", re.IGNORECASE)


def next_size(cpu: int | None, least_mib: int) -> int | None:
    """The smallest memory of a task with this CPU that is `least_mib` or more; None when there is none."""
    return next((size for size in _SIZES.get(cpu or 0, ()) if size >= least_mib), None)


def units(value: Any) -> int | None:
    """CPU units or MiB from the spellings that ECS takes (`256`, `"256"`, `".25 vCPU"`, `"2GB"`); None for others."""
    match = _SIZE.fullmatch(str(value).strip()) if isinstance(value, str | int) and value is not True else None
    if match is None:
        return None
    number, unit = match.groups()
    if unit is None and "." in number:
        return None
    return round(float(number) * _GB) if unit else int(number)


def faults(task: Task) -> list[str]:
    """Every reason for which this cannot run on Fargate."""
    prefix = f"{task.where}: " if task.where else ""
    found = [*_of_task(task.node)] if task.whole else []
    for index, container in enumerate(task.containers):
        name = container.get("name")
        called = f"container {name!r}" if isinstance(name, str) else f"container [{index}]"
        found += [f"{called}: {fault}" for fault in _of_container(container)]
    return [prefix + fault for fault in found]


# -- the task ---------------------------------------------------------------------------------------------------------


def _of_task(task: Node) -> Iterator[str]:
    for rule in _TASK_RULES:
        yield from rule(task)


def _network_mode(task: Node) -> Iterator[str]:
    key, mode = task.spell("networkMode"), task.get("networkMode")
    if mode != "awsvpc" and not _left_to_template(task, "networkMode"):
        yield f"{key} is {mode or 'missing'}: Fargate runs awsvpc only, where a task's containers share one network"


def _compatibility(task: Node) -> Iterator[str]:
    asked = task.texts("requiresCompatibilities")
    if asked and "FARGATE" not in asked:
        yield f"{task.spell('requiresCompatibilities')} is {', '.join(asked)}: not meant for Fargate"


def _platform(task: Node) -> Iterator[str]:
    family = task.node("runtimePlatform").get("operatingSystemFamily")
    if isinstance(family, str) and family.upper() != "LINUX":
        yield f"{task.spell('operatingSystemFamily')} is {family}: the sensor captures with Linux's packet sockets"


def _size(task: Node) -> Iterator[str]:
    given = {name: task.get(name) for name in ("cpu", "memory")}
    parsed = {name: units(value) for name, value in given.items()}
    for name, value in given.items():
        if value is None and not _left_to_template(task, name):
            yield f"{task.spell(name)} is missing: Fargate requires it for the task as a whole"
        elif value is not None and parsed[name] is None:
            yield f"{task.spell(name)} is {value!r}: not a size that ECS takes"
    cpu, memory = parsed["cpu"], parsed["memory"]
    if cpu is not None and cpu not in _SIZES:
        yield f"{task.spell('cpu')} is {cpu}: Fargate has {', '.join(map(str, _SIZES))}"
    elif cpu is not None and memory is not None and memory not in _SIZES[cpu]:
        sizes = ", ".join(map(str, _SIZES[cpu]))
        yield f"{task.spell('memory')} is {memory}: with {cpu} of CPU, Fargate has {sizes} MiB"


def _namespaces(task: Node) -> Iterator[str]:
    if task.get("pidMode") == "host":
        yield f"{task.spell('pidMode')} is host: on Fargate it can be task only"
    if task.has("ipcMode"):
        yield f"{task.spell('ipcMode')}: not on Fargate"


def _placement(task: Node) -> Iterator[str]:
    for name in ("placementConstraints", "inferenceAccelerators"):
        if task.has(name):
            yield f"{task.spell(name)}: not on Fargate"


def _volumes(task: Node) -> Iterator[str]:
    for volume in task.nodes("volumes"):
        where = f"volume {volume.get('name')!r}"
        if volume.node("host").has("sourcePath"):
            yield f"{where}: {volume.spell('sourcePath')} is a folder of a host, and on Fargate there is none"
        for name in ("dockerVolumeConfiguration", "fsxWindowsFileServerVolumeConfiguration"):
            if volume.has(name):
                yield f"{where}: {volume.spell(name)}: not on Fargate"


_TASK_RULES: Final[tuple[Callable[[Node], Iterator[str]], ...]] = (
    _network_mode,
    _compatibility,
    _platform,
    _size,
    _namespaces,
    _placement,
    _volumes,
)


# -- its containers ---------------------------------------------------------------------------------------------------

_NOT_IN_A_CONTAINER: Final = (
    "privileged",
    "links",
    "dockerSecurityOptions",
    "extraHosts",
    "disableNetworking",
    "dnsServers",
    "dnsSearchDomains",
    "hostname",
)


def _of_container(container: Node) -> Iterator[str]:
    for name in _NOT_IN_A_CONTAINER:
        if container.has(name) and container.get(name) not in (False, "false", None):
            yield f"{container.spell(name)}: not on Fargate"
    linux = container.node("linuxParameters")
    for name in ("devices", "sharedMemorySize", "maxSwap", "swappiness"):
        if linux.has(name):
            yield f"{linux.spell(name)}: not on Fargate"
    added = [name for name in linux.node("capabilities").texts("add") if name not in _ADDABLE]
    if added:
        yield f"capabilities {', '.join(added)}: on Fargate only {', '.join(_ADDABLE)} can be added"
    for port in container.nodes("portMappings"):
        inside, outside = port.get("containerPort"), port.get("hostPort")
        if inside is not None and outside not in (None, 0, "0") and str(inside) != str(outside):
            yield f"{port.spell('hostPort')} {outside} is not {port.spell('containerPort')} {inside}: awsvpc maps none"
    driver = container.node("logConfiguration").get("logDriver")
    if driver is not None and driver not in _LOG_DRIVERS:
        yield f"log driver {driver}: Fargate has {', '.join(_LOG_DRIVERS)}"
    if any(need.get("type") == "GPU" for need in container.nodes("resourceRequirements")):
        yield "a GPU: not on Fargate"


def _left_to_template(node: Node, name: str) -> bool:
    """Whether the member is there and will be computed."""
    return node.has(name) and node.get(name) is None
