"""A filter replaced under load: nothing that both refuse comes through, nothing that both let through is lost."""

from __future__ import annotations

import signal
import struct
from pathlib import Path

import pytest
from harness import proc
from harness.flood import Flood
from harness.world import World

from ossensor import pcapng

pytestmark = [pytest.mark.netns, pytest.mark.slow]

CHANGES = 20
PER_SECOND = 20_000
FRAMES = 100_000  # again and again, for as long as it takes
ONLY_FIRST, ONLY_SECOND, NEITHER, BOTH = PORTS = (1000, 2000, 3000, 4000)
FIRST = f"udp dst port {ONLY_FIRST} or udp dst port {BOTH}"
SECOND = f"udp dst port {ONLY_SECOND} or udp dst port {BOTH}"


def _write_pcap(path: Path) -> None:
    """Datagrams to the four ports in turn, numbered in their payload."""
    ethernet = bytes.fromhex("02f100d0000202f100d000010800")
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 36, 0, 0, 64, 17, 0, b"\x0a\x08\0\1", b"\x0a\x08\0\2")
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for number in range(FRAMES):
            frame = ethernet + ip + struct.pack(">HHHHQ", 5000, PORTS[number % 4], 16, 0, number)
            file.write(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame)


def test_twenty_filters_in_turn_let_through_exactly_what_they_should(world: World, tmp_path: Path) -> None:
    pcap = tmp_path / "four-kinds.pcap"
    _write_pcap(pcap)
    world.config.write_text(f"BPF='{FIRST}'\n")
    world.add_link("cap0")
    world.start_vsensor()
    sensor = world.start_sensor("cap0")
    sensor.wait_for("uploader ready")
    load = Flood(world.generator, "cap0", pcap, per_second=PER_SECOND, loops=1000)
    proc.eventually("the flood", lambda: world.arrived("cap0") > PER_SECOND // 10)

    for change in range(CHANGES):
        world.config.write_text(f"BPF='{(SECOND, FIRST)[change % 2]}'\n")
        sensor.signal(signal.SIGHUP)
        sensor.wait_for("settings read again", applied="bpf", count=change + 1)
    assert load.running()
    load.stop()
    sent = world.arrived("cap0")
    assert sensor.terminate()[0] == 0
    found: dict[int, list[int]] = {port: [] for port in PORTS}
    for path in world.files("cap0"):
        for packet in pcapng.packets(path.read_bytes()):
            port, _, _, number = struct.unpack_from(">HHHQ", packet.data, 36)
            found[port].append(number)
    (books,) = [line for line in sensor.lines if "books closed: " in line]

    print({port: len(numbers) for port, numbers in found.items()}, "of", sent)
    assert found[NEITHER] == []
    assert found[BOTH] == [n % FRAMES for n in range(sent) if PORTS[n % 4] == BOTH]
    assert min(len(found[ONLY_FIRST]), len(found[ONLY_SECOND])) > 100  # the filters really took turns
    assert "kernel_drops=0 " in books
    assert "(balanced)" in books


@pytest.mark.parametrize(
    "name, why",
    [
        ("any", "[Errno 19] by its name libpcap opens something else"),
        ("isdn0", "[Errno 91] libpcap takes its frames for others than its hardware type says"),
    ],
)
def test_no_filter_is_compiled_on_an_interface_that_libpcap_takes_for_something_else(
    world: World, name: str, why: str
) -> None:
    """Its program would have the offsets of that: on an interface called "any", for one, the own upload would pass."""
    world.add_link(name, "cap0")
    world.config.write_text(f"BPF='{FIRST}'\n")
    changes = {"NETWORK_DEVICE_INCLUDELIST": "^cap ^any ^isdn"}
    sensor = world.start_sensor(name, "cap0", changes=changes)  # with a program from cap0, sooner or later

    world.config.write_text(f"BPF='{SECOND}'\n")
    sensor.signal(signal.SIGHUP)

    shut = sensor.wait_for(f"{name} is shut until its filter can be compiled")
    assert shut["why"] == why
    sensor.wait_for("settings read again", applied="bpf")
    sensor.wait_for("open again", interface=name)
    assert sensor.terminate()[0] == 0
