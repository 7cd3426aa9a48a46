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


def _found_after_s(sensor: Sensor, name: str, stopped_s: float) -> float:
    # By what is in the line: a dying child prints at the same time, and then it is no JSON.
    sensor.wait_for_line(f"{name} hangs: SIGABRT", timeout_s=FOUND_WITHIN_S + 5)
    return time.monotonic() - stopped_s


def test_a4_a_worker_and_an_uploader_that_are_stopped_are_found_show_where_they_stood_and_nothing_is_lost_uncounted(
    world: World,
) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    sender = world.sender("cap0", per_second=PER_SECOND)
    proc.eventually("it stores", lambda: world.holds("cap0", PER_SECOND // 10))
    victims = {name: sensor.one(name) for name in (WORKER, UPLOADER)}

    stopped_s = time.monotonic()
    for pid in victims.values():
        os.kill(pid, signal.SIGSTOP)
    found_s = {name: _found_after_s(sensor, name, stopped_s) for name in victims}
    for name, pid in victims.items():
        sensor.successor(name, pid)
    stored = world.stored_bytes("cap0")
    proc.eventually("it stores again", lambda: world.stored_bytes("cap0") > stored)
    sent = sender.stop()
    assert sensor.terminate()[0] == 0

    numbers, books = world.stored_numbers("cap0"), sensor.books()
    print(f"found after {found_s} s; {sent} sent, {len(numbers)} stored; {books}")
    assert max(found_s.values()) < FOUND_WITHIN_S
    said = "\n".join(sensor.lines)  # where both print at once, the lines of one are between those of the other
    assert said.count("Aborted") == len(victims)
    assert [name for name in ("capture", "uploader") if f"workers/{name}.py" not in said] == []
    # The ring bridges some six seconds without a reader (DESIGN.md, section 10); then the kernel counts.
    assert books["received"] == sent
    assert books["delivered"] == len(numbers) == len(set(numbers)) == sent - books["kernel_drops"]
