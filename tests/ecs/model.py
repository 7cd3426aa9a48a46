"""Holds a document against botocore's model of the API, with the enumerations that botocore's own check leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel, Shape
from botocore.validate import ParamValidator

ECS = ServiceModel(Loader().load_service_model("ecs", "service-2"))
REGISTER = ECS.operation_model("RegisterTaskDefinition").input_shape


def faults(document: dict[str, Any], shape: Shape = REGISTER) -> list[str]:
    report = ParamValidator().validate(document, shape)
    return [*([report.generate_report()] if report.has_errors() else []), *strangers(document, shape, "")]


def strangers(value: Any, shape: Shape, where: str) -> Iterator[str]:
    """Values that are none of their enumeration, and members that the shape does not have."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for name, item in value.items():
            if name not in shape.members:
                yield f"{where}.{name}: no such member"
            else:
                yield from strangers(item, shape.members[name], f"{where}.{name}")
    elif shape.type_name == "list" and isinstance(value, list):
        for index, item in enumerate(value):
            yield from strangers(item, shape.member, f"{where}[{index}]")
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{where}: {value!r} is none of {shape.enum}"
