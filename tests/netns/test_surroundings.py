"""Machines that are short of something (catalogue C1, C3): it works, or says what is missing; it never dies of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import frames, proc
from harness.namespaces import in_user_namespace
from harness.operator import Operator
from harness.programs import UPLOADER
from harness.world import World

import ossensor

pytestmark = [pytest.mark.netns, pytest.mark.slow]

# 64 KiB of /dev/shm, a root that nobody can write to, a mask that leaves others nothing; HOME is never set here.
_POOR = """
mount -t tmpfs -o size=64k none /dev/shm &&
mount -o remount,bind,ro / &&
umask 077 &&
! touch /probe 2>/dev/null &&
exec "$0" "$@"
"""
_SMALL = {"OSSENSOR_BUFFER_MB": "8", "OSSENSOR_BATCH_MS": "100"}
_COUNT = 40_000


def test_c1_tiny_dev_shm_read_only_root_no_home_and_umask_077_are_enough(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", under=("unshare", "-m", "sh", "-c", _POOR))

    world.send("cap0", _COUNT)
    proc.eventually("all is stored", lambda: world.holds("cap0", _COUNT))

    assert sensor.terminate()[0] == 0
    assert frames.verdict(range(_COUNT), world.stored_numbers("cap0")) == ""
    assert not world.config.exists()


def test_c1_descriptors_that_are_short_are_named_and_leave_the_others_capturing(world: World) -> None:
    links = [f"cap{n}" for n in range(8)]
    world.add_link(*links)
    world.start_vsensor()
    sensor = world.start_sensor(under=("prlimit", "--nofile=64:64"))
    sensor.wait_for_line("RLIMIT_NOFILE")
    proc.eventually("two are captured", lambda: len(sensor.records("capturing")) == 2)
    captured = {record["interface"] for record in sensor.records("capturing")}

    for link in captured:
        world.send(link, _COUNT)
        proc.eventually("all is stored", lambda link=link: world.holds(link, _COUNT))

    assert sensor.terminate()[0] == 0
    assert sensor.records("cannot capture") == []
    assert [frames.verdict(range(_COUNT), world.stored_numbers(link)) for link in captured] == ["", ""]


@pytest.mark.skipif(in_user_namespace(), reason="a user namespace has no other user")
@pytest.mark.parametrize("owner", [0, 1000])
def test_in_a_home_that_is_closed_to_others_every_process_works_all_the_same(
    world: World, certificate: tuple[Path, Path], tmp_path: Path, open_folder: Path, owner: int
) -> None:
    """As Debian makes them; root's, and that of whoever called sudo. Nothing of ours is loaded after the start."""
    closed = tmp_path / "home"
    closed.mkdir(0o700)
    shutil.copytree(Path(ossensor.__file__).parent, closed / "ossensor", ignore=shutil.ignore_patterns("__pycache__"))
    os.chown(closed, owner, owner)
    operator = Operator(world, certificate[0])
    world.add_link("cap0")
    world.start_vsensor(options=operator.options)
    changes = {
        "PYTHONPATH": str(closed),
        "OSSENSOR_DEBUG": "5",
        "OSSENSOR_METRICS_ADDRESS": "127.0.0.1:9464",
        "OSSENSOR_SPOOL_DIR": str(open_folder / "spool-of-a-home"),
        "ANTIGENA_TIME_PERIOD": "1",
    }
    sensor = world.start_sensor("cap0", changes=changes)
    operator.block("--src", "192.0.2.1")
    sensor.wait_for("orders in force")
    world.send("cap0", 1000)
    proc.eventually("all is stored", lambda: world.holds("cap0", 1000))
    world.add_link("cap1")
    sensor.wait_for("capturing", interface="cap1")

    assert sensor.terminate()[0] == 0
    assert [line for line in sensor.lines if "Error" in line or " died" in line] == []


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_c3_a_disk_that_fails_is_written_to_no_more_and_memory_keeps_what_it_was_given(
    world: World, open_folder: Path, call: str
) -> None:
    """The kernel itself answers EIO, once: strace stands between the uploader and its `call`."""
    folder = open_folder / f"spool-{call}"
    world.add_link("cap0")
    # To inject, strace makes the call's number -1, and the kernel asks the filter about that (seccomp(2), since 4.8).
    changes = {**_SMALL, "OSSENSOR_SPOOL_DIR": str(folder), "OSSENSOR_SECCOMP": "off"}
    sensor = world.start_sensor("cap0", changes=changes)
    inject = f"inject={call}:error=EIO:when=1"
    uploader = sensor.one(UPLOADER)
    tracer = subprocess.Popen(["strace", "-f", "-q", "-p", str(uploader), "-e", inject], stderr=subprocess.PIPE)
    try:
        proc.eventually("strace is there", lambda: "TracerPid:\t0" not in Path(f"/proc/{uploader}/status").read_text())
        world.send("cap0", _COUNT)
        sensor.wait_for_line("nothing more will be, until a restart")
    finally:
        tracer.terminate()
        tracer.communicate()
    assert list(folder.iterdir()) == []

    world.start_vsensor()
    proc.eventually("all is stored", lambda: world.holds("cap0", _COUNT))

    assert sensor.terminate()[0] == 0
    (books,) = [line for line in sensor.lines if "books closed: " in line]
    assert frames.verdict(range(_COUNT), world.stored_numbers("cap0")) == ""
    assert f"received={_COUNT} kernel_drops=0 delivered={_COUNT} in_flight=0 (balanced)" in books
