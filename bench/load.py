"""The traffic that everything is measured under: a veth pair in namespaces of its own, and tcpreplay.

The generator is pinned to one core and what is measured to another. A veth pair delivers on the sender's core (its
softirq runs there), so the kernel's share of receiving is paid by the generator, for every program alike.

That is 2.1 us of a core for each packet of the mix [M], so no rate above some 465,000/s is tried, and what is measured
while sensor and receiver share the two cores with it is their rate and not the sensor's. Tried and left: trafgen's
TX_RING (1.8 us); frames that BPF_PROG_TEST_RUN passes to the stack (BPF_F_TEST_XDP_LIVE_FRAMES, Linux 5.18: 0.44 us),
each call of which ends with 24 ms for its page pool, so that a rate can only be had in bursts of thousands, and
tcpdump's buffer of 2 MiB holds none of these.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

SENDER_CORE: Final = 1
READER_CORE: Final = 0
INTERFACE: Final = "bench0"
_MTU: Final = 65_535
_FRAMES: Final = 600
_SEED: Final = 20_261_124


class Profile(NamedTuple):
    """A kind of traffic: frame sizes with their weights."""

    name: str
    sizes: tuple[tuple[int, int], ...]
    steady_per_s: int  # a rate that every program keeps up with on one core of 2026


PROFILES: Final = (
    Profile("64", ((64, 1),), 300_000),
    Profile("663 (mix)", ((64, 35), (594, 20), (1518, 26)), 200_000),
    Profile("1400", ((1400, 1),), 150_000),
    Profile("64 KiB", ((65_226, 1),), 12_000),
)


def frame(number: int, size: int, *, text: bool = False) -> bytes:
    """UDP in IPv4 in Ethernet; the payload is noise made from the number, in hexadecimal digits where `text` is."""
    payload = random.Random(number).randbytes(size - 42)
    if text and number % 3:
        payload = payload.hex()[: size - 42].encode()
    ip = struct.pack(">BBHHHBBH4s4s", 0x45, 0, size - 14, number & 0xFFFF, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    udp = struct.pack(">HHHH", 1000 + number % 5000, 9, size - 34, 0)
    return bytes.fromhex("02000000000202000000000108 00") + ip + udp + payload


def write_pcap(path: Path, profile: Profile, frames: int = _FRAMES, *, text: bool = False) -> float:
    """Writes so many frames of the profile; returns their mean size. `text`: what zstd 1 makes two thirds of."""
    rng = random.Random(_SEED)
    sizes, weights = zip(*profile.sizes, strict=True)
    chosen = rng.choices(sizes, weights, k=frames)
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, 1))
        for number, size in enumerate(chosen):
            data = frame(number, size, text=text)
            file.write(struct.pack("<IIII", 0, number, size, size) + data)
    return sum(chosen) / len(chosen)


class Link(NamedTuple):
    """Two namespaces, and a veth pair of one name between them."""

    reader: str
    sender: str

    def inside(self, namespace: str, *argv: str, core: int) -> list[str]:
        return ["ip", "netns", "exec", namespace, "taskset", "-c", str(core), *argv]

    def replay(self, pcap: Path, *, packets: int, per_s: int | None, frames: int = _FRAMES) -> float:
        """Sends so many packets, looping over the file's frames; returns the rate that came out."""
        loops = max(1, packets // frames)
        rate = ["--topspeed"] if per_s is None else [f"--pps={per_s}", f"--pps-multi={max(1, per_s // 20_000)}"]
        argv = ["tcpreplay", "-q", "--preload-pcap", *rate, f"--loop={loops}", "-i", INTERFACE, str(pcap)]
        said = subprocess.run(
            self.inside(self.sender, *argv, core=SENDER_CORE), check=True, capture_output=True, text=True
        )
        (line,) = [line for line in said.stdout.splitlines() if line.startswith("Rated:")]
        return float(line.split(",")[-1].split()[0])

    def received(self) -> int:
        """Packets that the reader's end has received."""
        path = f"/sys/class/net/{INTERFACE}/statistics/rx_packets"
        argv = ["ip", "netns", "exec", self.reader, "cat", path]
        return int(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True)


@contextmanager
def link() -> Iterator[Link]:
    """The link, silent but for what `replay` sends."""
    made = Link(f"bench-r-{os.getpid()}", f"bench-s-{os.getpid()}")
    try:
        for namespace in made:
            _run("ip", "netns", "add", namespace)
            _run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
            _run("ip", "netns", "exec", namespace, "sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
        ends = ["type", "veth", "peer", "name", INTERFACE, "netns", made.sender]
        _run("ip", "link", "add", INTERFACE, "netns", made.reader, *ends)
        for namespace in made:
            _run("ip", "-n", namespace, "link", "set", INTERFACE, "mtu", str(_MTU), "up")
            _run("ip", "-n", namespace, "link", "set", INTERFACE, "arp", "off")
        yield made
    finally:
        for namespace in made:
            subprocess.run(["ip", "netns", "delete", namespace], check=False, capture_output=True)
