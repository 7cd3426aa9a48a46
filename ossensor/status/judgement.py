"""Whether a sensor is well, and why not. Pure.

Unhealthy is what starting it again might cure, since that is what an orchestrator does about it. A vSensor that is
away, a key that it does not know, a full disk or a flood of packets is degraded: a restart would only lose the batches
that wait, and it would be in a loop of restarts exactly while it is needed to hold them.
"""

from __future__ import annotations

from enum import Enum
from typing import Any, Final, NamedTuple

from .document import InterfaceStatus, SensorStatus

# Deaths in a row, none of them by somebody's hand: some 13 s of back-off have not helped.
_LOOPING: Final = 7
# A share of what arrives; one block lost at the start of a burst is no news.
_DROPS_PER_S: Final = 1.0


class Level(Enum):
    """From best to worst."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNHEALTHY = "unhealthy"


class Finding(NamedTuple):
    """One thing that is not as it should be."""

    level: Level
    why: str


def findings(sensor: SensorStatus) -> list[Finding]:
    """Everything that is wrong, the worst first."""
    found = [*_of_uploader(sensor), *(finding for one in sensor.interfaces for finding in _of_interface(one))]
    failing = [one for one in sensor.interfaces if one.up and one.state != "absent"]
    if failing and all(one.failures >= _LOOPING for one in failing):
        found.append(Finding(Level.UNHEALTHY, "no interface can be captured"))
    if not sensor.interfaces:
        found.append(Finding(Level.DEGRADED, "the rules choose no interface that is there"))
    found += [Finding(Level.DEGRADED, note) for note in sensor.notes]
    return sorted(found, key=lambda finding: finding.level is not Level.UNHEALTHY)


def _of_uploader(sensor: SensorStatus) -> list[Finding]:
    uploader, said = sensor.uploader, sensor.uploader.said
    found = []
    if uploader.failures:
        level = Level.UNHEALTHY if uploader.failures >= _LOOPING else Level.DEGRADED
        found.append(Finding(level, f"the uploader died {uploader.failures} times in a row: {uploader.trouble}"))
    if said is not None and not said.reachable:
        why = said.trouble or "it has not answered yet"
        found.append(Finding(Level.DEGRADED, f"the vSensor {sensor.vsensor} is not reachable: {why}"))
    elif said is not None and said.trouble:
        found.append(Finding(Level.DEGRADED, f"the vSensor {sensor.vsensor}: {said.trouble}"))
    if said is not None and said.spool_trouble:
        found.append(Finding(Level.DEGRADED, f"the spool takes nothing: {said.spool_trouble}"))
    return found


def _of_interface(one: InterfaceStatus) -> list[Finding]:
    reasons = []
    if one.state in {"absent", "backoff", "failed"} and one.up:
        reasons.append(f"not captured: {one.trouble or 'its worker died'}")
    elif one.trouble:
        reasons.append(one.trouble)
    if not one.up:
        reasons.append("is down")
    if one.kernel_drops_per_s >= _DROPS_PER_S:
        reasons.append(f"the kernel drops {one.kernel_drops_per_s:,.0f} of {one.received_per_s:,.0f} packets/s")
    if one.slots and one.slots_in_use == one.slots:
        reasons.append("all its slots wait for the vSensor")
    return [Finding(Level.DEGRADED, f"{one.name}: {reason}") for reason in reasons]


def verdict(sensor: SensorStatus) -> dict[str, Any]:
    """What the document says of it: `health`, and `reasons`."""
    found = findings(sensor)
    worst = found[0].level if found else Level.HEALTHY
    return {"health": worst.value, "reasons": [finding.why for finding in found]}
