"""The sensor's processes seen from outside: what they cost, what they may do, how they end, and as process 1."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType

import pytest
from harness import idle, proc
from harness.namespaces import in_user_namespace
from harness.programs import UPLOADER, Sensor, worker_of
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

NOBODY = "65534"
_NO_CHANGES: Mapping[str, str] = MappingProxyType({})
_ORPHANS = 1000 if os.environ.get("OSSENSOR_CHAOS") else 20


def _running(world: World, *, under: tuple[str, ...] = (), changes: Mapping[str, str] = _NO_CHANGES) -> Sensor:
    """A sensor with one worker on a silent interface, and its uploader, both at work."""
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", under=under, changes=changes)
    sensor.wait_for("uploader ready")
    return sensor


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> dict[str, idle.Cost]:
    """Of a sensor without Antigena and of one with it, each in a world of its own, watched at the same time."""
    with ExitStack() as stack:
        idlers = {}
        for antigena in ("false", "true"):
            world = stack.enter_context(World(tmp_path_factory.mktemp(f"antigena-{antigena}"), certificate))
            world.add_link("cap1", "cap2")
            sensor = _running(world, changes={"ANTIGENA_ENABLED": antigena})
            for name in ("cap1", "cap2"):
                sensor.wait_for("capturing", interface=name)
            idlers[antigena] = world, sensor

        def settled() -> bool:
            before_s = [proc.cpu_s(sensor.pid) for _, sensor in idlers.values()]
            time.sleep(1)
            after_s = [proc.cpu_s(sensor.pid) for _, sensor in idlers.values()]
            return all(after - before < 0.1 for before, after in zip(before_s, after_s, strict=True))

        proc.eventually("start-up is over", settled)
        return dict(zip(idlers, idle.costs(*idlers.values()), strict=True))


# With Antigena the vSensor is asked every ANTIGENA_TIME_PERIOD, 5 s: a request and its signed reply, one wake a second.
@pytest.mark.alone
@pytest.mark.parametrize("antigena, wakes_per_s, times_the_peer", [("false", 0.65, 7.5), ("true", 0.85, 11.0)])
def test_idle_its_processes_wake_some_every_other_second_and_do_little_then(
    costs: dict[str, idle.Cost], antigena: str, wakes_per_s: float, times_the_peer: float
) -> None:
    found = costs[antigena]

    # Measured 0.52 (0.72 with Antigena), or 0.60 (0.80) in a window with the statistics of each ten seconds, and 0.88
    # while others worked; 3.4 to 5.1 times (7.1); on a quiet machine 0.3 % of a core.
    assert found.wakes_per_s < wakes_per_s
    assert found.times_the_peer < times_the_peer


@pytest.mark.skipif(in_user_namespace(), reason="a user namespace with one user has no other to change to")
@pytest.mark.parametrize("name", [worker_of("cap0"), UPLOADER])
def test_children_are_nobody_without_capabilities_and_can_gain_none(name: str, world: World) -> None:
    status = proc.status(_running(world).one(name))

    assert status["Uid"].split() == [NOBODY] * 4
    assert status["Gid"].split()[0] != "0"
    assert [int(status[f"Cap{which}"], 16) for which in ("Eff", "Prm", "Inh", "Amb")] == [0, 0, 0, 0]
    assert status["NoNewPrivs"] == "1"


def test_as_process_1_it_reaps_strangers_and_honours_sigterm(world: World) -> None:
    sensor = _running(world, under=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    (init,) = proc.children(sensor.pid)
    assert proc.status(init)["NSpid"].split()[-1] == "1"
    orphans = f"for i in $(seq {_ORPHANS}); do sleep 1000 >/dev/null 2>&1 & done"

    # nsenter's shell ends at once, and leaves its children to process 1 of their namespace.
    world.sensor.run("nsenter", f"--pid=/proc/{init}/ns/pid", "--", "sh", "-c", orphans)
    strangers = proc.eventually("orphans", lambda: _named(init, "sleep", _ORPHANS))
    for pid in strangers:
        os.kill(pid, signal.SIGKILL)

    proc.eventually("they are reaped", lambda: not set(strangers) & set(proc.children(init)))
    assert sensor.records("worker died") == []
    os.kill(init, signal.SIGTERM)
    assert sensor.wait() == 0  # in how long: test_stop.py


def _named(parent: int, name: str, count: int) -> list[int]:
    """The parent's children of this name, once there are so many; none before."""
    found = [pid for pid in proc.children(parent) if proc.comm(pid) == name]
    return found if len(found) == count else []
