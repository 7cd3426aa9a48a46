"""How soon an uploader that was killed gets a successor: at once while uploaders work, not for ever while none does."""

from __future__ import annotations

import os
import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ossensor.accounting import Reason
from ossensor.children import RESTART_SPACING_S, State
from ossensor.port import Port
from ossensor.region import Control, Region
from ossensor.slots import Pipes
from ossensor.spawn import Forge
from ossensor.uplink import Uplink

NOW_S = 1000.0
EPSILON_S = 1e-6


class Killed:
    """A process that the kernel ended."""

    def struck(self, exit_code: int) -> bool:
        return exit_code == -signal.SIGKILL


@dataclass
class NoForks:
    """Counts the processes that it should have made."""

    spawned: int = 0

    def spawn(self, *_: Any, **__: Any) -> Killed:
        self.spawned += 1
        return Killed()


@dataclass
class Line:
    """What an uplink knows of a port: real memory and real pipes."""

    queue_id: int = 1
    label: str = "eth0"
    retiring: Reason | None = None
    child: Any = field(default_factory=lambda: SimpleNamespace(alive=True))
    region: Region = field(default_factory=lambda: Region.create(2, 1 << 16))
    pipes: Pipes = field(default_factory=Pipes.create)

    def settle(self, packets: int) -> None:
        self.region.set_control(Control.DELIVERED, self.region.delivered() + packets)


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.region.close()
    os.close(made.region.fd)
    made.pipes.close()


@pytest.fixture(autouse=True)
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time stands still: each of these uploaders is killed in the moment of its start."""
    monkeypatch.setattr("ossensor.uplink.time", SimpleNamespace(monotonic=lambda: NOW_S))


def lives(line: Line, count: int, settles: list[int]) -> tuple[Uplink, list[float]]:
    """The uplink after so many uploaders were killed at once, and how long each successor had to wait.

    `settles`: how many packets leave the slots in each life, as far as it is given.
    """
    plan = cast(Any, SimpleNamespace(spool_folder=""))
    uplink = Uplink(plan, ssl.create_default_context(), None, lambda _: True, lambda _: {}, lambda _: None)
    forge, ports = NoForks(), [cast(Port, line)]
    waits_s = []
    for life in range(count):
        uplink.start(cast(Forge, forge), ports)
        line.settle(settles[life] if life < len(settles) else 0)
        uplink.ended(-signal.SIGKILL, ports)
        assert uplink.child.state is State.BACKOFF
        waits_s.append(uplink.child.due_s - NOW_S)
    assert forge.spawned == count
    return uplink, waits_s


def test_uploaders_that_are_killed_before_a_batch_has_left_its_slot_hurry_nineteen_times_and_then_back_off(
    line: Line,
) -> None:
    uplink, waits_s = lives(line, 26, [])

    assert [wait_s <= RESTART_SPACING_S + EPSILON_S for wait_s in waits_s[:19]] == [True] * 19
    # The twentieth and each after it wait, doubling from a tenth of a second; half of it is fixed.
    assert [wait_s >= 0.05 * 2**n - EPSILON_S for n, wait_s in enumerate(waits_s[19:])] == [True] * 7
    assert (uplink.child.failures, uplink.hopeless) == (7, False)


def test_that_a_batch_left_its_slot_counts_as_work_and_being_up_does_not(line: Line) -> None:
    uplink, waits_s = lives(line, 60, [0] * 18 + [1] + [0] * 18 + [1])

    assert [wait_s <= RESTART_SPACING_S + EPSILON_S for wait_s in waits_s[:57]] == [True] * 57
    assert [wait_s > RESTART_SPACING_S for wait_s in waits_s[58:]] == [True] * 2
    assert uplink.child.failures == 3


def test_uploaders_that_never_come_to_work_end_the_sensor_in_the_end(line: Line) -> None:
    uplink, _ = lives(line, 19 + 20, [])

    assert uplink.hopeless
