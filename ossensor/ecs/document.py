"""Where task definitions lie in a document, and how it spells their members. Pure.

Four shapes are told apart by what only they have: a CloudFormation template (`Resources`) or one resource of it
(`Properties`), what `describe-task-definition` answers (`taskDefinition`), what `register-task-definition` takes and
the console's JSON view shows (`containerDefinitions`), and Terraform's `container_definitions` (a list of containers).

Invariant: `read` returns a copy, and whatever of it is not named in this package comes out as it went in; but members
that only ECS itself may set (`revision` and the like) are left out, because registering refuses them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ossensor.errors import ConfigurationError

_FUNCTION = re.compile(r"Ref|Fn::\w+")
_RESOURCE_TYPE: Final = "AWS::ECS::TaskDefinition"
# Members of the API's TaskDefinition that RegisterTaskDefinitionRequest does not have (botocore, ecs 2014-11-13);
# a test holds this list against the model.
SET_BY_ECS: Final = (
    "taskDefinitionArn",
    "revision",
    "status",
    "requiresAttributes",
    "compatibilities",
    "registeredAt",
    "registeredBy",
    "deregisteredAt",
    "deleteRequestedAt",
)


def as_in_the_api(name: str) -> str:
    """`containerDefinitions`."""
    return name


def as_in_cloudformation(name: str) -> str:
    """`ContainerDefinitions`: CloudFormation's names are the API's with a capital, for every member used here."""
    return name[:1].upper() + name[1:]


def computed(value: Any) -> bool:
    """Whether CloudFormation will compute the value (`{"Ref": ...}`): what it will be cannot be judged here."""
    return isinstance(value, dict) and len(value) == 1 and bool(_FUNCTION.fullmatch(next(iter(value))))


@dataclass(frozen=True)
class Node:
    """A JSON object whose members are asked for by the API's names, however the document spells them."""

    members: dict[str, Any]
    spell: Callable[[str], str]

    def get(self, name: str) -> Any:
        """The member; None when it is not there, or is computed."""
        value = self.members.get(self.spell(name))
        return None if computed(value) else value

    def has(self, name: str) -> bool:
        return self.members.get(self.spell(name)) not in (None, [], {}, "")

    def node(self, name: str) -> Node:
        """The member as an object; an empty one, which is not part of the document, when it is none."""
        value = self.get(name)
        return Node(value if isinstance(value, dict) else {}, self.spell)

    def nodes(self, name: str) -> list[Node]:
        """The members of a list that are objects, without those that are computed."""
        value = self.get(name)
        items = value if isinstance(value, list) else []
        return [Node(item, self.spell) for item in items if isinstance(item, dict) and not computed(item)]

    def texts(self, name: str) -> list[str]:
        value = self.get(name)
        return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


@dataclass(frozen=True)
class Task:
    """One task definition of the document. `whole` is False when the document has its containers and nothing else."""

    where: str  # what to call it in a message: "" where there is only one
    node: Node
    whole: bool = True

    @property
    def containers(self) -> list[Node]:
        return self.node.nodes("containerDefinitions")

    def append(self, container: dict[str, Any]) -> None:
        self.node.members[self.node.spell("containerDefinitions")].append(container)


def read(document: Any, resources: Sequence[str] = ()) -> tuple[Any, list[Task]]:
    """A copy of the document, made fit for being registered, and its task definitions, which are parts of that copy.

    `resources` are the logical names of those that are meant in a CloudFormation template; none: the only one.
    Raises ConfigurationError with every fault of the shape.
    """
    document = copy.deepcopy(document)
    if isinstance(document, list):
        tasks = [Task("", Node({"containerDefinitions": document}, as_in_the_api), whole=False)]
    elif not isinstance(document, dict):
        raise ConfigurationError(["not a task definition: neither a JSON object nor a list of containers"])
    elif isinstance(document.get("Resources"), dict):
        tasks = _of_template(document["Resources"], resources)
    elif document.get("Type") == _RESOURCE_TYPE and isinstance(document.get("Properties"), dict):
        tasks = [Task("", Node(document["Properties"], as_in_cloudformation))]
    elif "ContainerDefinitions" in document:
        tasks = [Task("", Node(document, as_in_cloudformation))]
    else:
        document = _registrable(document)
        tasks = [Task("", Node(document, as_in_the_api))]
    if resources and not (isinstance(document, dict) and "Resources" in document):
        raise ConfigurationError(["--resource: the document is no CloudFormation template with `Resources`"])
    if faults := [fault for task in tasks for fault in _faults_of_shape(task)]:
        raise ConfigurationError(faults)
    return document, tasks


def _registrable(found: dict[str, Any]) -> dict[str, Any]:
    inner = found.get("taskDefinition")
    if isinstance(inner, dict):
        # `describe-task-definition --include TAGS` has the tags beside the definition, registering wants them in it.
        found = {**inner, **({"tags": found["tags"]} if found.get("tags") else {})}
    return {name: value for name, value in found.items() if name not in SET_BY_ECS}


def _of_template(resources: Mapping[str, Any], wanted: Sequence[str]) -> list[Task]:
    definitions = {
        name: resource
        for name, resource in resources.items()
        if isinstance(resource, dict) and resource.get("Type") == _RESOURCE_TYPE
    }
    names = ", ".join(sorted(definitions)) or "none"
    if unknown := [name for name in wanted if name not in definitions]:
        raise ConfigurationError(
            [f"--resource {name}: no {_RESOURCE_TYPE} of the template; it has: {names}" for name in unknown]
        )
    if not wanted and len(definitions) != 1:
        raise ConfigurationError([f"say which {_RESOURCE_TYPE} is meant with --resource; the template has: {names}"])
    tasks = []
    for name in dict.fromkeys(wanted) or definitions:
        properties = definitions[name].get("Properties")
        where = name if len(definitions) > 1 else ""
        tasks.append(Task(where, Node(properties if isinstance(properties, dict) else {}, as_in_cloudformation)))
    return tasks


def _faults_of_shape(task: Task) -> list[str]:
    prefix = f"{task.where}: " if task.where else ""
    name = task.node.spell("containerDefinitions")
    listed = task.node.members.get(name)
    if not isinstance(listed, list) or not listed:
        why = "is computed by the template" if computed(listed) else "is not there, or no list of containers"
        return [f"{prefix}{name}: {why}; there is nothing to add a container to"]
    return [
        f"{prefix}{name}[{index}]: not an object" for index, item in enumerate(listed) if not isinstance(item, dict)
    ]
