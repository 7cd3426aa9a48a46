"""Two hundred idle interfaces: what they cost in processor time and in private memory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from harness import proc
from harness.programs import Sensor
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

INTERFACES = 200
_WATCH_S = 20
_MIB = 1 << 20


def _private_bytes(sensor: Sensor) -> int:
    """Of all the sensor's processes. Rings and slots are shared mappings, and do not count here."""
    total = 0
    for pid in proc.tree(sensor.pid):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(("Private_Clean:", "Private_Dirty:")):
                total += int(line.split()[1]) * 1024
    return total


def _add(world: World, folder: Path, names: range) -> None:
    batch = folder / "batch"
    peer = f"netns {world.generator.pid}"
    batch.write_text("".join(f"link add cap{n} up type veth peer name cap{n} {peer}\n" for n in names))
    world.sensor.run("ip", "-batch", batch)
    batch.write_text("".join(f"link set cap{n} up\n" for n in names))
    world.generator.run("ip", "-batch", batch)


def _settle(sensor: Sensor, count: int) -> None:
    proc.eventually("all are captured", lambda: sum("capturing" in line for line in list(sensor.lines)) == count, 60)

    def quiet() -> bool:
        before = proc.cpu_s(sensor.pid)
        time.sleep(1)
        return proc.cpu_s(sensor.pid) - before < 0.1

    proc.eventually("start-up is over", quiet, timeout_s=60)


def test_two_hundred_idle_interfaces_cost_little(world: World, tmp_path: Path) -> None:
    world.start_vsensor()
    sensor = world.start_sensor(changes={"OSSENSOR_MEMORY_MB": "2000"})
    sensor.wait_for("uploader ready")
    _add(world, tmp_path, range(INTERFACES // 2))
    _settle(sensor, INTERFACES // 2)
    half = _private_bytes(sensor)
    _add(world, tmp_path, range(INTERFACES // 2, INTERFACES))
    _settle(sensor, INTERFACES)
    full = _private_bytes(sensor)

    before_s, start_s = proc.cpu_s(sensor.pid), time.monotonic()
    time.sleep(_WATCH_S)
    share = (proc.cpu_s(sensor.pid) - before_s) / (time.monotonic() - start_s)
    each_mib = (full - half) / (INTERFACES // 2) / _MIB
    print(f"{INTERFACES} idle interfaces: {share:.2%} of a core, {each_mib:.2f} MiB private for each further one")

    assert share < 0.02
    assert each_mib <= 6
