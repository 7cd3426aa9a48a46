"""What is stored is what was on the wire: tags that the kernel takes out, checksums that it leaves, super-frames."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.namespaces import address, wire
from harness.world import World

from ossensor import pcapng

pytestmark = [pytest.mark.netns, pytest.mark.slow]

_SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind(("cap0", 0))
    for frame in sys.argv[1:]:
        sock.send(bytes.fromhex(frame))
"""
_ADDRESSES = "02f100d0000202f100d00001"
_PAYLOAD = "88b5" + bytes(range(100)).hex()

# Both ends run in namespaces that the test made; the client is the application beside the sensor.
_SERVER = """
import socket, sys, threading
def serve(server):
    peer, _ = server.accept()
    with peer:
        while peer.recv(1 << 20):
            pass
        peer.sendall(bytes(3_000_000))
ends = ((socket.AF_INET, "10.8.0.2"), (socket.AF_INET6, "fd00:8::2"))
servers = [socket.create_server((host, 7000), family=family) for family, host in ends]
threads = [threading.Thread(target=serve, args=(server,)) for server in servers]
[t.start() for t in threads]
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.bind(("10.8.0.2", 7001))
    print("ready", file=sys.stderr)
    data, peer = udp.recvfrom(2000)
    udp.sendto(data, peer)
[t.join() for t in threads]
"""
_CLIENT = """
import socket
for host in ("10.8.0.2", "fd00:8::2"):
    with socket.create_connection((host, 7000)) as sock:
        sock.sendall(bytes(range(256)) * 12_000)
        sock.shutdown(socket.SHUT_WR)
        got = 0
        while data := sock.recv(1 << 20):
            got += len(data)
        assert got == 3_000_000
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DSTOPTS, bytes([0, 0, 1, 4, 0, 0, 0, 0]))
    udp.sendto(b"with an extension header", ("fd00:8::2", 7001))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.sendto(b"x" * 1001, ("10.8.0.2", 7001))
    assert len(udp.recv(2000)) == 1001
"""
_BAD = "tcp.checksum.status == 0 || udp.checksum.status == 0 || ip.checksum.status == 0"
_CHECKED = ["-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"]


def _packets(world: World) -> list[pcapng.Packet]:
    return [packet for path in world.files("cap0") for packet in pcapng.packets(path.read_bytes())]


@pytest.mark.parametrize("engine", ["ring", "pypcap"])
def test_tags_are_stored_where_they_were_on_the_wire(world: World, engine: str) -> None:
    tags = ["8100e064", "81000000", "88a8000581000007", "8100000181000002"]
    sent = [_ADDRESSES + tag + _PAYLOAD for tag in ["", *tags]]
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"OSSENSOR_ENGINE": engine})

    world.generator.run(sys.executable, "-c", _SEND, *sent)
    sensor.wait_for("uploader ready")
    assert sensor.terminate()[0] == 0

    assert [p.data.hex() for p in _packets(world)] == sent
    assert [p.original_length for p in _packets(world)] == [len(frame) // 2 for frame in sent]


@pytest.mark.parametrize("engine", ["ring", "pypcap"])
def test_a_snap_length_cuts_and_the_length_on_the_wire_stays(world: World, engine: str) -> None:
    sent = [_ADDRESSES + tag + _PAYLOAD for tag in ("", "81000005")]
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"OSSENSOR_ENGINE": engine, "OSSENSOR_SNAPLEN": "64"})

    world.generator.run(sys.executable, "-c", _SEND, *sent)
    sensor.wait_for("uploader ready")
    assert sensor.terminate()[0] == 0

    assert [p.data.hex() for p in _packets(world)] == [frame[:128] for frame in sent]
    assert [p.original_length for p in _packets(world)] == [len(frame) // 2 for frame in sent]


@pytest.fixture
def both_families(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[World]:
    with World(tmp_path, certificate, ipv6=True) as made:
        yield made


@pytest.mark.parametrize("complete", [True, False])
def test_tshark_sees_bad_checksums_of_local_connections_only_when_they_are_not_completed(
    both_families: World, *, complete: bool
) -> None:
    world = both_families
    wire(world.sensor, "cap0", world.generator, "cap0")
    for namespace, end in ((world.sensor, 1), (world.generator, 2)):
        namespace.run("ethtool", "-K", "cap0", "tx", "on", "tso", "on", "gso", "on", "gro", "on")
        address(namespace, "cap0", f"10.8.0.{end}/24", f"fd00:8::{end}/64")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes={"OSSENSOR_COMPLETE_CHECKSUMS": str(complete).lower()})
    world.start(world.generator, sys.executable, "-c", _SERVER).wait_for_line("ready")

    world.sensor.run(sys.executable, "-c", _CLIENT)
    sensor.wait_for("uploader ready")
    assert sensor.terminate()[0] == 0
    (path,) = world.files("cap0")
    argv = ["tshark", "-r", str(path), *_CHECKED, "-Y", _BAD, "-T", "fields", "-e", "frame.number"]
    bad = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    packets = _packets(world)
    whole = [p for p in packets if len(p.data) > 1514]

    largest = max(len(p.data) for p in packets)
    print(f"{len(packets)} packets, {len(whole)} super-frames, largest {largest}, {len(bad)} bad")
    assert bool(bad) is not complete
    assert len(whole) > 50
    assert all(len(p.data) == p.original_length for p in packets)
