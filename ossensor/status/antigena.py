"""Antigena's actions, from what the enforcer last reported for the vSensor. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ossensor.transport.orders import Report
from ossensor.transport.protocol import MalformedError


def actions(report: str | None) -> list[Mapping[str, Any]]:
    """Each action in force with its counts, then each that is refused with the reason; nothing without a report.

    The enforcer reads what strangers send: a report that is none shows nothing.
    """
    if report is None:
        return []
    try:
        said = Report.parse(report.encode())
    except MalformedError:
        return []
    in_force = [{"action": name, "mode": said.mode, **counts} for name, counts in said.actions.items()]
    return [*in_force, *({"action": name, "refused": why} for name, why in said.refused.items())]
