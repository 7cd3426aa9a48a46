"""The vSensor says how much it takes at once, and hears which epochs there are."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from harness import proc
from harness.programs import UPLOADER
from harness.world import SENSOR_NAME, World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

COUNT = 50_000  # 12 MB of sections
MIB = 1 << 20


def _lengths(world: World) -> list[int]:
    with closing(sqlite3.connect(world.store / "index.sqlite")) as index:
        return [length for (length,) in index.execute("SELECT length FROM batches ORDER BY epoch, sequence")]


def _said(told: Path) -> dict[str, str]:
    """The file is replaced whole."""
    epochs: dict[str, str] = json.loads(told.read_text())["epochs"]
    return epochs


@pytest.mark.parametrize("limit_mb,above", [(1, False), (8, True)])
def test_a_sensor_makes_no_longer_batches_than_the_vsensor_takes(world: World, limit_mb: int, *, above: bool) -> None:
    """Held against a vSensor that takes more: there, the same traffic comes in longer ones."""
    world.add_link("cap0", "cap1")
    world.start_vsensor(options=("--largest-batch-mb", str(limit_mb), "--largest-window", "1"))
    changes = {"OSSENSOR_BATCH_MS": "2000", "OSSENSOR_COMPRESSION": "off"}
    sensor = world.start_sensor("cap0", "cap1", changes=changes)
    sensor.wait_for("the vSensor has proved to hold the key; its certificate is pinned")
    told = world.store / SENSOR_NAME / "introduction.json"
    proc.eventually("the vSensor is told", told.exists)  # so the workers have been, too
    sensor.kill(UPLOADER)

    world.send("cap0", COUNT, per_second=20_000)
    assert sensor.terminate()[0] == 0

    longest = max(_lengths(world))
    print(f"limit {limit_mb} MiB: {len(_lengths(world))} batches, the longest {longest / MIB:.3f} MiB")
    assert (longest > MIB) is above
    assert longest <= limit_mb * MIB
    assert Counter(world.stored_numbers("cap0")) == Counter(range(COUNT))
    assert "rejected" not in " ".join(line for line in sensor.lines if "books closed" in line)


def test_an_introduction_names_the_epoch_of_each_interface(world: World) -> None:
    world.add_link("cap0", "cap1")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", "cap1")
    epochs = {name: sensor.wait_for("capturing", interface=name)["epoch"] for name in ("cap0", "cap1")}
    told = world.store / SENSOR_NAME / "introduction.json"
    sensor.kill(UPLOADER)  # the next one registers at once, when there are interfaces, and epochs stay what they are
    proc.eventually("both are said", lambda: told.exists() and _said(told) == epochs)

    world.remove_link("cap1")
    sensor.wait_for_line("interface no longer captured: deleted")
    sensor.kill(UPLOADER)
    proc.eventually("one is said", lambda: _said(told) == {"cap0": epochs["cap0"]})
