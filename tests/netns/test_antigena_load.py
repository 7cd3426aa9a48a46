"""Antigena beside 200,000 packets a second that no order concerns: an order does its work, and they cost it nothing."""

from __future__ import annotations

import json
import struct
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest
from harness import frames, proc
from harness.connections import Pair, connected
from harness.flood import last_core
from harness.namespaces import address, wire
from harness.operator import Operator
from harness.programs import Sensor
from harness.world import World

from ossensor.antigena.actions import parse_action
from ossensor.vsensor.bookfile import BookFile
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.orderbook import Book, Entry, Target

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.alone]

ENFORCER = "oss-antigena"
PER_SECOND = 200_000
FRAMES = 50_000
LOOPS = 1000  # for longer than it is needed
SPELL_S = 4
HERE, THERE = "10.7.0.1", "10.7.0.2"
ORDERS = 255  # beside the one that is used: as many as may be in force


def _datagram(number: int) -> bytes:
    """64 bytes of Ethernet, between hosts that orders concern, on ports that none does."""
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 50, number & 0xFFFF, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    checksum = sum(struct.unpack(">10H", ip))
    checksum = ~((checksum & 0xFFFF) + (checksum >> 16)) & 0xFFFF
    udp = struct.pack(">HHHH", 20_000 + number % 20_000, 9, 30, 0)
    whole_ip = ip[:10] + struct.pack(">H", checksum) + ip[12:]
    return bytes.fromhex("0200000000020200000000010800") + whole_ip + udp + bytes(22)


def _fill_book(store: Path) -> None:
    """Orders that concern the flood's hosts, and none of its ports: as many as may be in force, less one."""
    store.mkdir()
    now_s = int(time.time())
    file = BookFile(Layout(store).orders)
    for port in range(100, 100 + ORDERS):
        sides = {"source": {"network": "10.0.0.1"}, "destination": {"network": "10.0.0.2", "port": port}}
        given = {"id": f"o{port}", "kind": "block", **sides, "start_s": now_s, "expires_s": now_s + 600}
        order = Entry(Target("all"), parse_action(given))
        file.change(partial(_placed, order, now_s))
    file.close()


def _placed(order: Entry, now_s: float, book: Book) -> Book:
    return book.placed(order, now_s)


def _in_force(sensor: Sensor, name: str) -> bool:
    return any(name in record["ids"].split() for record in sensor.records("orders in force"))


def test_orders_do_their_work_beside_a_flood_that_costs_the_enforcer_nothing(
    world: World, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    wire(world.sensor, "cap0", world.generator, "cap0")
    address(world.sensor, "cap0", f"{HERE}/24")
    address(world.generator, "cap0", f"{THERE}/24")
    world.add_link("cap1")
    operator = Operator(world, certificate[0])
    _fill_book(world.store)
    world.start_vsensor(options=operator.options)
    sensor = world.start_sensor("cap0", "cap1", changes={"ANTIGENA_TIME_PERIOD": "1", "OSSENSOR_DEBUG": "3"})
    proc.eventually("they are in force", lambda: _in_force(sensor, "o100"))
    pairs = connected(world.sensor, HERE, world.generator, THERE, 11)
    pcap = tmp_path / "datagrams.pcap"
    frames.write_pcap(pcap, [_datagram(number) for number in range(FRAMES)])

    pace = ["--preload-pcap", f"--loop={LOOPS}", f"--pps={PER_SECOND}", "--pps-multi=20", "--intf1=cap1", str(pcap)]
    enforcer = sensor.one(ENFORCER)
    idle_s = _spends_s(enforcer)
    flood = subprocess.Popen(
        world.generator.inside("taskset", "-c", last_core(), "tcpreplay", "-q", *pace),
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        proc.eventually("the flood", lambda: world.arrived("cap1") > PER_SECOND)
        before = world.arrived("cap1"), time.monotonic()
        flooded_s = _spends_s(enforcer)
        packets, elapsed_s = world.arrived("cap1") - before[0], time.monotonic() - before[1]
        operator.block("--src", HERE, "--dst", f"{THERE}:{pairs[0].acceptor.getsockname()[1]}", name="all", seconds=600)
        proc.eventually("that is in force", lambda: _in_force(sensor, "all"))
        waits_ms = [_ended_ms(pair) for pair in pairs[:10]]
        assert flood.poll() is None, "the flood was over before the order"
    finally:
        flood.terminate()
        flood.communicate()
    print(
        f"{packets / elapsed_s:,.0f} packets/s cost the enforcer {flooded_s * 1000:.1f} ms in {SPELL_S} s, none"
        f" {idle_s * 1000:.1f}; from a packet to both ends' reset: {', '.join(f'{wait:.1f}' for wait in waits_ms)} ms"
    )

    # It wakes twice a second while orders are in force. If Python saw each packet, this would be hundreds.
    assert flooded_s < 5 * idle_s
    assert sensor.terminate()[0] == 0
    (books,) = [line for line in sensor.lines if '"cap1"' in line and "books closed" in line]
    assert "(balanced)" in json.loads(books)["message"]
    for pair in pairs:
        pair.close()


def _spends_s(pid: int) -> float:
    """Processor time in a spell in which nothing is to be ended."""
    before_s = proc.scheduled_s(pid)
    time.sleep(SPELL_S)
    return proc.scheduled_s(pid) - before_s


def _ended_ms(pair: Pair) -> float:
    """From the first packet after the order to the moment at which both programs have seen the end."""
    begun_s = time.monotonic()
    pair.opener.sendall(b"x")
    assert pair.ends() == ("ECONNRESET", "ECONNRESET")
    return (time.monotonic() - begun_s) * 1000
