"""Interfaces that come, go, come back as another of the same name, or fall under a rule that was changed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import frames, proc
from harness.forks import ForkLog
from harness.namespaces import Namespace
from harness.programs import Sensor, worker_of
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

# Long against the first back-offs of a restart loop (0.1, 0.2, 0.4, 0.8 s), which would show as forks.
_WATCH_S = 3


def _captured_as(world: World, sensor: Sensor, name: str) -> None:
    """Waits until the interface is captured as what it is now: its index is in the log."""
    sensor.wait_for("capturing", interface=name, ifindex=world.sensor.links()[name]["ifindex"])


def test_an_interface_is_captured_when_it_appears_left_when_it_goes_and_captured_again_when_it_is_back(
    world: World, tmp_path: Path
) -> None:
    world.start_vsensor()
    forks = ForkLog(tmp_path / "forks")
    sensor = world.start_sensor(changes=forks.variables)
    worker = worker_of("cap9")

    world.add_link("cap9")  # until now no interface matched: it has to have waited for one
    _captured_as(world, sensor, "cap9")
    world.send("cap9", 100)
    proc.eventually("frames of the new interface are stored", lambda: world.holds("cap9", 100))

    first = sensor.one(worker)
    world.remove_link("cap9")
    proc.eventually("its worker ends", lambda: not proc.alive(first))
    before = forks.count()
    assert not proc.happened(lambda: forks.count() > before, _WATCH_S)
    assert sensor.named(worker) == []

    world.add_link("cap9")
    _captured_as(world, sensor, "cap9")
    world.send("cap9", 100, first=100)
    proc.eventually("frames of the interface that is back are stored", lambda: world.holds("cap9", 200))

    assert sensor.terminate()[0] == 0
    assert frames.verdict(range(200), world.stored_numbers("cap9")) == ""


def test_an_interface_deleted_and_added_again_at_once_is_captured_as_the_new_one(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")

    world.remove_link("cap0")
    world.add_link("cap0")
    _captured_as(world, sensor, "cap0")
    world.send("cap0", 100)
    sensor.wait_for("uploader ready")
    code, _ = sensor.terminate()

    assert code == 0
    assert frames.verdict(range(100), world.stored_numbers("cap0")) == ""


def test_an_interface_whose_name_is_not_ascii_is_captured_like_any(world: World) -> None:
    world.add_link("capü0")
    world.start_vsensor()
    sensor = world.start_sensor("capü0")
    world.send("capü0", 100)
    proc.eventually("frames are stored", lambda: world.holds("capü0", 100))

    assert sensor.terminate()[0] == 0
    assert frames.verdict(range(100), world.stored_numbers("capü0")) == ""


def test_an_interface_that_was_away_is_captured_again_though_it_has_the_index_that_it_had(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    index = world.sensor.links()["cap0"]["ifindex"]
    world.send("cap0", 100)
    proc.eventually("frames are stored", lambda: world.holds("cap0", 100))

    sensor.signal(signal.SIGSTOP)  # so that no look falls between
    with Namespace() as elsewhere:
        world.sensor.run("ip", "link", "set", "cap0", "netns", str(elsewhere.pid))
        elsewhere.run("ip", "link", "set", "cap0", "netns", str(world.sensor.pid))
    world.sensor.run("ip", "link", "set", "cap0", "up")
    sensor.signal(signal.SIGCONT)
    assert world.sensor.links()["cap0"]["ifindex"] == index

    sensor.wait_for("interface no longer captured: deleted", interface="cap0")
    sensor.wait_for("captured again", interface="cap0")
    world.send("cap0", 100, first=100)
    proc.eventually("frames are stored again", lambda: world.holds("cap0", 200))

    assert sensor.terminate()[0] == 0
    assert frames.verdict(range(200), world.stored_numbers("cap0")) == ""


def test_renamed_to_what_is_not_utf_8_it_is_shut_by_the_next_filter_and_open_again_with_another_name(
    world: World,
) -> None:
    world.add_link("cap0")
    world.config.write_text("BPF=udp\n")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"BPF": None})
    worker = sensor.one(worker_of("cap0"))
    world.send("cap0", 100)
    proc.eventually("frames are stored", lambda: world.holds("cap0", 100))

    odd = os.fsdecode(b"cap\xff")
    world.sensor.run("ip", "link", "set", "cap0", "name", odd)
    world.config.write_text("BPF='udp or tcp'\n")
    sensor.signal(signal.SIGHUP)
    sensor.wait_for("cap0 is shut until its filter can be compiled")
    assert not proc.happened(lambda: not proc.alive(sensor.pid), _WATCH_S)  # it tries again each second

    world.sensor.run("ip", "link", "set", odd, "name", "cap1")
    sensor.wait_for("open again", interface="cap0")
    world.send("cap0", 100, first=100)
    proc.eventually("frames are stored again", lambda: world.holds("cap0", 200))

    assert sensor.one(worker_of("cap0")) == worker
    assert sensor.terminate()[0] == 0
    assert frames.verdict(range(200), world.stored_numbers("cap0")) == ""


def test_sighup_with_a_new_exclude_pattern_stops_one_interface_and_loses_nothing_of_the_other(world: World) -> None:
    world.add_link("cap0", "cap1")
    world.config.write_text("NETWORK_DEVICE_INCLUDELIST=^cap\n")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", "cap1", changes={"NETWORK_DEVICE_INCLUDELIST": None})
    staying, leaving = sensor.one(worker_of("cap0")), sensor.one(worker_of("cap1"))
    sender = world.sender("cap0", per_second=2000)
    world.send("cap1", 100)
    proc.eventually("both are stored", lambda: world.holds("cap1", 100) and world.holds("cap0", 1))

    world.config.write_text("NETWORK_DEVICE_INCLUDELIST=^cap\nNETWORK_DEVICE_EXCLUDELIST=^cap1$\n")
    os.kill(sensor.pid, signal.SIGHUP)
    proc.eventually("the excluded interface's worker ends", lambda: not proc.alive(leaving))
    world.send("cap1", 100, first=100)
    sent_by_then = world.arrived("cap0")
    proc.eventually("more frames on the other", lambda: world.holds("cap0", sent_by_then + 1000))
    sent = sender.stop()
    assert sensor.named(worker_of("cap0")) == [staying]
    code, _ = sensor.terminate()

    assert code == 0
    assert frames.verdict(range(sent), world.stored_numbers("cap0")) == ""
    assert frames.verdict(range(100), world.stored_numbers("cap1")) == ""
