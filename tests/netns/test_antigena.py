"""From the operator's command to the end of a connection: `ossensor antigena`, vSensor, sensor, all of them real."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from harness import proc
from harness.connections import Pair, connected
from harness.namespaces import address, wire
from harness.operator import Operator
from harness.programs import UPLOADER, Sensor, VSensor
from harness.resets import count_sent, packets_sent
from harness.world import SENSOR_NAME, World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

HERE: Final = {4: "10.7.0.1", 6: "fd07::1"}  # the sensor's end of cap0, where the application is
THERE: Final = {4: "10.7.0.2", 6: "fd07::2"}
PERIOD_S: Final = 2
ENFORCER: Final = "oss-antigena"
# What a container has on Fargate, whose definitions may add SYS_PTRACE and nothing else: no NET_ADMIN among them.
FARGATE: Final = (
    *("chown", "dac_override", "fsetid", "fowner", "mknod", "net_raw", "setgid", "setuid", "setfcap", "setpcap"),
    *("net_bind_service", "sys_chroot", "kill", "audit_write"),
)
AS_ON_FARGATE: Final = ("setpriv", f"--bounding-set=-all,{','.join(f'+{name}' for name in FARGATE)}", "--inh-caps=-all")
KILLS: Final = 5
FAMILIES = pytest.mark.parametrize("family", [4, 6])
WAYS = pytest.mark.parametrize("outward", [True, False], ids=["outward", "inward"])


class Site:
    """An application in the sensor's namespace, whom it talks to, and an operator beside the vSensor."""

    def __init__(self, world: World, certificate: Path) -> None:
        self.world = world
        self.operator = Operator(world, certificate)
        wire(world.sensor, "cap0", world.generator, "cap0")
        address(world.sensor, "cap0", f"{HERE[4]}/24", f"{HERE[6]}/64")
        address(world.generator, "cap0", f"{THERE[4]}/24", f"{THERE[6]}/64")

    def vsensor(self) -> VSensor:
        return self.world.start_vsensor(options=self.operator.options)

    def sensor(self, **changes: str) -> Sensor:
        more = {"ANTIGENA_TIME_PERIOD": str(PERIOD_S), "OSSENSOR_DEBUG": "3", **changes}
        return self.world.start_sensor("cap0", changes=more, under=AS_ON_FARGATE)

    def pairs(self, family: int = 4, count: int = 1, *, outward: bool = True) -> list[Pair]:
        ends = (self.world.sensor, HERE[family], self.world.generator, THERE[family])
        return connected(*(ends if outward else (*ends[2:], *ends[:2])), count)


@pytest.fixture
def site(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[Site]:
    with World(tmp_path, certificate, ipv6=True) as world:
        yield Site(world, certificate[0])


def side(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def exactly(pair: Pair) -> tuple[str, ...]:
    return ("--src", side(pair.opener), "--dst", side(pair.acceptor), "--protocol", "tcp")


@FAMILIES
@WAYS
def test_a_block_ends_its_connection_at_both_ends_and_no_other(site: Site, family: int, *, outward: bool) -> None:
    site.vsensor()
    site.sensor()
    pairs = site.pairs(family, 23, outward=outward)
    assert all(pair.exchange() for pair in pairs)
    spare, neighbours = pairs[10:13], pairs[:10] + pairs[13:]
    blocked: list[Pair] = []
    rounds = 0

    def ended() -> float:
        """How long one of the connections lives once the vSensor has the order about it."""
        nonlocal rounds
        pair = spare.pop()
        site.operator.block(*exactly(pair), name=f"n{len(blocked)}")
        blocked.append(pair)
        ordered_s = time.monotonic()  # to start `ossensor antigena` is the operator's time
        try:
            while time.monotonic() < ordered_s + proc.HANGS_S:
                pair.opener.sendall(b"x")
                rounds += all(one.exchange(b"y" * 100) for one in neighbours)
                time.sleep(0.005)
        except ConnectionError:
            pass
        took_s = time.monotonic() - ordered_s
        assert pair.ends()[1] == "ECONNRESET"
        return took_s

    assert proc.quickest(PERIOD_S + 1, ended) <= PERIOD_S + 1
    print(f"{rounds} rounds of {len(neighbours)} neighbours meanwhile")
    assert [pair.exchange() for pair in (*spare, *neighbours) for _ in range(10)] == [True] * 10 * (23 - len(blocked))
    for number in range(len(blocked)):
        counts = partial(site.operator.counts, f"n{number}")
        proc.eventually("it is reported closed", lambda: counts().get("closed") == 1)  # noqa: B023
        assert counts()["matched"] == 1
    for pair in pairs:
        pair.close()


def test_in_mode_observe_nothing_happens_and_is_reported(site: Site) -> None:
    site.vsensor()
    sensor = site.sensor(OSSENSOR_ANTIGENA_MODE="observe")
    (pair,) = site.pairs()
    site.operator.block(*exactly(pair))
    sensor.wait_for("orders in force", ids="one")

    assert [pair.exchange() for _ in range(20)] == [True] * 20
    proc.eventually("it is reported", lambda: site.operator.counts().get("withheld", 0) > 0)
    assert {name for name in site.operator.counts() if name.startswith("sent")} == set()
    introduction = site.world.store / SENSOR_NAME / "introduction.json"
    proc.eventually("it has introduced itself", introduction.exists)
    assert json.loads(introduction.read_text())["antigena"] == "observe"
    pair.close()


def test_with_antigena_off_no_order_is_asked_for_and_none_is_enforced(site: Site) -> None:
    site.vsensor()
    (pair,) = site.pairs()
    site.operator.block(*exactly(pair))
    sensor = site.sensor(ANTIGENA_ENABLED="false")
    introduction = site.world.store / SENSOR_NAME / "introduction.json"
    proc.eventually("it has introduced itself", introduction.exists)
    time.sleep(2 * PERIOD_S)  # in which it would have asked twice

    assert pair.exchange()
    assert sensor.named(ENFORCER) == []
    assert json.loads(introduction.read_text())["antigena"] == "off"
    assert site.operator.said() == {}
    pair.close()


def _in_force(sensor: Sensor, name: str) -> bool:
    return any(name in record["ids"].split() for record in sensor.records("orders in force"))


def _lives(site: Site, until_s: float) -> bool:
    """Whether a new connection is there after a second, and at that time. Exchanges may be quicker than a reset."""
    try:
        (pair,) = site.pairs()
    except ConnectionError:
        return False
    try:
        exchanges = 0
        while exchanges < 50 or time.time() < until_s:
            if not pair.exchange(b"x"):
                return False
            exchanges += 1
            time.sleep(0.02)
    except ConnectionError:
        return False
    finally:
        pair.close()
    return True


def test_without_the_vsensor_an_order_ends_when_it_is_to_and_not_before(site: Site) -> None:
    vsensor = site.vsensor()
    sensor = site.sensor()
    for seconds in (10, 60, 300):  # a machine that has no time at all takes most of the first
        asked_s = time.time()
        name = f"for-{seconds}-s"
        site.operator.block("--src", HERE[4], "--dst", THERE[4], seconds=seconds, name=name)
        placed_s = time.time()
        expires_s = site.operator.orders()[name]["action"]["expires_s"]
        proc.eventually("it is in force", lambda: _in_force(sensor, name) or time.time() > expires_s)  # noqa: B023
        if time.time() < expires_s - 4:
            break
    vsensor.kill_all()
    begun_s = [time.time()]
    while not _lives(site, expires_s - 1):
        begun_s.append(time.time())
    *ended_s, lived_s = (at_s - expires_s for at_s in begun_s)
    print(f"{len(ended_s)} ended, begun {ended_s[:1]} to {ended_s[-1:]} s from the expiry; one lives: {lived_s:+.2f}")

    assert asked_s + seconds - 1 <= expires_s <= placed_s + seconds + 1
    # By when each began: that a machine stood still between the two says nothing about the order.
    assert ended_s[0] < 0
    assert ended_s[-1] <= 1
    assert lived_s >= -1


def test_a_restarted_sensor_ends_nothing_before_it_has_heard_from_the_vsensor(site: Site) -> None:
    vsensor = site.vsensor()
    sensor = site.sensor()
    pair, later = site.pairs(count=2)
    site.operator.block("--src", HERE[4], "--dst", THERE[4])
    sensor.wait_for("orders in force", ids="one")
    assert pair.ends_after() == ("ECONNRESET", "ECONNRESET")
    vsensor.kill_all()
    assert sensor.terminate()[0] == 0

    count_sent(site.world.sensor)
    sensor = site.sensor()
    assert [later.exchange() for _ in range(20)] == [True] * 20
    assert (sensor.named(ENFORCER), packets_sent(site.world.sensor)) == ([], 0)
    site.vsensor()
    sensor.wait_for("orders in force", ids="one")
    assert later.ends_after() == ("ECONNRESET", "ECONNRESET")
    for one in (pair, later):
        one.close()


def test_a_protected_network_and_the_sensors_own_upload_are_out_of_reach_and_the_operator_is_told(site: Site) -> None:
    site.vsensor()
    sensor = site.sensor(OSSENSOR_ANTIGENA_PROTECT="10.7.0.2/32", NETWORK_DEVICE_INCLUDELIST="^(cap|up)")
    (pair,) = site.pairs()
    site.operator.block("--dst", THERE[4], name="protected")
    site.operator.block("--dst", "10.9.0.2", name="vsensor")
    site.operator.block("--src", HERE[4], "--dst", THERE[4], name="both")

    def refusals() -> dict[str, str]:
        orders = site.operator.orders()
        return {name: site.operator.said_of(order).get("refused", "") for name, order in orders.items()}

    proc.eventually("all are refused", lambda: all(refusals().values()))
    assert refusals() == {"protected": "protected", "vsensor": "own_flow", "both": "protected"}
    assert [pair.exchange() for _ in range(20)] == [True] * 20
    sensor.wait_for("an order is refused")
    site.world.send("cap0", 0)
    pair.close()
    # It still delivers: what it has captured of this very connection arrives.
    proc.eventually("batches arrive", lambda: site.world.stored_bytes("cap0") > 0)


def test_an_order_that_is_cleared_before_the_uploaders_successor_has_asked_ends(site: Site) -> None:
    site.vsensor()
    sensor = site.sensor()
    first, last = site.pairs(count=2)
    site.operator.block("--src", HERE[4], "--dst", THERE[4])
    sensor.wait_for("orders in force", ids="one")
    assert first.ends_after() == ("ECONNRESET", "ECONNRESET")

    os.kill(sensor.one(UPLOADER), signal.SIGSTOP)  # it hears of nothing any more
    site.operator("clear", "one")
    sensor.kill(UPLOADER)
    proc.eventually("it is let go", lambda: sensor.records("orders", removed="one"))
    assert [last.exchange() for _ in range(20)] == [True] * 20
    for pair in (first, last):
        pair.close()


def test_killed_enforcers_successors_go_on_without_the_vsensor_and_a_cleared_order_ends(site: Site) -> None:
    vsensor = site.vsensor()
    sensor = site.sensor()
    first, last, *pairs = site.pairs(count=2 + KILLS)
    site.operator.block("--src", HERE[4], "--dst", THERE[4])
    sensor.wait_for("orders in force", ids="one")
    assert first.ends_after() == ("ECONNRESET", "ECONNRESET")

    vsensor.kill_all()  # nobody is there who could order it again
    for pair in pairs:
        said = len(sensor.records("orders in force", ids="one"))
        sensor.kill(ENFORCER)
        sensor.wait_for("orders in force", ids="one", count=said + 1)
        assert pair.ends_after() == ("ECONNRESET", "ECONNRESET")

    site.vsensor()
    site.operator("clear", "one")
    proc.eventually("it is let go", lambda: sensor.records("orders", removed="one"))
    assert [last.exchange() for _ in range(20)] == [True] * 20
    assert sensor.terminate()[0] == 0
    for pair in (first, last, *pairs):
        pair.close()
