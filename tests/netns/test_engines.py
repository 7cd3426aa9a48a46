"""What every engine must do alike: one suite, run on each, from frame to store."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from harness.captures import Witness
from harness.world import World, tag_for

from ossensor import pcapng

pytestmark = [pytest.mark.netns, pytest.mark.slow]

# Around Ethernet's least and most, a jumbo frame, and the largest that a veth of 65,535 takes.
SIZES = (14, 15, 59, 60, 61, 1514, 1518, 9014, 65_226, 65_549)
_ADDRESSES = bytes.fromhex("02f100d0000202f100d00001")

_SEND = """
import socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
    sock.bind((sys.argv[1], 0))
    for size in map(int, sys.argv[2:]):
        sock.send(bytes.fromhex("02f100d0000202f100d0000188b5") + bytes(n % 251 for n in range(size - 14)))
"""
_DATAGRAMS = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for n in range(int(sys.argv[3])):
        sock.sendto(n.to_bytes(4, "big"), (sys.argv[1], int(sys.argv[2])))
"""
# A tunnel's end: packets are written to it as if they came in, bare IP.
_TUNNEL = """
import fcntl, os, struct, subprocess, sys
tunnel = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tunnel, 0x400454ca, struct.pack("16sH", b"captun", 0x1001))  # TUNSETIFF: IFF_TUN | IFF_NO_PI
subprocess.run(["ip", "link", "set", "captun", "up"], check=True)
print("up", flush=True)
for packet in sys.stdin:
    os.write(tunnel, bytes.fromhex(packet))
    print("written", flush=True)
"""


@pytest.fixture(params=["ring", "pypcap"])
def engine(request: pytest.FixtureRequest) -> dict[str, str]:
    """The setting that chooses it."""
    return {"OSSENSOR_ENGINE": request.param}


def _frame(size: int) -> bytes:
    return _ADDRESSES + bytes.fromhex("88b5") + bytes(n % 251 for n in range(size - 14))


def _stored(world: World, interface: str) -> list[pcapng.Packet]:
    return [packet for path in world.files(interface) for packet in pcapng.packets(path.read_bytes())]


def test_frames_of_every_size_are_stored_unchanged_with_the_kernels_times(
    world: World, tmp_path: Path, engine: dict[str, str]
) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0", changes=engine)

    with Witness(world.sensor, "cap0", tmp_path / "witness", count=len(SIZES)) as witness:
        world.generator.run(sys.executable, "-c", _SEND, "cap0", *map(str, SIZES))
    sensor.wait_for("uploader ready")
    assert sensor.terminate()[0] == 0
    stored, seen = _stored(world, "cap0"), witness.packets()

    assert [p.data for p in stored] == [_frame(size) for size in SIZES]
    assert [p.original_length for p in stored] == list(SIZES)
    assert [p.ts_ns for p in stored] == [p.time_ns for p in seen]


def test_the_users_filter_decides(world: World, engine: dict[str, str]) -> None:
    world.add_link("cap0")
    world.start_vsensor()
    rules = {"OSSENSOR_NETWORK_DEVICE": "lo", "NETWORK_DEVICE_INCLUDELIST": None, "BPF": "udp dst port 7001"}
    sensor = world.start_sensor("lo", changes={**engine, **rules})

    for port, count in (("7000", "300"), ("7001", "200"), ("7002", "100")):
        world.sensor.run(sys.executable, "-c", _DATAGRAMS, "127.0.0.1", port, count)
    sensor.wait_for("uploader ready")
    assert sensor.terminate()[0] == 0

    assert [p.data[-4:] for p in _stored(world, "lo")] == [n.to_bytes(4, "big") for n in range(200)]


def test_what_crosses_loopback_is_stored_once(world: World, engine: dict[str, str]) -> None:
    world.start_vsensor()
    rules = {"OSSENSOR_NETWORK_DEVICE": "lo", "NETWORK_DEVICE_INCLUDELIST": None, "BPF": "udp"}
    sensor = world.start_sensor("lo", changes={**engine, **rules})

    world.sensor.run(sys.executable, "-c", _DATAGRAMS, "127.0.0.1", "7001", "1000")
    sensor.wait_for("uploader ready")
    assert sensor.terminate()[0] == 0

    assert [p.data[-4:] for p in _stored(world, "lo")] == [n.to_bytes(4, "big") for n in range(1000)]


def test_nothing_of_another_interface_gets_in_while_the_socket_is_opened(world: World, engine: dict[str, str]) -> None:
    world.add_link("cap0", "other0")
    world.start_vsensor()
    sender = world.sender("other0", per_second=20_000)
    sensor = world.start_sensor("cap0", changes=engine)
    world.send("cap0", 100)
    sensor.wait_for("uploader ready")
    assert sender.stop() > 1000
    assert sensor.terminate()[0] == 0

    assert len(_stored(world, "cap0")) == 100
    assert world.stored_numbers("cap0") == list(range(100))
    assert tag_for("cap0") != tag_for("other0")


@pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="no tunnels on this machine")
def test_a_tunnels_packets_are_bare_ip_and_its_sections_say_so(world: World, engine: dict[str, str]) -> None:
    packets = ["4500001c000100004011000000000000" + "0a0a0a01" + "1b591b5a00080000" + "00" * n for n in range(3)]
    world.start_vsensor()
    argv = world.sensor.inside(sys.executable, "-c", _TUNNEL)
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tunnel:
        assert tunnel.stdin is not None
        assert tunnel.stdout is not None
        assert tunnel.stdout.readline() == "up\n"
        sensor = world.start_sensor("captun", changes={**engine, "BPF": "ip"})
        for packet in packets:
            tunnel.stdin.write(packet + "\n")
            tunnel.stdin.flush()
            assert tunnel.stdout.readline() == "written\n"
        sensor.wait_for("uploader ready")
        assert sensor.terminate()[0] == 0
        tunnel.stdin.close()

    assert [p.data.hex() for p in _stored(world, "captun")] == packets
    (path,) = world.files("captun")
    first = next(block for block in pcapng.blocks(path.read_bytes()) if block.kind == pcapng.IDB)
    assert int.from_bytes(first.body[:2], "little") == 101  # LINKTYPE_RAW
