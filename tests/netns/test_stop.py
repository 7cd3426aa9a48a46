"""SIGTERM: the sensor ends inside five seconds, whatever the world is like, and what can be delivered is."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import frames, proc
from harness.programs import Sensor
from harness.replay import replay
from harness.world import PORT, World, tag_for

pytestmark = [pytest.mark.netns, pytest.mark.slow]

WITHIN_S = 5
_SILENT_LISTENER = f"""
import signal, socket
with socket.create_server(("10.9.0.2", {PORT})):
    signal.pause()
"""


class Worlds:
    """A new one for each attempt at the same."""

    def __init__(self, folder: Path, certificate: tuple[Path, Path]) -> None:
        self._folder, self._certificate = folder, certificate
        self._numbers = itertools.count()

    @contextmanager
    def one(self) -> Iterator[World]:
        folder = self._folder / f"world-{next(self._numbers)}"
        folder.mkdir()
        with World(folder, self._certificate) as world:
            yield world


@pytest.fixture
def worlds(tmp_path: Path, certificate: tuple[Path, Path]) -> Worlds:
    return Worlds(tmp_path, certificate)


def _sensor(world: World) -> Sensor:
    world.add_link("cap0")
    return world.start_sensor("cap0")


@pytest.mark.parametrize("count", [100, 0], ids=["traffic of the last moment", "a silent interface"])
def test_traffic_of_the_last_moment_is_delivered_and_a_silent_interface_does_not_hold_it_up(
    worlds: Worlds, count: int
) -> None:
    def stopped_s() -> float:
        with worlds.one() as world:
            world.start_vsensor()
            sensor = _sensor(world)
            sensor.wait_for("uploader ready")
            if count:
                world.send("cap0", count)
            code, took_s = sensor.terminate()

            assert code == 0
            assert frames.verdict(range(count), world.stored_numbers("cap0")) == ""
            return took_s

    assert proc.quickest(WITHIN_S, stopped_s) < WITHIN_S


def _refused(world: World) -> Sensor:
    return _sensor(world)


def _dropped(world: World) -> Sensor:
    world.black_hole()
    return _sensor(world)


def _silent(world: World) -> Sensor:
    world.start(world.collector, sys.executable, "-c", _SILENT_LISTENER)
    proc.eventually("the listener", lambda: world.collector.listens(PORT))
    return _sensor(world)


def _dropped_later(world: World) -> Sensor:
    world.start_vsensor()
    sensor = _sensor(world)
    world.send("cap0", 100, first=1000)
    proc.eventually("an upload", lambda: world.holds("cap0", 100))
    world.black_hole()
    return sensor


@pytest.mark.parametrize("prepare", [_refused, _dropped, _silent, _dropped_later])
def test_a_vsensor_that_cannot_be_reached_does_not_hold_it_up(
    prepare: Callable[[World], Sensor], worlds: Worlds
) -> None:
    def stopped_s() -> float:
        with worlds.one() as world:
            sensor = prepare(world)
            world.send("cap0", 100)
            code, took_s = sensor.terminate()
            assert code == 0
            return took_s

    assert proc.quickest(WITHIN_S, stopped_s) < WITHIN_S


def test_a_slow_line_is_waited_for_as_long_as_it_moves(world: World) -> None:
    """8 Mbit/s, and as much in the slots as takes about five seconds: settled batches alone come too seldom to tell."""
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    sensor.wait_for("uploader ready")
    world.send("cap0", 10)  # the connection stands
    proc.eventually("the first frames are stored", lambda: world.holds("cap0", 10))
    shape = "tc qdisc add dev up0 root tbf rate 8mbit burst 32k latency 50ms"
    world.sensor.run(*shape.split())
    frames_sent = frames.mixed(7, tag_for("cap0"), 8000)
    replay(world.generator, {"cap0": frames_sent}, per_second=8000, folder=world.folder)

    code, _ = sensor.terminate()

    assert code == 0
    assert len(world.stored("cap0")) == 10 + len(frames_sent)
