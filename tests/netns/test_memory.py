"""A11, G1: as much memory as the sidecar's container has, and ten times the traffic that it gets rid of."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from harness import flood, frames, proc
from harness.cgroup import MemoryCgroup, UnavailableError
from harness.programs import OSSENSOR, Sensor, worker_of
from harness.world import PORT, World

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(1200)]

_DEFINITION: Final = Path(__file__).parents[2] / "deploy/ecs/task-definition.json"
_SIDECAR: Final = next(
    one for one in json.loads(_DEFINITION.read_text())["containerDefinitions"] if one["name"] == "ossensor"
)
_MIB: Final = 1 << 20
LIMIT_BYTES: Final = _SIDECAR["memory"] * _MIB
MEMORY: Final = {one["name"]: one["value"] for one in _SIDECAR["environment"] if one["name"] == "OSSENSOR_MEMORY_MB"}
MOST: Final = 0.85
IDLE_BYTES: Final = 80 * _MIB
SLOTS_BYTES: Final = 32 * _MIB  # of one interface, by the defaults

LONG: Final = bool(os.environ.get("OSSENSOR_CHAOS"))
LASTS_S: Final = 600 if LONG else 8
SETTLES_S: Final = 120 if LONG else 2
PER_SECOND: Final = 200_000  # 19.2 MB/s of sections, which zstd makes 0.9 of
LINE: Final = "tc qdisc add dev up0 root tbf rate 500kbit burst 16k latency 400ms"  # 0.06 MB/s
GROWTH_BYTES_A_MINUTE: Final = _MIB


@pytest.fixture
def cgroup() -> Iterator[MemoryCgroup]:
    try:
        made = MemoryCgroup(LIMIT_BYTES)
    except UnavailableError as e:
        pytest.skip(str(e))
    with made:
        yield made


def _mapped_files_bytes(sensor: Sensor) -> int:
    """What the sensor's processes have in memory of files (code, libraries), each file once.

    In a container they are the first who read them, and are charged with it. Rings are mapped from a socket, slots from
    a memfd: they are no files.
    """
    most = Counter[str]()
    for pid in proc.tree(sensor.pid):
        own, file = Counter[str](), ""
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            name, *rest = line.split()
            if not name.endswith(":"):  # address range, permissions, offset, device, inode, path
                file = next((part for part in rest[4:] if part.startswith("/") and "(deleted)" not in rest), "")
            elif file and name in {"Rss:", "Anonymous:"}:  # what was written to is the file's no longer
                own[file] += int(rest[0]) * (1024 if name == "Rss:" else -1024)
        most |= own  # of each file the most
    return most.total()


def test_idle_it_takes_80_mib_at_most_beside_ring_and_slots(cgroup: MemoryCgroup, world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=MEMORY, under=cgroup.under)
    world.send("cap0", 1000)  # what is loaded for the first batch is there from then on
    proc.eventually("the frames are stored", lambda: world.holds("cap0", 1000))

    own = cgroup.used_bytes - cgroup.files_bytes - SLOTS_BYTES  # the kernel charges nobody with a ring
    files = _mapped_files_bytes(sensor)
    processes = {proc.comm(pid) for pid in proc.tree(sensor.pid)}
    print(f"{own / _MIB:.1f} MiB, and {files / _MIB:.1f} of files; {sorted(processes)}")
    assert len(processes) == 3
    assert own > 10 * _MIB  # or something was not counted
    assert files > 5 * _MIB
    assert own + files <= IDLE_BYTES


def _books(sensor: Sensor, interface: str) -> dict[str, int]:
    """The sensor's last account of the interface, which says of itself that it balances."""
    (line,) = [line for line in sensor.lines if "books closed: " in line and f'"{interface}"' in line]
    assert "(balanced)" in line
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}


def _counts(world: World) -> dict[str, int]:
    """What the sensor says of cap0 while it runs."""
    (interface,) = [one for one in world.status()["interfaces"] if one["name"] == "cap0"]
    return dict(interface)


def _is_upload(frame: bytes) -> bool:
    """Whether it is TCP from or to the vSensor's port."""
    return frame[12:14] == b"\x08\x00" and frame[23] == 6 and PORT in struct.unpack_from("!HH", frame, 34)


@pytest.mark.alone
def test_a11_tenfold_overload_ends_no_process_and_takes_85_percent_of_the_limit_at_most(
    cgroup: MemoryCgroup, world: World, tmp_path: Path
) -> None:
    """G1, too: the way to the vSensor is captured as well, and nothing of the upload is in it."""
    pcap = tmp_path / "flood.pcap"
    flood.write_pcap(pcap, 1 << 16)
    world.add_link("cap0")
    world.start_vsensor(options=("--rotate-mb", "128"))
    changes = {**MEMORY, "NETWORK_DEVICE_INCLUDELIST": "^(cap|up)"}
    sensor = world.start_sensor("cap0", "up0", changes=changes, under=cgroup.under)
    world.send("up0", 10, by=world.collector)
    pids = proc.tree(sensor.pid)
    world.sensor.run(*LINE.split())
    load = flood.Flood(world.generator, "cap0", pcap, per_second=PER_SECOND, loops=1_000_000)

    proc.eventually("what memory holds is full", lambda: _counts(world)["kernel_drops"])
    time.sleep(SETTLES_S)
    settled_s, settled_bytes = time.monotonic(), cgroup.used_bytes
    time.sleep(LASTS_S - SETTLES_S)  # the overload itself
    grown_bytes, took_s = cgroup.used_bytes - settled_bytes, time.monotonic() - settled_s
    assert load.running()
    load.stop()
    arrived = world.arrived("cap0")
    overload = arrived / max(1, _counts(world)["delivered"])  # the first long batches may all be on their way
    assert proc.tree(sensor.pid) == pids  # nobody was ended and replaced
    world.sensor.run(*["tc", "qdisc", "delete", "dev", "up0", "root"])
    # Each connection finds out when its next retransmission is due: after such a line, that may be longer than a stop.
    proc.eventually(
        "what waited is delivered", lambda: world.status()["uploader"]["said"]["waiting_batches"] == 0, timeout_s=300
    )
    code, _ = sensor.terminate()

    count, books = sum(len(flood.numbers_in(path)) for path in world.files("cap0")), _books(sensor, "cap0")
    print(
        f"{LASTS_S} s of {overload:.1f} times what the line carries: {books}; of {LIMIT_BYTES / _MIB:.0f} MiB at most"
        f" {cgroup.most_bytes / _MIB:.1f} ({cgroup.most_bytes / LIMIT_BYTES:.1%}), {grown_bytes / 1024:.0f} KiB more"
        f" after {took_s:.0f} s; processes killed for memory: {cgroup.kills}; up0 {_books(sensor, 'up0')}"
    )
    assert (code, cgroup.kills) == (0, 0)
    assert cgroup.most_bytes <= MOST * LIMIT_BYTES
    assert overload >= 10
    assert books == {"received": arrived, "kernel_drops": arrived - count, "delivered": count, "in_flight": 0}
    assert world.stored_numbers("up0") == list(range(10))
    assert [packet for packet in world.stored("up0") if _is_upload(packet.data)] == []
    audited = json.loads(world.collector.run(OSSENSOR, "audit", world.store, "--json"))
    assert {one["verdict"] for one in audited} == {"balanced"}
    if LONG:
        assert grown_bytes <= GROWTH_BYTES_A_MINUTE * took_s / 60


def _limited(cgroup: MemoryCgroup) -> bool:
    """Whether it may use no more than it does. What it has come to use between the two looks, the kernel may refuse."""
    try:
        cgroup.limit(cgroup.used_bytes)
    except OSError as e:
        if e.errno != errno.EBUSY:
            raise
        return False
    return True


def test_a11_what_the_kernel_ends_for_want_of_memory_is_a_child_whose_successor_goes_on(
    cgroup: MemoryCgroup, world: World
) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=MEMORY, under=cgroup.under)
    sender = world.sender("cap0", per_second=2_000)
    proc.eventually("the first frames are stored", lambda: world.holds("cap0", 10))
    scores = {proc.comm(pid): int(Path(f"/proc/{pid}/oom_score_adj").read_text()) for pid in proc.tree(sensor.pid)}
    proc.eventually("no more than it has", lambda: _limited(cgroup))
    sensor.strike(worker_of("cap0"))  # a successor needs memory
    proc.eventually("somebody is ended", lambda: cgroup.kills)
    cgroup.limit(LIMIT_BYTES)
    stored = world.stored_bytes("cap0")
    proc.eventually("the store grows again", lambda: world.stored_bytes("cap0") > stored)
    sent = sender.stop()

    assert sensor.terminate()[0] == 0  # it is the same supervisor
    deaths = [*sensor.records("worker died"), *sensor.records("uploader died")]
    print(f"the kernel ended {cgroup.kills} processes: {[death['how'] for death in deaths]}; {_books(sensor, 'cap0')}")
    assert scores == {"ossensor-sup": 500, "oss-upload": 1000, "oss-cap-cap0": 1000}
    assert len(deaths) == cgroup.kills + 1
    assert {death["how"] for death in deaths} == {"signal 9 (out of memory?)"}
    assert frames.verdict(range(sent), world.stored_numbers("cap0")) == ""
    assert _books(sensor, "cap0") == {"received": sent, "kernel_drops": 0, "delivered": sent, "in_flight": 0}
