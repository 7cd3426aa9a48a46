"""Three vSensors behind a balancer, a stream in three copies, a consumer: each packet is stored once, whoever dies."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from harness import frames, proc
from harness.cluster import Cluster
from harness.namespaces import address
from harness.programs import KEY, OSSENSOR, Program, Sensor, VSensor, environment
from harness.world import PORT, UPLINK, World, package_environment, unread_for

pytestmark = [pytest.mark.netns, pytest.mark.slow]

SEED = 20261128
BALANCER = "10.9.0.4"
HOSTS = ("10.9.0.2", "10.9.0.3", "10.9.0.5")
INTERFACES = ("cap0", "cap1", "cap2", "cap3")
# make chaos has the whole million.
PACKETS = 1_000_000 if os.environ.get("OSSENSOR_CHAOS") else 100_000
PER_SECOND = 20_000 if os.environ.get("OSSENSOR_CHAOS") else 10_000


class Consumer:
    """`ossensor consume`, which may be killed and started again."""

    def __init__(self, world: World, urls: str, store: Path, *options: str) -> None:
        self._world = world
        self._argv = [str(OSSENSOR), "consume", urls, "--store", str(store), "--json", *options]
        self.program = self.start()

    def start(self) -> Program:
        self.program = self._world.start(self._world.collector, *self._argv)
        return self.program

    def strike(self) -> None:
        self.program.signal(signal.SIGKILL)
        self.program.wait()
        self.start()


class Balanced:
    """The vSensors and what is in front of them."""

    def __init__(self, world: World, urls: str) -> None:
        self.world = world
        address(world.collector, UPLINK, f"{BALANCER}/24", f"{HOSTS[2]}/24")
        self.vsensors = [self.vsensor(host, urls) for host in HOSTS]
        backends = (f"{host}:{PORT}" for host in HOSTS)
        argv = (sys.executable, "-m", "harness.balancer", f"{BALANCER}:{PORT}", *backends)
        world.start(world.collector, "env", f"PYTHONPATH={package_environment()['PYTHONPATH']}", *argv)
        proc.eventually("all listen", self._all_listen)

    def vsensor(self, host: str, urls: str) -> VSensor:
        return self.world.start_vsensor(host, store=self.world.folder / f"own-{host}", options=("--jetstream", urls))

    def _all_listen(self) -> bool:
        said = self.world.collector.run("ss", "-Hltn")
        return all(f"{host}:{PORT}" in said for host in (BALANCER, *HOSTS))

    def strike(self, n: int) -> None:
        """Kills the serving process of one; its keeper starts another."""
        proc.kill(proc.children(self.vsensors[n].pid))


def _delivered(sensor: Sensor) -> int:
    return sum(r["packets"] for r in sensor.records("sent batch") if r["answer"].endswith(("stored", "present")))


def _audit(*stores: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [OSSENSOR, "audit", "--json", "--deep", *map(str, stores)],
        capture_output=True, text=True, env=environment({}), check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return list(json.loads(done.stdout))


def test_a_vsensor_in_front_of_a_cluster_is_a_receiver_as_the_protocol_wants_it(world: World) -> None:
    cluster = Cluster(world)
    world.start_vsensor(store=world.folder / "own", options=("--jetstream", cluster.urls)).wait_until_well()
    tests = Path(__file__).parents[1] / "conformance"
    argv = ("-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), "--receiver", f"https://{HOSTS[0]}:{PORT}")

    said = world.collector.run(sys.executable, *argv, "--receiver-key", KEY, env=environment({}), timeout_s=240)
    assert "passed" in said


def test_without_nats_sensors_are_told_so_signed_and_all_arrives_once_it_is_back(world: World) -> None:
    cluster = Cluster(world, 1)
    options = ("--jetstream", cluster.urls, "--jetstream-replicas", "1")
    vsensor = world.start_vsensor(store=world.folder / "own", options=options)
    proc.eventually("the stream is there", cluster.stream)
    world.add_link("cap0")
    sensor = world.start_sensor("cap0", changes={"OSSENSOR_DEBUG": "2"})
    world.send("cap0", 5000)
    proc.eventually("it delivers", lambda: _delivered(sensor) == 5000)

    cluster.kill(0)
    world.send("cap0", 5000, first=5000)
    # A signed reply: an unsigned one has no outcome.
    sensor.wait_for("sent batch", answer="507 store-failed")
    cluster.start(0)
    proc.eventually("all is delivered", lambda: _delivered(sensor) == 10_000)
    assert sensor.terminate()[0] == 0
    assert vsensor.terminate()[0] == 0
    # Nothing was consumed meanwhile; two share it, by partition.
    stores = [world.folder / f"part-{k}" for k in (1, 2)]
    consumers = [Consumer(world, cluster.urls, store, "--part", f"{k}/2") for k, store in enumerate(stores, 1)]
    proc.eventually("all are consumed", lambda: cluster.messages() == 0)
    assert [consumer.program.terminate()[0] for consumer in consumers] == [0, 0]

    (audited,) = _audit(*stores)
    assert (audited["verdict"], audited["finding"]["packets"]) == ("balanced", 10_000)
    assert list((world.folder / "own").glob("*/*/*.pcapng")) == []


def test_every_packet_arrives_once_while_vsensors_a_nats_server_and_the_consumer_are_killed(world: World) -> None:
    generator = random.Random(SEED)
    cluster = Cluster(world)
    balanced = Balanced(world, cluster.urls)
    proc.eventually("the stream is there", cluster.stream)
    consumer = Consumer(world, cluster.urls, world.store)
    world.add_link(*INTERFACES)
    sensor = world.start_sensor(
        *INTERFACES,
        changes={"VSENSOR_HOSTNAME": BALANCER, "OSSENSOR_DEBUG": "2", **unread_for(40)},
    )
    each = PACKETS // len(INTERFACES)
    senders = [
        threading.Thread(target=world.send, args=(name, each), kwargs={"per_second": PER_SECOND // len(INTERFACES)})
        for name in INTERFACES
    ]
    for sender in senders:
        sender.start()

    victims: list[int] = []

    def strike_leader() -> None:
        victims.append(cluster.leader())
        cluster.kill(victims[0])

    # At each of these many packets delivered: what is done to whom.
    deeds: dict[float, Callable[[], None]] = {
        **{k / 20: partial(balanced.strike, generator.randrange(3)) for k in range(1, 20, 2)},
        **{k / 20: consumer.strike for k in (4, 8, 14)},
        0.3: strike_leader,
        0.6: lambda: cluster.start(victims[0]),
    }
    for share in sorted(deeds):
        due = int(share * PACKETS)
        proc.eventually(f"{due} are delivered", lambda due=due: _delivered(sensor) >= due, timeout_s=240)
        deeds[share]()
    for sender in senders:
        sender.join()
    proc.eventually("all are delivered", lambda: _delivered(sensor) == PACKETS, timeout_s=240)
    assert sensor.terminate()[0] == 0
    proc.eventually("all are consumed", lambda: cluster.messages() == 0, timeout_s=240)
    assert consumer.program.terminate()[0] == 0

    audited = _audit(world.store)
    answers = [r["answer"] for r in sensor.records("sent batch")]
    print(
        f"seed {SEED}: {len(answers)} answers, {sum(a.endswith('present') for a in answers)} present,"
        f" NATS server {victims[0]} killed; repeats at the consumer: {sum(a['finding']['repeats'] for a in audited)}"
    )
    for name in INTERFACES:
        assert frames.verdict(range(each), world.stored_numbers(name)) == ""
    assert {(a["interface"], a["verdict"]) for a in audited} == {(name, "balanced") for name in INTERFACES}
    assert sum(a["finding"]["packets"] for a in audited) == PACKETS
    assert [a["finding"]["doubles"] for a in audited] == [0] * len(audited)
