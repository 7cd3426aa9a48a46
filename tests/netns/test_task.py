"""A sensor in an ECS task is called by the task's id, if the task metadata endpoint tells it in time."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from harness import proc
from harness.programs import Sensor
from harness.world import World

from ossensor import __version__

pytestmark = [pytest.mark.netns, pytest.mark.slow]

ID = "158d1c8083dd49d6b527399fd6414f5c"
ARN = f"arn:aws:ecs:eu-central-1:111122223333:task/c/{ID}"
_AGENT = f"""
import http.server, json
class Agent(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({{"TaskARN": "{ARN}", "Family": "web", "Revision": "7", "Cluster": "c"}}).encode()
        self.send_response(200 if self.path == "/v4/abc/task" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("10.9.0.2", 8079), Agent).serve_forever()
"""
TASK = {"ECS_CONTAINER_METADATA_URI_V4": "http://10.9.0.2:8079/v4/abc"}


def _names(world: World) -> set[str]:
    return {path.parent.parent.name for path in world.store.glob("*/cap0/*.pcapng")}


def _of_the_task(world: World) -> Sensor:
    """A sensor that has introduced itself by the id: it asks for a second at most, and a machine may stand still."""
    others: set[str] = set()

    def introduced() -> set[str]:
        return {path.parent.name for path in world.store.glob("*/introduction.json")} - others

    while len(others) < 3:
        sensor = world.start_sensor("cap0", changes={"OSSENSOR_SENSOR_NAME": None, **TASK})
        if ID in proc.eventually("it introduces itself", introduced):
            return sensor
        sensor.close()
        others |= introduced()
    raise AssertionError(f"it calls itself {others}")


def test_the_task_names_the_sensor_also_after_a_reload_and_a_given_name_counts_more(world: World) -> None:
    world.add_link("cap0")
    world.start(world.collector, sys.executable, "-c", _AGENT)
    proc.eventually("the agent listens", lambda: world.collector.listens(8079))
    world.start_vsensor()
    sensor = _of_the_task(world)
    sensor.signal(signal.SIGHUP)
    sensor.wait_for("settings read again", applied="nothing")
    world.send("cap0", 10)
    told = world.store / ID / "introduction.json"
    assert sensor.terminate()[0] == 0
    assert _names(world) == {ID}
    said = json.loads(told.read_text())
    assert said["task"] == {"arn": ARN, "cluster": "c", "family": "web", "revision": "7"}
    assert said["application"] == f"ossensor/{__version__}"

    named = world.start_sensor("cap0", changes=TASK)
    world.send("cap0", 10)
    assert named.terminate()[0] == 0
    assert _names(world) == {ID, "netns-sensor"}
    assert sensor.records("settings that changed and need a restart") == []


def test_a_silent_endpoint_costs_a_second_and_the_host_names_the_sensor(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    world.collector.run("nft", "add table inet mute")
    world.collector.run("nft", "add chain inet mute in { type filter hook input priority 0; }")
    world.collector.run("nft", "add rule inet mute in tcp dport 8079 drop")

    sensor = world.start_sensor("cap0", changes={"OSSENSOR_SENSOR_NAME": None, **TASK})
    world.send("cap0", 10)

    assert sensor.terminate()[0] == 0
    assert len(_names(world)) == 1
    assert _names(world) != {ID}
