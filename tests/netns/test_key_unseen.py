"""E9: the key is in no log line, argument, environment, metric, config file or crash dump of sensor or vSensor.

At debug level 5, which shows what all levels below it show.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import proc
from harness.namespaces import in_user_namespace
from harness.needles import hits
from harness.programs import OSSENSOR, UPLOADER, Program, Sensor, worker_of
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

ADDRESS = "127.0.0.1:9464"
_FETCH = f"import urllib.request; print(urllib.request.urlopen('http://{ADDRESS}/metrics', timeout=60).read().decode())"
_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]


def _files(program: Program, *names: str) -> dict[str, bytes]:
    """These files of /proc of the program and everything below it."""
    return {
        f"{name} of {proc.comm(pid)} {pid}": proc.read_bytes(pid, name)
        for pid in proc.tree(program.pid)
        for name in names
    }


def _crash(sensor: Sensor, name: str) -> None:
    """Has a child print its stacks and die; returns once its successor is there."""
    dumps = sum("most recent call first" in line for line in sensor.lines)
    victim = sensor.one(name)
    os.kill(victim, signal.SIGABRT)
    proc.eventually("stacks", lambda: sum("most recent call first" in line for line in sensor.lines) > dumps)
    sensor.successor(name, victim)


def test_e9_with_the_key_in_a_file_it_is_nowhere_else(world: World, tmp_path: Path) -> None:
    key, other = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    (tmp_path / "key").write_text(key)
    (tmp_path / "other").write_text(other)
    by_file = {"VSENSOR_HMAC_KEY": None, "VSENSOR_HMAC_KEY_FILE": str(tmp_path / "key")}
    changes = {**by_file, "OSSENSOR_METRICS_ADDRESS": ADDRESS, "OSSENSOR_DEBUG": "5"}
    world.add_link("cap0")
    vsensor = world.start_vsensor(VSENSOR_HMAC_KEY_FILE=str(tmp_path / "key"))
    sensor = world.start_sensor("cap0", changes=changes)
    world.send("cap0", 100)
    proc.eventually("all is stored", lambda: world.holds("cap0", 100))
    shown = _files(sensor, "cmdline", "environ", "comm") | _files(vsensor, "cmdline", "environ", "comm")
    shown["metrics"] = world.sensor.run(sys.executable, "-c", _FETCH)
    for child in (UPLOADER, worker_of("cap0")):
        _crash(sensor, child)
    sensor.signal(signal.SIGHUP)
    shown |= _files(sensor, "cmdline", "environ", "comm")

    # Refusals on both sides: errors like to say what they failed with.
    assert vsensor.terminate()[0] == 0
    stranger = world.start_vsensor(VSENSOR_HMAC_KEY_FILE=str(tmp_path / "other"))
    world.send("cap0", 100, first=100)
    sensor.wait_for_line("the vSensor's answer is not signed with our key")
    assert sensor.terminate()[0] == 0
    assert stranger.terminate()[0] == 0
    for program in (sensor, vsensor, stranger):
        shown[f"log of {program.pid}"] = "\n".join(program.lines)
    shown["config file"] = world.config.read_text()
    check = [OSSENSOR, "check", "--json"]
    shown["check"] = subprocess.run(check, env=world.settings(changes), capture_output=True, check=True).stdout

    levels = {json.loads(line)["level"] for line in sensor.lines if line.startswith("{")}
    print(f"{len(shown)} things shown, {sum(map(len, shown.values()))} bytes; levels {sorted(levels)}")
    assert {"INFO", "WARNING", "SEND", "CHUNK", "PACKET"} <= levels  # statistics come every ten seconds
    assert sum("most recent call first" in line for line in sensor.lines) >= 2
    assert hits(key, shown) == {}
    assert hits(other, shown) == {}


@pytest.mark.skipif(in_user_namespace(), reason="a user namespace with one user has no other to look as")
def test_e9_with_the_key_in_the_environment_nobody_but_root_reads_it_there(world: World) -> None:
    """The kernel keeps what a program was started with; what is ours is who may ask for it, and the rest of /proc."""
    key = secrets.token_urlsafe(32)
    world.add_link("cap0")
    world.start_vsensor(VSENSOR_HMAC_KEY=key)
    sensor = world.start_sensor("cap0", changes={"VSENSOR_HMAC_KEY": key, "OSSENSOR_DEBUG": "5"})
    sensor.wait_for("the vSensor has proved to hold the key; its certificate is pinned")
    environments = _files(sensor, "environ")
    others = _files(sensor, "cmdline", "comm") | {"config file": world.config.read_text()}
    pids = proc.tree(sensor.pid)
    asked = {
        pid: subprocess.run([*_NOBODY, "cat", f"/proc/{pid}/environ"], capture_output=True, text=True, check=False)
        for pid in pids
    }
    owners = {pid: Path(f"/proc/{pid}/environ").stat().st_uid for pid in pids}
    users = {proc.status(pid)["Uid"].split()[0] for pid in pids}
    assert sensor.terminate()[0] == 0
    others["log"] = "\n".join(sensor.lines)

    assert len(pids) == 3
    assert len(hits(key, environments)) == 3  # or the search would find nothing anywhere
    assert {pid: (done.stdout, "Permission denied" in done.stderr) for pid, done in asked.items()} == dict.fromkeys(
        pids, ("", True)
    )
    # The children are nobody's, and yet: of what may not be dumped, the kernel gives these files to root, and writes no
    # core.
    assert (users, set(owners.values())) == ({"0", "65534"}, {0})
    assert hits(key, others) == {}
