"""What speaks against the sensor in a task, or has to be said of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from ossensor.errors import ConfigurationError
from ossensor.settings import load
from ossensor.variables import CONFIG_PATH, DEVICE, HOSTNAME, KEY

from . import fargate
from .document import Node, Task, computed
from .sidecar import (
    DRAIN,
    LEAST_MIB,
    MEMORY,
    PROCESSES_MIB,
    STOP_MARGIN_S,
    Sidecar,
    environment_of,
    find,
    for_packets,
    is_sensor,
    number,
    stop_s,
)

_MOST_STOP_S: Final = 120  # ContainerDefinition.stopTimeout on Fargate
_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")  # ContainerDefinition.name
_PATHS: Final = ("_FILE", "_PATH", "_DIR")  # variables that name files of the container, not of this machine


def of_arguments(wanted: Sidecar) -> list[str]:
    """What is wrong with what was asked for, whatever the task."""
    faults = []
    if not _NAME.fullmatch(wanted.name):
        faults.append(f"--name {wanted.name!r}: letters, digits, - and _, 255 at most")
    if not wanted.image:
        faults.append("--image: is empty")
    if isinstance(wanted.key_from, str) and not wanted.key_from.startswith("arn:"):
        # Without the text: it may be the key itself, given by mistake.
        faults.append("--key-secret: not the ARN of a secret or of a parameter")
    if wanted.memory_mib < LEAST_MIB:
        faults.append(f"--memory {wanted.memory_mib}: the sensor needs {LEAST_MIB} MiB at least")
    return faults


def of_task(task: Task, wanted: Sidecar) -> list[str]:
    """Every reason for which the sensor would not run in this task, or would run twice."""
    prefix = f"{task.where}: " if task.where else ""
    return [prefix + fault for fault in _task_faults(task, wanted)]


def _task_faults(task: Task, wanted: Sidecar) -> Iterator[str]:
    there = find(task, wanted.name)
    if there is not None and not is_sensor(there):
        yield f"container {wanted.name!r} is there and is no sensor: choose another --name"
    for other in task.containers:
        name = other.get("name")
        if name != wanted.name and is_sensor(other):
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
    yield from _settings(environment_of(container, wanted), wanted.memory_mib)[0]


def _memory_faults(task: Task, wanted: Sidecar) -> Iterator[str]:
    """Whether what all containers reserve fits into the task: ContainerDefinition.memory in the API reference."""
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
    if stop_s(texts) > _MOST_STOP_S:
        faults.append(f"{DRAIN}: Fargate waits {_MOST_STOP_S} s at most, so {_MOST_STOP_S - STOP_MARGIN_S} at most")
    if number(texts, MEMORY) > max(limit_mib, LEAST_MIB) - PROCESSES_MIB:
        faults.append(
            f"{MEMORY} is {texts[MEMORY]}: with --memory {limit_mib} it can be {for_packets(limit_mib)} at most"
        )
    # A key that stands for the secret, no config file, and every interface that is named exists there.
    judged = {**texts, KEY: "0" * 32, CONFIG_PATH: "/proc/nowhere/ossensor.cfg"}
    try:
        loaded = load(judged, interface_names=lambda: texts.get(DEVICE, "").split())
    except ConfigurationError as e:
        return [*e.faults, *faults], []
    return faults, loaded.warnings


def remarks(task: Task, wanted: Sidecar) -> list[str]:
    """What the user should know of a task that the sensor has been put into."""
    prefix = f"{task.where}: " if task.where else ""
    container = find(task, wanted.name) or Node({}, task.node.spell)
    found = _settings(environment_of(container, wanted), wanted.memory_mib)[1]
    for name in ("entryPoint", "command", "user", "workingDirectory"):
        if container.has(name):
            found.append(f"the sensor keeps the {container.spell(name)} that its container had; our image has its own")
    if not container.has("logConfiguration"):
        found.append("the sensor's log goes nowhere: no container has awslogs; give --log-group and --log-region")
    if not task.whole:
        found.append(
            "a list of containers says nothing of its task: network mode awsvpc, an execution role that may read the"
            " secret, and enough memory were not checked"
        )
    return [prefix + remark for remark in found]
