"""Prometheus metrics of the running sensor: what they say is what happened, whichever child died meanwhile."""

from __future__ import annotations

import sys

import pytest
from harness import proc
from harness.programs import UPLOADER, worker_of
from harness.world import World
from prometheus_client.parser import text_string_to_metric_families

pytestmark = [pytest.mark.netns, pytest.mark.slow]

ADDRESS = "127.0.0.1:9464"
_FETCH = f"import urllib.request; print(urllib.request.urlopen('http://{ADDRESS}/metrics', timeout=60).read().decode())"


def _scraped(world: World) -> dict[str, float]:
    families = text_string_to_metric_families(world.sensor.run(sys.executable, "-c", _FETCH))
    return {
        f"{sample.name.removeprefix('ossensor_')} {sample.labels.get('interface', '')}".strip(): sample.value
        for family in families
        for sample in family.samples
        if "reason" not in sample.labels and "le" not in sample.labels
    }


def test_counts_are_exact_and_survive_the_death_of_every_child(world: World) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"OSSENSOR_METRICS_ADDRESS": ADDRESS})
    world.send("cap0", 1000)
    proc.eventually("all is stored", lambda: world.holds("cap0", 1000))

    def delivered(count: int) -> bool:
        now = _scraped(world)
        both = now["packets_received_total cap0"], now["packets_delivered_total cap0"]
        return both == (count, count)

    proc.eventually("all is acknowledged", lambda: delivered(1000))
    # The slots' counts are there at once, the batches' when their replies have been looked at, all of them.
    proc.eventually("and counted", lambda: _scraped(world)["upload_waiting_batches"] == 0)
    before = _scraped(world)
    for victim in (UPLOADER, worker_of("cap0")):
        pid = sensor.strike(victim)
        sensor.successor(victim, pid)
        # A new uploader answers before the supervisor has handed it the interface.
        proc.eventually("the interface is there", lambda: "packets_delivered_total cap0" in _scraped(world))
        assert delivered(1000)
    world.send("cap0", 500, first=1000)
    proc.eventually("the rest is acknowledged, too", lambda: delivered(1500))

    assert before["slots cap0"] == 8
    assert before["vsensor_reachable"] == 1
    assert before["acknowledgement_seconds_count"] == before["upload_batches_total"] >= 1
    assert sensor.terminate()[0] == 0


def test_a_port_that_is_taken_is_a_wrong_setting(world: World) -> None:
    taken = "import signal, socket; s = socket.create_server(('127.0.0.1', 9464)); signal.pause()"
    world.start(world.sensor, sys.executable, "-c", taken)
    proc.eventually("it is taken", lambda: world.sensor.listens(9464))
    sensor = world.start_sensor(changes={"OSSENSOR_METRICS_ADDRESS": ADDRESS})

    assert sensor.wait() == 78
    assert sensor.lines == ["ossensor: OSSENSOR_METRICS_ADDRESS: cannot listen there: Address already in use"]
