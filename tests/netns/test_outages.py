"""The vSensor is away for longer than memory lasts: with a spool nothing is lost, over a restart of everything too."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from harness import frames, proc
from harness.programs import OSSENSOR, UPLOADER, Sensor, VSensor
from harness.world import PORT, World

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(400)]

LONG = bool(os.environ.get("OSSENSOR_CHAOS"))  # `make chaos` has the time that the catalogue asks for
PER_SECOND = 20_000
OUTAGE_S, OUTAGE_PER_SECOND = (60, 20_000) if LONG else (15, 10_000)
MANY = 250_000  # 60 MiB of sections
STOPPED_S = 25
LEFT = 50_000  # 12 MiB, by each of two lives of the uploader: together more than the slots hold
COUNT = 60_000  # some 15 MiB: more than half of the slots, less than all
# Eight slots of 2 MiB, of which four may wait: some seconds of outage fill them. The ring holds more than ten seconds,
# in which a machine that stands still, or a disk, makes the uploader wait: whatever is dropped was not to be.
ROOM = {"OSSENSOR_RING_MB": "64"}
SMALL = {**ROOM, "OSSENSOR_BUFFER_MB": "16", "OSSENSOR_BATCH_MS": "100"}


@pytest.fixture
def folder(open_folder: Path, request: pytest.FixtureRequest) -> Path:
    """One that does not exist yet, where the uploader may go."""
    return open_folder / f"spool-{abs(hash(request.node.name))}"


def _files(folder: Path) -> list[Path]:
    return list(folder.glob("*.pcapng"))


def _books(sensor: Sensor) -> dict[str, int]:
    (line,) = [line for line in sensor.lines if "books closed: " in line]
    assert "(balanced)" in line
    return {name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)}


def _audited(world: World) -> tuple[int, str]:
    done = subprocess.run([OSSENSOR, "audit", world.store, "--deep"], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def _refused(world: World, vsensor: VSensor) -> Callable[[], object]:
    assert vsensor.terminate()[0] == 0
    return world.start_vsensor


def _black_holed(world: World, _: VSensor) -> Callable[[], object]:
    world.black_hole()
    return partial(world.collector.run, "nft", "delete table inet hole")


def _reset(world: World, _: VSensor) -> Callable[[], object]:
    rule = f"tcp dport {PORT} reject with tcp reset"
    world.collector.run("nft", f"table inet hole {{ chain in {{ type filter hook input priority 0; {rule}; }}; }}")
    return partial(world.collector.run, "nft", "delete table inet hole")


def _no_tls(world: World, vsensor: VSensor) -> Callable[[], object]:
    """Somebody is there, and answers each handshake with something else."""
    assert vsensor.terminate()[0] == 0
    impostor = world.start(world.collector, sys.executable, "-c", _NO_TLS)
    proc.eventually("it listens", lambda: world.collector.listens(PORT))

    def over() -> None:
        impostor.close()
        world.start_vsensor()

    return over


def _no_name(world: World, vsensor: VSensor) -> Callable[[], object]:
    """The name is gone, and so is what it stood for: a lookup comes after a failure."""
    hosts = world.folder / "hosts"
    assert vsensor.terminate()[0] == 0
    hosts.write_text("127.0.0.1 localhost\n")

    def over() -> None:
        hosts.write_text(_NAMED)
        world.start_vsensor()

    return over


_NAMED = "127.0.0.1 localhost\n10.9.0.2 vsensor.test\n"
_NO_TLS = f"""
import socket
with socket.create_server(("10.9.0.2", {PORT})) as listener:
    while True:
        with listener.accept()[0] as connection:
            connection.recv(1 << 16)
            connection.sendall(b"220 this is no TLS\\r\\n")
"""
_KINDS = {
    "refused": (_refused, "the vSensor cannot be reached"),
    # A quarter of a minute of silence may be a slow vSensor: an attempt waits 30 s for its reply.
    "black-holed": (_black_holed, "the vSensor cannot be reached" if OUTAGE_S > 30 else None),
    "reset": (_reset, "the vSensor cannot be reached"),
    "no TLS": (_no_tls, "the vSensor cannot be reached"),
    "no name": (_no_name, "VSENSOR_HOSTNAME does not resolve"),
}


@pytest.mark.parametrize("how", _KINDS)
def test_b1_an_outage_loses_nothing_and_the_backlog_is_gone_soon(world: World, folder: Path, how: str) -> None:
    begin, told = _KINDS[how]
    world.add_link("cap0")
    (world.folder / "hosts").write_text(_NAMED)
    world.sensor.replace(Path("/etc/hosts"), world.folder / "hosts")
    vsensor = world.start_vsensor()
    named = {"VSENSOR_HOSTNAME": "vsensor.test"}
    sensor = world.start_sensor("cap0", changes={**SMALL, **named, "OSSENSOR_SPOOL_DIR": str(folder)})
    sender = world.sender("cap0", per_second=OUTAGE_PER_SECOND)
    proc.eventually("the store grows", lambda: world.stored_bytes("cap0") > 0)

    end = begin(world, vsensor)
    time.sleep(OUTAGE_S)  # the outage itself
    most = len(_files(folder))
    end()
    back_s = time.monotonic()
    sent = sender.stop()
    proc.eventually("the spool is empty", lambda: not _files(folder))
    empty_s = time.monotonic() - back_s
    proc.happened(lambda: world.holds("cap0", sent), proc.HANGS_S)
    assert sensor.terminate()[0] == 0
    books = _books(sensor)

    print(f"{how}, {OUTAGE_S} s: {sent} sent, {most} files at most, empty {empty_s:.1f} s after the return; {books}")
    assert frames.verdict(range(sent), world.stored_numbers("cap0")) == ""
    assert books["kernel_drops"] == 0
    assert empty_s <= 60
    assert most > 5
    assert told is None or sensor.records(told)
    assert _audited(world)[0] == 0


@pytest.mark.parametrize("vsensor", ["there", "away"])
def test_a10_a_stop_with_50_mib_queued_ends_in_time_and_accounts_for_all_of_it(world: World, vsensor: str) -> None:
    within_s, as_what, stored = {"there": (10, "delivered", list(range(MANY))), "away": (25, "shutdown", [])}[vsensor]
    world.add_link("cap0")
    lives = 0

    def stopped() -> float:
        nonlocal lives
        sensor = world.start_sensor("cap0", changes={**ROOM, "OSSENSOR_BUFFER_MB": "96"})
        world.send("cap0", MANY, per_second=2 * PER_SECOND)
        receiver = world.start_vsensor() if vsensor == "there" else None
        code, took_s = sensor.terminate()
        books = _books(sensor)
        lives += 1
        print(f"vSensor {vsensor}: stopped in {took_s:.1f} s; {books}")
        assert code == 0
        assert (books["received"], books[as_what]) == (MANY, MANY)
        assert receiver is None or receiver.terminate()[0] == 0
        return took_s

    assert proc.quickest(within_s, stopped) < within_s
    assert frames.verdict(stored * lives, world.stored_numbers("cap0")) == ""


def test_without_a_spool_what_memory_does_not_hold_is_counted_exactly(world: World) -> None:
    world.add_link("cap0")
    vsensor = world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"OSSENSOR_BUFFER_MB": "4", "OSSENSOR_RING_MB": "1"})
    world.send("cap0", 1000)
    proc.eventually("the store grows", lambda: world.stored_bytes("cap0") > 0)
    assert vsensor.terminate()[0] == 0

    world.send("cap0", COUNT, first=1000, per_second=PER_SECOND)
    world.start_vsensor()
    proc.eventually("it answers again", lambda: len(sensor.records("the vSensor answers")) >= 2)
    world.send("cap0", 1000, first=1000 + COUNT)
    assert sensor.terminate()[0] == 0
    books, stored = _books(sensor), world.stored_numbers("cap0")

    print(f"{COUNT + 2000} sent, {len(stored)} stored; {books}")
    assert books["kernel_drops"] > COUNT // 2
    assert (books["received"], books["delivered"]) == (COUNT + 2000, len(stored))
    assert len(stored) == len(set(stored)) == COUNT + 2000 - books["kernel_drops"]
    assert stored == sorted(stored)
    assert _audited(world)[0] == 0


def test_a_stop_beside_a_vsensor_that_does_not_answer_leaves_what_is_being_sent_on_disk_too(
    world: World, folder: Path
) -> None:
    world.add_link("cap0")
    changes = {**SMALL, "OSSENSOR_SPOOL_DIR": str(folder)}
    vsensor = world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=changes)
    world.send("cap0", 1000)
    proc.eventually("it is proven, and answers", lambda: world.holds("cap0", 1000))
    frozen = proc.tree(vsensor.pid)
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    world.send("cap0", COUNT // 2, first=1000, per_second=PER_SECOND)
    code, took_s = sensor.terminate()
    books = _books(sensor)
    for pid in reversed(frozen):
        os.kill(pid, signal.SIGCONT)

    print(f"stopped in {took_s:.1f} s; {books}")
    assert code == 0
    assert (books.get("shutdown", 0), books["kernel_drops"]) == (0, 0)
    assert books["delivered"] + books["spooled"] == 1000 + COUNT // 2
    successor = world.start_sensor("cap0", changes=changes)
    proc.eventually("the spool is empty", lambda: not _files(folder))
    assert successor.terminate()[0] == 0

    # What had arrived, though its acknowledgement had not, was sent again: the vSensor knew it.
    assert frames.verdict(range(1000 + COUNT // 2), world.stored_numbers("cap0")) == ""
    assert _audited(world)[0] == 0


def test_what_a_stop_leaves_is_on_disk_and_the_next_sensor_delivers_it(world: World, folder: Path) -> None:
    world.add_link("cap0")
    changes = {**SMALL, "OSSENSOR_SPOOL_DIR": str(folder)}

    def stopped_s() -> float:
        """How long a stop takes that leaves all of it on disk. What an attempt before left there is thrown away."""
        if folder.exists():
            shutil.rmtree(folder)
        sensor = world.start_sensor("cap0", changes=changes)
        world.send("cap0", LEFT, per_second=PER_SECOND)
        uploader = sensor.strike(UPLOADER)
        sensor.successor(UPLOADER, uploader)
        world.send("cap0", LEFT, first=LEFT, per_second=PER_SECOND)
        code, took_s = sensor.terminate()
        books = _books(sensor)
        print(f"stopped in {took_s:.1f} s, {len(_files(folder))} files; {books}")
        assert code == 0
        assert books == {"received": 2 * LEFT, "kernel_drops": 0, "delivered": 0, "in_flight": 0, "spooled": 2 * LEFT}
        return took_s

    assert proc.quickest(STOPPED_S, stopped_s) < STOPPED_S
    files = _files(folder)
    tshark = subprocess.run(["tshark", "-r", files[0]], capture_output=True, text=True, check=True).stdout
    assert len(tshark.splitlines()) == int(files[0].name.split(",")[3])
    assert folder.stat().st_mode & 0o777 == 0o700

    world.start_vsensor()
    successor = world.start_sensor("cap0", changes=changes)
    world.send("cap0", 100, first=2 * LEFT)
    proc.eventually("the spool is empty", lambda: not _files(folder))
    proc.happened(lambda: world.holds("cap0", 2 * LEFT + 100), proc.HANGS_S)
    assert successor.terminate()[0] == 0

    # Two epochs: in order each, and either may be first.
    stored = world.stored_numbers("cap0")
    assert frames.verdict(range(2 * LEFT), [n for n in stored if n < 2 * LEFT]) == ""
    assert frames.verdict(range(2 * LEFT, 2 * LEFT + 100), [n for n in stored if n >= 2 * LEFT]) == ""
    assert _audited(world)[0] == 0


def test_a_full_disk_is_told_and_costs_nothing_that_memory_can_hold(world: World, folder: Path) -> None:
    folder.mkdir()
    world.sensor.run("mount", "-t", "tmpfs", "-o", "size=3m,uid=65534,gid=65534,mode=700", "none", str(folder))
    world.add_link("cap0")
    sensor = world.start_sensor("cap0", changes={**SMALL, "OSSENSOR_SPOOL_DIR": str(folder)})
    world.send("cap0", COUNT, per_second=PER_SECOND)
    sensor.wait_for_line("No space left on device")
    names: list[str] = []

    def whole_files() -> bool:
        """What fails is taken away again; it is tried each five seconds, and may be under way."""
        names[:] = world.sensor.run("ls", str(folder)).split()
        return not [name for name in names if name.endswith(".part")]

    proc.eventually("whole files alone", whole_files)
    world.start_vsensor()
    proc.eventually("all is stored", lambda: world.holds("cap0", COUNT))
    proc.eventually("it has heard so", lambda: world.sensor.run("ls", str(folder)) == "")
    assert sensor.terminate()[0] == 0
    books = _books(sensor)

    print(f"{len(names)} files on the full disk; {books}")
    assert names
    assert world.sensor.run("ls", str(folder)) == ""
    assert frames.verdict(range(COUNT), world.stored_numbers("cap0")) == ""
    assert books["kernel_drops"] == 0
