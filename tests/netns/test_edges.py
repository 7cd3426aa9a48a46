"""What a critical reader found: moments at which the sensor once hung, ended, or went blind."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest
from harness import proc
from harness.programs import UPLOADER, Program, worker_of
from harness.world import World

# Time itself is what is tested: longer than the ten seconds after which a silent child is taken for hung, and then two
# looks of the supervisor's, of which there is nothing to see.
_FROZEN_S = 11.5
_TWO_TICKS_S = 2.5

_WITH_A_BUG = """
import os, sys
from ossensor import cli, supervisor

def tick(self, now_s):
    self._ticked_s = now_s
    if os.path.exists(sys.argv[1]):
        raise ZeroDivisionError("a bug of ours")

supervisor.Supervisor._tick = tick
cli.main(["run"])
"""

pytestmark = [pytest.mark.netns, pytest.mark.slow]


def test_an_interface_excluded_while_its_worker_is_in_back_off_costs_nothing_else(world: World) -> None:
    world.add_link("cap0", "cap1")
    world.config.write_text("NETWORK_DEVICE_EXCLUDELIST=\n")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", "cap1", changes={"NETWORK_DEVICE_EXCLUDELIST": None})
    other = sensor.one(worker_of("cap1"))
    for _ in range(4):  # so that the next back-off is long enough to be met
        sensor.kill(worker_of("cap0"))

    sensor.strike(worker_of("cap0"))
    world.config.write_text("NETWORK_DEVICE_EXCLUDELIST=^cap0$\n")
    os.kill(sensor.pid, signal.SIGHUP)

    sensor.wait_for("interface no longer captured: excluded by the rules now", interface="cap0")
    sensor.wait_for_line("books closed: ")
    proc.eventually("it has no worker", lambda: sensor.named(worker_of("cap0")) == [])
    assert sensor.one(worker_of("cap1")) == other
    assert sensor.records("draining") == []
    assert sensor.terminate()[0] == 0


def test_a_filter_changed_while_the_interface_is_down_is_in_force_when_it_is_up_again(world: World) -> None:
    world.add_link("cap0")
    world.config.write_text("BPF=udp\n")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"BPF": None})
    world.sensor.run("ip", "link", "set", "cap0", "down")
    world.config.write_text("BPF=\n")
    os.kill(sensor.pid, signal.SIGHUP)
    sensor.wait_for("settings read again")
    world.sensor.run("ip", "link", "set", "cap0", "up")
    world.generator.run("ip", "link", "set", "cap0", "up")
    sensor.wait_for("open again", interface="cap0")
    world.carries("cap0")

    before = world.arrived("cap0")
    world.send("cap0", 100)
    assert world.arrived("cap0") == before + 100
    proc.eventually("all are stored", lambda: world.holds("cap0", 100))
    assert sensor.terminate()[0] == 0


def test_a_stop_does_not_wait_for_a_reader_of_the_log(world: World) -> None:
    """Standard error is a pipe that is full and that nobody reads."""
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"OSSENSOR_DEBUG": "5"})
    sensor.stop_reading()
    world.send("cap0", 2000, per_second=1000)

    assert sensor.terminate()[0] == 0


def test_a_freeze_of_everything_kills_nothing(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    pids = [sensor.pid, sensor.one(UPLOADER), sensor.one(worker_of("cap0"))]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(_FROZEN_S)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    time.sleep(_TWO_TICKS_S)

    assert [sensor.pid, sensor.one(UPLOADER), sensor.one(worker_of("cap0"))] == pids
    assert sensor.terminate()[0] == 0


def test_a_bug_in_the_supervisor_ends_it_with_its_code_and_its_children_with_it(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    cause = world.folder / "cause"
    program = Program(world.sensor.inside(sys.executable, "-c", _WITH_A_BUG, cause), world.settings({}))
    program.wait_for("capturing")
    proc.eventually("two children", lambda: len(proc.children(program.pid)) == 2)
    children = proc.children(program.pid)

    cause.touch()
    assert proc.gone_within(children, proc.HANGS_S, program.wait) == set()  # in how long: test_sudden_end.py
    assert program.wait() == 70
    assert any("ZeroDivisionError: a bug of ours" in line for line in program.lines)


def test_no_thread_of_the_supervisor_keeps_more_privilege_than_its_loop(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")

    (effective,) = proc.of_threads(sensor.pid, "CapEff")
    assert int(effective, 16) & ~(1 << 13 | 1 << 7 | 1 << 6 | 1 << 5) == 0
    assert proc.of_threads(sensor.pid, "NoNewPrivs") == {"1"}
