"""Every command of the documents that can be run here, page by page, in the page's order: README.md first.

What is not run is listed with its reason in tests/unit/documented.py; all that is not listed is run here.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
from documented import PAGES, ROOT, to_run
from harness import proc
from harness.programs import KEY, Program, Sensor
from harness.reader import Reader
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

INI = f"[osSensor]\nvSensor = vsensor.example:8443\nkey = {KEY}\ndevice = cap0\nDebug = 2\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "reader"
    made.mkdir()
    return made


def _definition(folder: Path) -> None:
    """A task definition without a sensor, in before.json."""
    given = json.loads((ROOT / "deploy/ecs/task-definition.json").read_text())
    given["containerDefinitions"] = [c for c in given["containerDefinitions"] if c["name"] != "ossensor"]
    (folder / "before.json").write_text(json.dumps(given))


def _containers(path: Path) -> dict[str, dict[str, object]]:
    return {container["name"]: container for container in json.loads(path.read_text())["containerDefinitions"]}


def _running(world: World, folder: Path, **changes: str) -> Sensor:
    """A sensor and a vSensor that stores below the reader's folder, with packets of cap0."""
    world.store = folder / "store"
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=changes)
    world.send("cap0", 1000)
    proc.eventually("the frames are stored", lambda: world.holds("cap0", 1000))
    return sensor


def readme(world: World, folder: Path) -> None:
    reader = Reader(world, folder, world.sensor, {})
    said: list[str] = []

    def make_run() -> None:
        argv = world.sensor.inside("make", "-C", ROOT, "run", f"VENV={sys.prefix}")
        variables = reader.environment | {"RUN_DIR": str(folder / ".run")}
        both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        with subprocess.Popen(argv, env=variables, start_new_session=True, **both) as make:
            assert make.stdout is not None
            try:
                for line in make.stdout:
                    said.append(line)
                    if "capturing interface=cap0" in line:
                        world.send("cap0", 100)
                    if "cap0: 100 packets" in line:
                        break
                os.killpg(make.pid, signal.SIGINT)  # as a terminal's Ctrl-C: all of them get it
                said.extend(make.stdout)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(make.pid, signal.SIGKILL)

    reader.instead["make run"] = make_run
    reader.follow("README.md")
    world.send("cap0", 100)
    proc.eventually("what README had us start stores", lambda: list((folder / "store").glob("*/cap0/*.pcapng")))

    assert [line for line in said if "books closed: received=100 " in line and "delivered=100" in line]
    assert any(line.startswith("Read one with: tshark -r ") for line in said)
    assert [program.terminate()[0] for program in (reader.going["run"], reader.going["vsensor"])] == [0, 0]


def _committed(store: Path) -> int:
    """How many packets the store's index stands for; none before there is one."""
    with (
        suppress(sqlite3.OperationalError),
        closing(sqlite3.connect(f"file:{store}/index.sqlite?mode=ro", uri=True)) as index,
    ):
        return int(index.execute("SELECT total(packets) FROM streams").fetchone()[0])
    return 0


def vsensor(world: World, folder: Path) -> None:
    reader = Reader(world, folder, world.collector, {})
    sensors: list[Sensor] = []

    def ship() -> None:
        if sensors:
            return
        name = {"OSSENSOR_SENSOR_NAME": "web-1", "VSENSOR_HMAC_KEY": None}
        changes = {**name, "VSENSOR_HMAC_KEY_FILE": str(folder / "hmac.key")}
        sensors.append(world.start_sensor("cap0", changes=changes))
        world.sender("cap0", per_second=200)
        proc.eventually("a hundred packets are committed", lambda: _committed(folder / "store") >= 100)

    reader.started = ship
    reader.follow("docs/vsensor.md")

    (listed,) = (text for command, text in reader.said.items() if "antigena list" in command)
    assert "c2" in listed
    packets = [text for command, text in reader.said.items() if "tshark" in command]
    assert [len(text.splitlines()) for text in packets] == [10, 10]
    (top,) = (json.loads(text) for command, text in reader.said.items() if "top --once --json" in command)
    assert list(top["sensors"]) == ["web-1"]
    assert sensors[0].terminate()[0] == 0


def operations(world: World, folder: Path) -> None:
    sensor = _running(world, folder)
    reader = Reader(world, folder, world.sensor, world.settings({}))

    def told_bytes() -> int:
        told = json.loads(world.sensor.run("ossensor", "status", "--json", env=reader.environment))
        return int(told["uploader"]["said"]["wire_bytes"])

    proc.eventually("the uploader has said what it sent", told_bytes)

    def restart() -> None:
        nonlocal sensor
        assert sensor.terminate()[0] == 0
        sensor = world.start_sensor("cap0")
        proc.eventually("the vSensor is proven", lambda: (world.status()["uploader"]["said"] or {}).get("reachable"))

    reader.instead = {
        "systemctl restart ossensor": restart,
        "systemctl reload ossensor": lambda: sensor.signal(signal.SIGHUP),
        "systemctl status ossensor": lambda: None,
    }
    reader.follow("docs/operations.md")

    said = reader.said
    assert said["ossensor health"] == "healthy\n"
    assert "cap0" in said["ossensor status"]
    assert [one["verdict"] for one in json.loads(said["ossensor audit store --deep --json"])] == ["open"]
    status = json.loads((folder / "status.json").read_text())
    stored_bytes = int(said["du --apparent-size --block-size=1 --summarize store"].split()[0])
    assert 0 < status["uploader"]["said"]["wire_bytes"] < stored_bytes
    assert (folder / "next.key").stat().st_mode & 0o777 == 0o600
    assert (folder / "sample.pcapng").stat().st_size > 0


def migration(world: World, folder: Path) -> None:
    before = _running(world, folder)
    _definition(folder)
    (folder / "old.ini").write_text(INI)
    (folder / "old.ini").chmod(0o600)
    reader = Reader(world, folder, world.sensor, {})
    services: list[Program] = []

    def enable() -> None:
        """What the unit would do."""
        assert before.terminate()[0] == 0
        variables = reader.environment | {"VSENSOR_HMAC_KEY_FILE": "/etc/ossensor/hmac.key"}
        services.append(world.start(world.sensor, "ossensor", "run", env=variables))
        services[0].wait_for_line("capturing interface=cap0")

    reader.instead["systemctl daemon-reload && systemctl enable --now ossensor"] = enable
    reader.follow("docs/migration.md")

    assert _containers(folder / "after.json")["ossensor"]["image"] == "registry.example/ossensor:0.1.0"
    assert (
        "/etc/ossensor/hmac.key: would be written, mode 0600"
        in reader.said["ossensor systemd install --from-ini old.ini --dry-run"].splitlines()
    )
    assert world.sensor.run("stat", "-c", "%a %n", "/etc/ossensor/hmac.key") == "600 /etc/ossensor/hmac.key\n"
    assert not Path("/etc/ossensor/hmac.key").exists()
    assert "cap0" in reader.said["ossensor status"]
    assert services[0].terminate()[0] == 0


def fargate(world: World, folder: Path) -> None:
    _definition(folder)
    Reader(world, folder, world.sensor, {}).follow("deploy/ecs/README.md")

    assert list(_containers(folder / "with-sensor.json")) == [*_containers(folder / "before.json"), "ossensor"]


FOLLOWED: dict[str, Callable[[World, Path], None]] = {
    "README.md": readme,
    "deploy/ecs/README.md": fargate,
    "docs/migration.md": migration,
    "docs/operations.md": operations,
    "docs/vsensor.md": vsensor,
}


@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)])
def test_the_commands_of_a_page_do_what_it_says(world: World, folder: Path, page: str) -> None:
    world.add_link("cap0")
    FOLLOWED[page](world, folder)
