"""The service is started again, and nobody notices: systemd keeps socket and slots, and no packet is lost or doubled.

systemd's part is played by harness/manager.py. `make chaos` does it fifty times, `make test` five.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from harness import flood, frames, proc
from harness.manager import Manager, manager
from harness.programs import Sensor
from harness.world import PORT, World

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(900)]

PER_SECOND = 100_000
RESTARTS = 50 if os.environ.get("OSSENSOR_CHAOS") else 5
FRAMES = 16 << 16
# A ring that holds what comes while nobody reads: a start takes a second, or three where two cores do all the work.
_KNOCK = f"import socket; socket.create_connection(('10.9.0.2', {PORT}), 5).close()"
_PORT = PORT.to_bytes(2, "big")
ROOM = {"OSSENSOR_RING_MB": "256", "OSSENSOR_BUFFER_MB": "64", "OSSENSOR_MEMORY_MB": "320"}


def _start(world: World, systemd: Manager, **changes: str) -> Sensor:
    return world.start_sensor("cap0", changes={**systemd.environment, **ROOM, **changes}, under=systemd.under)


def _terminated(sensor: Sensor, _: random.Random) -> None:
    assert sensor.terminate()[0] == 0


def _killed(sensor: Sensor, rng: random.Random) -> None:
    time.sleep(rng.uniform(0.0, 0.5))  # the random moment is the test
    processes = proc.tree(sensor.pid)
    sensor.signal(signal.SIGKILL)
    sensor.wait()
    proc.eventually("its children are gone, too", lambda: not any(map(proc.alive, processes)))


@pytest.mark.alone
@pytest.mark.parametrize("end", [pytest.param(_terminated, id="restart"), pytest.param(_killed, id="SIGKILL")])
def test_restarts_under_load_lose_no_packet_and_store_none_twice(
    world: World, open_folder: Path, tmp_path: Path, end: Callable[[Sensor, random.Random], None]
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    pcap = tmp_path / "flood.pcap"
    flood.write_pcap(pcap, FRAMES)
    world.add_link("cap0")
    world.start_vsensor()
    with manager(open_folder) as systemd:
        sensor = _start(world, systemd)
        load = flood.Flood(world.generator, "cap0", pcap, per_second=PER_SECOND, loops=1000)
        proc.eventually("the flood", lambda: world.arrived("cap0") > PER_SECOND // 10)
        began_s, before = time.monotonic(), world.arrived("cap0")
        epochs = {sensor.records("capturing")[0]["epoch"]}
        for _ in range(RESTARTS):
            end(sensor, rng)
            sensor = _start(world, systemd)
            epochs.add(sensor.records("capturing")[0]["epoch"])
        took_s = time.monotonic() - began_s
        rate = (world.arrived("cap0") - before) / took_s
        assert load.running()
        load.stop()
        assert sensor.terminate()[0] == 0
        # The last life may keep nothing: it is stopped, and closes the epoch's books.
        sensor = _start(world, systemd, FDSTORE="0")
        assert sensor.terminate()[0] == 0
    arrived = world.arrived("cap0")
    pcap.unlink()

    stored = array("Q")
    for path in world.files("cap0"):
        stored.extend(flood.numbers_in(path))
    (line,) = [line for line in sensor.lines if "books closed: " in line]
    print(f"{RESTARTS} restarts in {took_s:.1f} s under {rate:.0f} packets/s; {line}")
    assert len(epochs) == 1
    assert f"received={arrived} kernel_drops=0 delivered={arrived} in_flight=0 (balanced)" in line
    assert len(stored) == arrived
    expected = array("Q", (number % FRAMES for number in range(arrived)))
    assert stored == expected


def test_what_waits_in_slots_is_the_successors(world: World, open_folder: Path) -> None:
    world.add_link("cap0")
    with manager(open_folder) as systemd:
        sensor = _start(world, systemd)
        world.send("cap0", 1000)
        assert sensor.terminate()[0] == 0  # nobody took them
        (line,) = [line for line in sensor.lines if "books handed over: " in line]
        assert "received=1000 kernel_drops=0 delivered=0 in_flight=1000 (balanced)" in line
        world.send("cap0", 1000, first=1000)  # while there is no sensor
        world.start_vsensor()
        sensor = _start(world, systemd)
        assert sensor.records("capture taken over")
        proc.eventually("all is stored", lambda: world.holds("cap0", 2000))

        assert frames.verdict(range(2000), world.stored_numbers("cap0")) == ""


def test_an_interface_that_went_while_nobody_looked_is_read_to_its_end(world: World, open_folder: Path) -> None:
    world.add_link("cap0", "cap1")
    world.start_vsensor()
    with manager(open_folder) as systemd:
        sensor = _start(world, systemd)
        sensor.wait_for("capturing", interface="cap1")
        sensor.terminate()
        world.send("cap1", 500)
        world.remove_link("cap1")
        sensor = _start(world, systemd)
        sensor.wait_for_line("received=500 kernel_drops=0 delivered=500 in_flight=0 (balanced)")
        proc.eventually("its descriptors are given back", lambda: len(systemd.kept("port-")) == 3)

        assert frames.verdict(range(500), world.stored_numbers("cap1")) == ""


def test_an_interface_that_is_not_chosen_any_more_is_given_back(world: World, open_folder: Path) -> None:
    world.add_link("cap0", "cap1")
    world.start_vsensor()
    with manager(open_folder) as systemd:
        sensor = _start(world, systemd)
        sensor.wait_for("capturing", interface="cap1")
        assert len(systemd.kept("port-")) == 6
        world.send("cap1", 500)
        sensor.terminate()
        sensor = _start(world, systemd, NETWORK_DEVICE_INCLUDELIST="^cap0")
        sensor.wait_for("interface no longer captured: excluded by the rules now", interface="cap1")
        proc.eventually("its descriptors are given back", lambda: len(systemd.kept("port-")) == 3)
        sensor.wait_for_line("received=500 kernel_drops=0 delivered=500 in_flight=0 (balanced)")


def test_the_uploads_address_is_left_out_before_the_successors_uploader_asks(world: World, open_folder: Path) -> None:
    upload = {"NETWORK_DEVICE_INCLUDELIST": "^cap ^up"}
    world.add_link("cap0")
    vsensor = world.start_vsensor()
    with manager(open_folder) as systemd:
        sensor = _start(world, systemd, **upload)
        sensor.wait_for("the vSensor has proved to hold the key; its certificate is pinned")
        for _ in range(3):
            assert sensor.terminate()[0] == 0
            assert len(systemd.kept("flows-")) == 1
            # Nobody answers the next one's name, so nothing has it guard an address.
            sensor = _start(world, systemd, VSENSOR_HOSTNAME="nobody.invalid", **upload)
            sensor.wait_for("VSENSOR_HOSTNAME does not resolve")
            world.sensor.run(sys.executable, "-c", _KNOCK)
        assert sensor.terminate()[0] == 0
        sensor = _start(world, systemd, FDSTORE="0", **upload)
        sensor.terminate()
    assert vsensor.running()

    to_vsensor = [p for p in world.stored("up0") if b"\x0a\x09\x00\x02" in p.data[:40] and _PORT in p.data[:40]]
    assert to_vsensor == []


def test_with_another_engine_the_old_ring_is_read_to_its_end(world: World, open_folder: Path) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    with manager(open_folder) as systemd:
        sensor = _start(world, systemd)
        sensor.terminate()
        world.send("cap0", 500)
        sensor = _start(world, systemd, OSSENSOR_ENGINE="pypcap")
        sensor.wait_for_line("received=500 kernel_drops=0 delivered=500 in_flight=0 (balanced)")
        assert systemd.kept("port-") == []
        sensor.wait_for("capturing", count=2)
        world.send("cap0", 500, first=500)
        assert sensor.terminate()[0] == 0

    assert frames.verdict(range(1000), world.stored_numbers("cap0")) == ""


def test_a_filter_that_changed_counts_from_the_start(world: World, open_folder: Path) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    with manager(open_folder) as systemd:
        sensor = _start(world, systemd)
        sensor.terminate()
        sensor = _start(world, systemd, BPF="arp")
        world.send("cap0", 500)
        assert sensor.terminate()[0] == 0

    assert world.stored_numbers("cap0") == []


def test_what_is_no_legacy_is_given_back_and_said(world: World, open_folder: Path) -> None:
    world.add_link("cap0")
    with manager(open_folder) as systemd:
        stranger = os.memfd_create("stranger")
        systemd.take(["FDSTORE=1", "FDNAME=stranger"], [stranger])
        sensor = _start(world, systemd)

        assert sensor.records("descriptors of an earlier life are of no use", name="stranger")
        proc.eventually("it is given back", lambda: "stranger" not in systemd.kept())
        assert len(systemd.kept("port-")) == 3


def test_where_nobody_keeps_anything_a_stop_closes_the_books(world: World, open_folder: Path) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    with manager(open_folder) as systemd:
        sensor = _start(world, systemd, FDSTORE="0")
        world.send("cap0", 100)
        assert sensor.terminate()[0] == 0

        assert systemd.kept() == []
    assert [line for line in sensor.lines if "books closed: received=100" in line]
