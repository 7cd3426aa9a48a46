"""`ossensor status` and `ossensor health` of a sensor that runs: what is wrong has its reason there, within 5 s."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from harness import proc
from harness.namespaces import in_user_namespace
from harness.programs import KEY, OSSENSOR, UPLOADER, Sensor, environment, worker_of
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

WITHIN_S = 5


def _ask_once(world: World, *argv: str, **variables: str) -> tuple[int, str, str]:
    """Exit code, what was asked for, and complaints, of the command run where the sensor is."""
    variables = {"OSSENSOR_CONFIG_PATH": str(world.config), **variables}
    inside = world.sensor.inside(OSSENSOR, *argv)
    done = subprocess.run(inside, capture_output=True, text=True, env=environment(variables), check=False)
    return done.returncode, done.stdout, done.stderr


def _ask(world: World, *argv: str, **variables: str) -> tuple[int, str, str]:
    """The same of a sensor that is to answer. The command waits three seconds: as long may the machine stand still."""
    for _ in range(2):
        said = _ask_once(world, *argv, **variables)
        if "has not answered" not in said[1] + said[2]:
            return said
    return _ask_once(world, *argv, **variables)


def _status(world: World) -> dict[str, Any]:
    code, out, complaints = _ask(world, "status", "--json")
    assert (code, complaints) == (0, "")
    document: dict[str, Any] = json.loads(out)
    return document


def _with_reason(world: World, part: str) -> dict[str, Any]:
    """The first document with a reason that has this part."""
    found: list[dict[str, Any]] = []

    def there() -> bool:
        found.append(_status(world))
        return any(part in reason for reason in found[-1]["reasons"])

    proc.eventually(part, there)
    return found[-1]


def test_a_sensor_that_lacks_nothing_says_exactly_what_went_through_it(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    world.send("cap0", 1000)
    proc.eventually("all is acknowledged", lambda: _status(world)["interfaces"][0]["delivered"] == 1000)
    proc.eventually("all is said", lambda: (_status(world)["uploader"]["said"] or {}).get("waiting_batches") == 0)

    document = _status(world)
    (interface,) = document["interfaces"]
    assert (document["health"], document["reasons"], document["phase"]) == ("healthy", [], "running")
    assert document["pid"] == sensor.pid
    names = ("name", "state", "received", "kernel_drops", "delivered", "in_flight", "spooled", "restarts", "slots")
    assert [interface[name] for name in names] == ["cap0", "running", 1000, 0, 1000, 0, 0, 0, 8]
    assert document["uploader"]["said"]["reachable"]
    assert _ask(world, "health") == (0, "healthy\n", "")

    for victim in (UPLOADER, worker_of("cap0")):
        sensor.kill(victim)
    proc.eventually("both are counted", lambda: _restarts(_status(world)) == (1, 1))
    assert _status(world)["interfaces"][0]["delivered"] == 1000
    assert sensor.terminate()[0] == 0


def _restarts(document: Mapping[str, Any]) -> tuple[int, int]:
    return document["uploader"]["restarts"], document["interfaces"][0]["restarts"]


def _no_vsensor(_: World) -> None:
    """Nobody listens."""


def _wrong_key(world: World) -> None:
    world.start_vsensor(VSENSOR_HMAC_KEY="another key, of thirty-two bytes or so")


@pytest.mark.parametrize(
    "prepare,part",
    [
        pytest.param(_no_vsensor, "the vSensor 10.9.0.2:8443 is not reachable: ", id="no vSensor"),
        pytest.param(_wrong_key, "VSENSOR_HMAC_KEY", id="wrong key"),
    ],
)
def test_what_keeps_the_vsensor_away_is_named_and_is_no_reason_to_start_again(
    world: World, prepare: Callable[[World], None], part: str
) -> None:
    world.add_link("cap0")
    prepare(world)
    lives: list[Sensor] = []
    documents: list[dict[str, Any]] = []

    def named_s() -> float:
        """How long after it captures."""
        for before in lives:
            before.close()
        lives.append(world.start_sensor("cap0"))
        start_s = time.monotonic()
        documents.append(_with_reason(world, part))
        return time.monotonic() - start_s

    assert proc.quickest(WITHIN_S, named_s) <= WITHIN_S
    sensor, document = lives[-1], documents[-1]
    assert document["health"] == "degraded"
    assert KEY not in json.dumps(document)
    (reason,) = [reason for reason in document["reasons"] if part in reason]
    code, out, _ = _ask(world, "health")
    assert (code, out.startswith("degraded: ")) == (0, True)
    trouble = reason.partition("is not reachable: ")[2].partition(" (")[0]
    sensor.wait_for(trouble)  # the log says the same


def test_a_vsensor_that_comes_back_ends_the_complaint(world: World) -> None:
    world.add_link("cap0")
    world.start_sensor("cap0")
    _with_reason(world, "is not reachable")
    world.start_vsensor()
    world.send("cap0", 10)

    proc.eventually("it is healthy", lambda: _ask(world, "health") == (0, "healthy\n", ""))


def test_a_wrong_setting_ends_the_sensor_and_status_says_what_is_wrong_with_those_that_it_sees(world: World) -> None:
    sensor = world.start_sensor(changes={"NETWORK_DEVICE_INCLUDELIST": "eth["})
    assert sensor.wait() == 78  # at once: test_bad_input.py
    (fault,) = sensor.lines

    code, out, complaints = _ask(world, "status", NETWORK_DEVICE_INCLUDELIST="eth[")
    assert (code, out) == (1, "")
    assert complaints.splitlines() == [
        "ossensor: no sensor listens at @ossensor",
        "ossensor: with the settings given here a sensor would refuse to start:",
        fault,
    ]
    code, out, complaints = _ask(world, "status")
    assert complaints.splitlines()[1].startswith("ossensor: a sensor that refuses to start says why in its log")
    assert _ask(world, "health") == (1, "unhealthy: no sensor listens at @ossensor\n", "")


def test_a_refused_reload_stays_a_reason_until_one_is_accepted(world: World) -> None:
    world.add_link("cap0")
    world.config.write_text("BPF=tcp\n")
    sensor = world.start_sensor("cap0", changes={"BPF": None})

    def told_s() -> float:
        world.config.write_text("BPF=nonsense\n")
        sensor.signal(signal.SIGHUP)
        start_s = time.monotonic()
        _with_reason(world, "SIGHUP: the old settings stay: BPF: ")
        took_s = time.monotonic() - start_s
        world.config.write_text("BPF=udp\n")
        sensor.signal(signal.SIGHUP)
        proc.eventually("it is gone", lambda: not [r for r in _status(world)["reasons"] if "SIGHUP" in r])
        return took_s

    assert proc.quickest(WITHIN_S, told_s) <= WITHIN_S


def test_a_sensor_that_is_stopped_is_unhealthy_and_one_whose_worker_is_stopped_answers(world: World) -> None:
    world.add_link("cap0")
    sensor = world.start_sensor("cap0")
    worker = sensor.one(worker_of("cap0"))
    os.kill(worker, signal.SIGSTOP)
    assert _ask(world, "health")[0] == 0
    os.kill(worker, signal.SIGCONT)
    sensor.signal(signal.SIGSTOP)

    code, out, _ = _ask_once(world, "health")

    assert (code, out) == (1, "unhealthy: the sensor has not answered for 3 s: it hangs, or is stopped\n")
    sensor.signal(signal.SIGCONT)
    assert _ask(world, "health")[0] == 0


_STRANGER = (
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1].replace('@', chr(0)));"
    " print(len(s.recv(1)))"
)


def _knocked(world: World, address: str) -> str:
    """What a user who is neither root nor the sensor's gets there: a number of bytes, or an exception's name."""
    who = ("setpriv", "--reuid", "12345", "--regid", "12345", "--clear-groups", "/usr/bin/python3", "-c", _STRANGER)
    inside = world.sensor.inside(*who, address)
    done = subprocess.run(inside, capture_output=True, text=True, env=environment({}), check=False)
    return done.stdout.strip() or done.stderr.splitlines()[-1].partition(":")[0]


@pytest.mark.skipif(in_user_namespace(), reason="there is no other user in a user namespace")
def test_another_user_is_told_nothing(world: World, open_folder: Path) -> None:
    path = str(open_folder / "status")
    world.add_link("cap0")
    sensor = world.start_sensor("cap0", changes={"OSSENSOR_STATUS_SOCKET": path})
    assert _ask(world, "status", "--socket", path)[0] == 0
    assert _knocked(world, path) == "PermissionError"
    assert sensor.terminate()[0] == 0
    world.start_sensor("cap0", changes={"OSSENSOR_STATUS_SOCKET": "@ossensor"})

    assert _knocked(world, "@ossensor") == "0"
    assert _ask(world, "status", "--socket", "@ossensor")[0] == 0


def test_root_of_another_container_is_told_nothing(world: World) -> None:
    world.add_link("cap0")
    contained = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    world.start_sensor("cap0", under=contained)

    code, out, _ = _ask(world, "health")

    assert (code, out) == (1, "unhealthy: the sensor at @ossensor answers only root and its own user\n")


def test_status_can_be_off(world: World) -> None:
    world.add_link("cap0")
    world.start_sensor("cap0", changes={"OSSENSOR_STATUS_SOCKET": "off"})

    code, _, complaints = _ask(world, "status")  # it reads the config file that the sensor wrote
    assert (code, complaints) == (78, "ossensor: OSSENSOR_STATUS_SOCKET: it is off, so no sensor can be asked\n")
    code, _, complaints = _ask(world, "status", "--socket", "@ossensor")
    assert (code, complaints.splitlines()[0]) == (1, "ossensor: no sensor listens at @ossensor")
