"""A4: children that somebody stops are found, show where they stood, and have successors."""

from __future__ import annotations

import os
import signal
import time

import pytest
from harness import proc
from harness.programs import UPLOADER, Sensor, worker_of
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

PER_SECOND = 2_000
FOUND_WITHIN_S = 10.0
WORKER = worker_of("cap0")


def _said(sensor: Sensor, part: str) -> int:
    """By what is in the line: a dying child prints at the same time, and then it is no JSON."""
    return sum(part in line for line in list(sensor.lines))


def test_a4_a_worker_and_an_uploader_that_are_stopped_are_found_show_where_they_stood_and_nothing_is_lost_uncounted(
    world: World,
) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    sender = world.sender("cap0", per_second=PER_SECOND)
    proc.eventually("it stores", lambda: world.holds("cap0", PER_SECOND // 10))
    stopped = 0

    def found_s() -> float:
        """How long it takes until both are found. They have successors then."""
        nonlocal stopped
        victims = {name: sensor.one(name) for name in (WORKER, UPLOADER)}
        before = {name: _said(sensor, f"{name} hangs: SIGABRT") for name in victims}
        stopped_s = time.monotonic()
        for pid in victims.values():
            os.kill(pid, signal.SIGSTOP)
        for name, count in before.items():
            proc.eventually(name, lambda: _said(sensor, f"{name} hangs: SIGABRT") > count)  # noqa: B023
        took_s = time.monotonic() - stopped_s
        stopped += len(victims)
        for name, pid in victims.items():
            sensor.successor(name, pid)
        stored = world.stored_bytes("cap0")
        proc.eventually("it stores again", lambda: world.stored_bytes("cap0") > stored)
        return took_s

    assert proc.quickest(FOUND_WITHIN_S, found_s) < FOUND_WITHIN_S
    sent = sender.stop()
    assert sensor.terminate()[0] == 0

    numbers, books = world.stored_numbers("cap0"), sensor.books()
    print(f"{sent} sent, {len(numbers)} stored; {books}")
    said = "\n".join(sensor.lines)  # where both print at once, the lines of one are between those of the other
    assert said.count("Aborted") == stopped
    assert [name for name in ("capture", "uploader") if f"workers/{name}.py" not in said] == []
    # The ring bridges some six seconds without a reader (DESIGN.md, section 10); then the kernel counts.
    assert books["received"] == sent
    assert books["delivered"] == len(numbers) == len(set(numbers)) == sent - books["kernel_drops"]
