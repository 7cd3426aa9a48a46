"""vSensors behind a load balancer: the one that answers names its direct address, and gets everything there."""

from __future__ import annotations

import re
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
from harness import frames, proc
from harness.captures import read_pcapng, tshark
from harness.namespaces import address
from harness.programs import Sensor, VSensor, make_certificate
from harness.world import PORT, UPLINK, World, package_environment, tag_for, unread_for

pytestmark = [pytest.mark.netns, pytest.mark.slow]

BALANCER, DIRECT, OTHER = "10.9.0.4", "10.9.0.2", "10.9.0.3"
GOES_DIRECT = "to the vSensor's direct address"
COMES_BACK = "the vSensor's direct address fails; back to the name"
NO_USE = "the vSensor's direct address is of no use"
# What comes from the sensor, and not from the balancer, which is in the vSensors' namespace.
_COUNT = f"""
table inet seen {{
  chain in {{
    type filter hook input priority 0
    iifname {UPLINK} ip daddr {BALANCER} tcp dport {PORT} tcp flags syn counter
    iifname {UPLINK} ip daddr {DIRECT} tcp dport {PORT} tcp flags syn counter
    iifname {UPLINK} ip daddr {OTHER} tcp dport {PORT} tcp flags syn counter
  }}
}}
"""
_COUNTER = re.compile(r"daddr (\S+) tcp dport \d+ tcp flags syn counter packets (\d+)")


class Balanced:
    """Two vSensors with a store each, and a balancer in front of both."""

    def __init__(self, world: World, *backends: str) -> None:
        self.world = world
        self.stores = {DIRECT: world.folder / "store-2", OTHER: world.folder / "store-3"}
        address(world.collector, UPLINK, f"{BALANCER}/24")
        world.collector.run("nft", _COUNT)
        argv = (
            sys.executable,
            "-m",
            "harness.balancer",
            f"{BALANCER}:{PORT}",
            *(f"{host}:{PORT}" for host in backends),
        )
        world.start(world.collector, "env", f"PYTHONPATH={package_environment()['PYTHONPATH']}", *argv)
        proc.eventually("the balancer listens", lambda: self._listens(BALANCER))

    def _listens(self, host: str) -> bool:
        return f"{host}:{PORT}" in self.world.collector.run("ss", "-Hltn")

    def start(self, host: str, *options: str, tls: tuple[Path, Path] | None = None) -> VSensor:
        """The vSensor at that address; it says that it is there."""
        vsensor = self.world.start_vsensor(host, store=self.stores[host], tls=tls, options=options)
        proc.eventually(f"the vSensor at {host} listens", lambda: self._listens(host))
        vsensor.wait_until_well()  # else a sensor may lose patience with its first connection, and there are two
        return vsensor

    def connections(self) -> dict[str, int]:
        """How many connections the sensor began to each address."""
        found = _COUNTER.findall(self.world.collector.run("nft", "list", "table", "inet", "seen"))
        return {host: int(count) for host, count in found}

    def committed(self, host: str, interface: str) -> list[int]:
        """The numbers of the frames that the vSensor's index stands for, in order: what it has acknowledged."""
        store = self.stores[host]
        if not (store / "index.sqlite").exists():
            return []
        found = []
        for file, offset, length in _rows(store, "file, offset, length", interface):
            piece = self.world.folder / "piece.pcapng"
            piece.write_bytes((store / file).read_bytes()[offset : offset + length])
            found += [packet.data for packet in read_pcapng(piece)]
        return list(frames.ours(found, tag_for(interface)))

    def batches(self, host: str, interface: str) -> set[tuple[str, int]]:
        return {(epoch, number) for epoch, number in _rows(self.stores[host], "epoch, sequence", interface)}


def _rows(store: Path, what: str, interface: str) -> list[tuple[int, ...]]:
    with closing(sqlite3.connect(store / "index.sqlite")) as index:
        rows = f"SELECT {what} FROM batches WHERE interface = ? ORDER BY epoch, sequence"  # noqa: S608  our own words
        return index.execute(rows, (interface,)).fetchall()


def _start_sensor(world: World, *interfaces: str, **changes: str | None) -> Sensor:
    return world.start_sensor(*interfaces, changes={"VSENSOR_HOSTNAME": BALANCER, **changes})


@pytest.mark.parametrize("first", ["vsensors", "sensor"])
def test_everything_goes_past_the_balancer_and_none_of_it_is_captured(world: World, first: str) -> None:
    balanced = Balanced(world, DIRECT, OTHER)
    world.add_link("cap0")

    def start_vsensors() -> None:
        for host in (DIRECT, OTHER):
            balanced.start(host, "--advertise", f"{host}:{PORT}")

    if first == "vsensors":
        start_vsensors()
    sensor = _start_sensor(world, "cap0", UPLINK, NETWORK_DEVICE_INCLUDELIST=f"^(cap|{UPLINK})")
    if first == "sensor":  # so it captures before it hears of any direct address
        start_vsensors()

    world.send("cap0", 20_000, per_second=10_000)
    world.send(UPLINK, 200, by=world.collector)
    sensor.wait_for(GOES_DIRECT)
    assert sensor.terminate()[0] == 0

    connections = balanced.connections()
    print(f"connections: {connections}")
    (chosen,) = [host for host in (DIRECT, OTHER) if connections[host]]
    assert connections[BALANCER] == 1 or first == "sensor"
    assert {host: frames.verdict(range(20_000), balanced.committed(host, "cap0")) for host in (chosen,)} == {chosen: ""}
    assert balanced.committed(DIRECT if chosen == OTHER else OTHER, "cap0") == []
    # The sensor captured the link that it uploads through all the while, and its upload is not in it.
    assert balanced.committed(chosen, UPLINK) == list(range(200))
    files = list((balanced.stores[chosen] / "netns-sensor" / UPLINK).glob("*.pcapng"))
    assert [tshark(path, f"tcp.port == {PORT}") for path in files] == [0] * len(files)


def test_a_direct_vsensor_that_is_killed_at_rest_is_replaced_by_the_balancers_next_and_nothing_is_twice(
    world: World,
) -> None:
    balanced = Balanced(world, DIRECT, OTHER)
    direct = balanced.start(DIRECT, "--advertise", f"{DIRECT}:{PORT}")
    world.add_link("cap0")
    sensor = _start_sensor(world, "cap0", OSSENSOR_DEBUG="2")
    world.send("cap0", 5000)
    balanced.start(OTHER)
    proc.eventually("all is acknowledged", lambda: _delivered(sensor) == 5000)

    direct.kill_all()
    world.send("cap0", 5000, first=5000)
    sensor.wait_for(COMES_BACK)
    assert sensor.terminate()[0] == 0

    assert frames.verdict(range(5000), balanced.committed(DIRECT, "cap0")) == ""
    assert frames.verdict(range(5000, 10_000), balanced.committed(OTHER, "cap0")) == ""


def _delivered(sensor: Sensor) -> int:
    return sum(r["packets"] for r in sensor.records("sent batch") if r["answer"].endswith(("stored", "present")))


def test_one_that_is_killed_under_load_loses_nothing_and_doubles_only_what_it_stored_and_could_not_say(
    world: World,
) -> None:
    balanced = Balanced(world, DIRECT, OTHER)
    direct = balanced.start(DIRECT, "--advertise", f"{DIRECT}:{PORT}")
    world.add_link("cap0")
    sensor = _start_sensor(world, "cap0", OSSENSOR_DEBUG="2", **unread_for(20))
    sender = world.sender("cap0", per_second=10_000)
    sensor.wait_for(GOES_DIRECT)
    balanced.start(OTHER)
    proc.eventually("it delivers", lambda: _delivered(sensor) >= 20_000)

    direct.kill_all()
    sensor.wait_for(COMES_BACK)
    before = _delivered(sensor)
    proc.eventually("the other one gets some", lambda: _delivered(sensor) >= before + 20_000)
    sent = sender.stop()
    assert sensor.terminate()[0] == 0

    here, there = balanced.committed(DIRECT, "cap0"), balanced.committed(OTHER, "cap0")
    both = balanced.batches(DIRECT, "cap0") & balanced.batches(OTHER, "cap0")
    print(f"{sent} sent, {len(here)} at the first, {len(there)} at the other; batches in both: {len(both)}")
    assert frames.verdict(range(sent), sorted(set(here) | set(there))) == ""
    assert [len(numbers) - len(set(numbers)) for numbers in (here, there)] == [0, 0]
    assert len(both) <= 4  # what was under way; an acknowledged batch is in one store
    assert (set(here) & set(there) == set()) == (not both)
    assert _delivered(sensor) == sent


@pytest.mark.parametrize("how,why", [("reject with tcp reset", "Connection refused"), ("drop", "ConnectTimeoutError")])
def test_an_address_that_cannot_be_reached_costs_nothing_and_is_used_once_it_can(
    world: World, how: str, why: str
) -> None:
    world.collector.run("nft", _closed(how))
    balanced = Balanced(world, DIRECT)
    balanced.start(DIRECT, "--advertise", f"{DIRECT}:{PORT}")
    world.add_link("cap0")
    sensor = _start_sensor(world, "cap0", OSSENSOR_DEBUG="2")
    world.send("cap0", 5000)
    failed = sensor.wait_for(NO_USE)
    proc.eventually("the balancer serves", lambda: _delivered(sensor) == 5000)

    world.collector.run("nft", "delete table inet closed")
    sensor.wait_for(GOES_DIRECT)
    world.send("cap0", 5000, first=5000)
    proc.eventually("the direct address serves", lambda: _delivered(sensor) == 10_000)
    world.collector.run("nft", _closed(how))
    world.send("cap0", 5000, first=10_000)
    sensor.wait_for(COMES_BACK)  # an attempt waits half a minute for its reply
    assert sensor.terminate()[0] == 0

    print(f"{balanced.connections()}; {failed['why']}")
    assert why in failed["why"]
    assert frames.verdict(range(15_000), balanced.committed(DIRECT, "cap0")) == ""


def _closed(how: str) -> str:
    rule = f"iifname {UPLINK} ip daddr {DIRECT} tcp dport {PORT} {how}"
    return f"table inet closed {{ chain in {{ type filter hook input priority 10; {rule}; }}; }}"


@pytest.mark.parametrize("trust,taken", [("key", True), ("ca", False)])
def test_another_certificate_there_is_proven_by_the_key_and_is_not_enough_where_cas_decide(
    world: World, certificate: tuple[Path, Path], open_folder: Path, trust: str, *, taken: bool
) -> None:
    folder = open_folder / f"direct-{trust}"
    folder.mkdir()
    strangers = make_certificate(folder, (f"IP:{OTHER}",))
    hosts = world.folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{BALANCER} vsensor.test\n")
    world.sensor.replace(Path("/etc/hosts"), hosts)
    balanced = Balanced(world, DIRECT)
    balanced.start(DIRECT, "--advertise", f"{OTHER}:{PORT}")
    balanced.start(OTHER, "--advertise", f"{OTHER}:{PORT}", tls=strangers)
    world.add_link("cap0")
    ca_file = str(certificate[0]) if trust == "ca" else None
    sensor = _start_sensor(world, "cap0", VSENSOR_HOSTNAME="vsensor.test", VSENSOR_TLS=trust, VSENSOR_CA_FILE=ca_file)
    world.send("cap0", 2000)
    told = sensor.wait_for(GOES_DIRECT if taken else NO_USE)
    assert sensor.terminate()[0] == 0

    print(told)
    stored = {host: len(balanced.committed(host, "cap0")) for host in (DIRECT, OTHER)}
    assert stored == ({DIRECT: 0, OTHER: 2000} if taken else {DIRECT: 2000, OTHER: 0})


def test_where_cas_decide_a_certificate_for_the_configured_name_is_good_at_the_direct_address(
    world: World, certificate: tuple[Path, Path]
) -> None:
    hosts = world.folder / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n{BALANCER} vsensor.test\n")
    world.sensor.replace(Path("/etc/hosts"), hosts)
    balanced = Balanced(world, DIRECT)
    balanced.start(DIRECT, "--advertise", f"{DIRECT}:{PORT}")
    world.add_link("cap0")
    sensor = _start_sensor(
        world, "cap0", VSENSOR_HOSTNAME="vsensor.test", VSENSOR_TLS="ca", VSENSOR_CA_FILE=str(certificate[0])
    )
    world.send("cap0", 2000)
    sensor.wait_for(GOES_DIRECT)
    assert sensor.terminate()[0] == 0

    assert balanced.committed(DIRECT, "cap0") == list(range(2000))
    assert balanced.connections()[BALANCER] == 1
