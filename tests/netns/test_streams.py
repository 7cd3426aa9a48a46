"""What leaves the vSensor as a stream is what came in: for Suricata, which reassembles it, and for a VXLAN device."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import proc
from harness.captures import Witness, read_pcap
from harness.namespaces import Namespace, address, wire
from harness.suricata import Alert, Suricata
from harness.world import World

pytestmark = [pytest.mark.netns, pytest.mark.slow]

SEED = 20261128
DETECTOR = "10.7.0.2"
ONLY_OURS = {"BPF": "ether proto 0x88b5"}  # and not what IPv6 says by itself

# Connections whose needles lie across segments, both ways; segments that are larger than the VXLAN's path; datagrams.
_SERVER = """
import socket, threading, time
def serve(host, family):
    with socket.create_server((host, 8000), family=family) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 20000)
        ready.release()
        for _ in range(3):
            peer, _ = server.accept()
            with peer:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                request = b""
                while b"\\r\\n\\r\\n" not in request:
                    request += peer.recv(65536)
                page = b"p" * 300_000 + b"needle-in-the-page" + b"q" * 1000
                peer.sendall(b"HTTP/1.1 200 OK\\r\\nX-Needle: needle-to-")
                assert peer.recv(1) == b"!"  # the client has read that much: what follows is another segment
                peer.sendall(b"the-client\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(page) + page)
                assert peer.recv(65536) == b""
ready = threading.Semaphore(0)
ends = (("10.8.0.2", socket.AF_INET), ("fd00:8::2", socket.AF_INET6))
threads = [threading.Thread(target=serve, args=end) for end in ends]
[t.start() for t in threads]
[ready.acquire() for _ in threads]
print("ready", flush=True)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    udp.bind(("10.8.0.2", 8001))
    for _ in range(3):
        data, peer = udp.recvfrom(65536)
        udp.sendto(data, peer)
[t.join() for t in threads]
"""
_CLIENT = """
import socket
for host in ("10.8.0.2", "fd00:8::2"):
    for _ in range(3):
        with socket.create_connection((host, 8000)) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(b"GET /secret/page HTTP/1.1\\r\\nHost: x\\r\\nX-Needle: needle-to-")
            sock.sendall(b"the-server\\r\\n\\r\\n")
            got = b""
            while not got.endswith(b"needle-to-"):
                got += sock.recv(65536)
            sock.sendall(b"!")
            while not got.endswith(b"q" * 1000):
                got += sock.recv(65536)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
    for _ in range(3):
        udp.sendto(b"x" * 3000 + b"needle-in-a-datagram", ("10.8.0.2", 8001))
        udp.recv(65536)
    udp.sendto(b"the last datagram", ("10.8.0.2", 8001))
"""


@pytest.fixture
def world(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[World]:
    with World(tmp_path, certificate, ipv6=True) as made:
        made.add_link("cap0")
        for namespace, number in ((made.generator, 2), (made.sensor, 1)):
            namespace.run("ip", "link", "set", "cap0", "arp", "on")
            address(namespace, "cap0", f"10.8.0.{number}/24", f"fd00:8::{number}/64")
        yield made


@pytest.fixture
def detector(world: World) -> Iterator[Namespace]:
    """Where VXLAN goes: a namespace behind a link of the usual MTU."""
    with Namespace() as made:
        wire(world.collector, "vx0", made, "vx0")
        address(world.collector, "vx0", "10.7.0.1/24")
        address(made, "vx0", f"{DETECTOR}/24")
        yield made


def converse(world: World, original: Path) -> int:
    """Has the traffic take place on cap0, tcpdump beside the sensor; the number of packets."""
    options = ["-i", "cap0", "-U", "-B", "65536", "--time-stamp-precision=nano", "-w", str(original)]
    dump = subprocess.Popen(world.sensor.inside("tcpdump", *options), stderr=subprocess.PIPE)
    server = subprocess.Popen(world.generator.inside(sys.executable, "-c", _SERVER), stdout=subprocess.PIPE)
    assert dump.stderr is not None
    assert server.stdout is not None
    with dump.stderr, server.stdout:
        assert any(b"listening on" in line for line in dump.stderr)
        assert server.stdout.readline() == b"ready\n"
        world.sensor.run(sys.executable, "-c", _CLIENT)
        assert server.wait(proc.HANGS_S) == 0
        proc.eventually("tcpdump has it all", lambda: b"the last datagram" in original.read_bytes())
        dump.send_signal(signal.SIGINT)
        assert b" 0 packets dropped by kernel" in b" ".join(dump.stderr.read().split(b"\n"))
        dump.wait(proc.HANGS_S)
    return len(read_pcap(original))


def expected(tmp_path: Path, original: Path) -> dict[Alert, int]:
    """The alerts on the original traffic: rules 1 to 4 for each of six connections, rule 5 for six datagrams."""
    judge = Suricata(tmp_path / "original")
    judge.run("-r", str(original))
    alerts = judge.alerts()
    by_rule = {rule: sum(n for alert, n in alerts.items() if alert.rule == rule) for rule in range(1, 7)}
    assert by_rule == {1: 6, 2: 6, 3: 6, 4: 6, 5: 6, 6: 0}
    return alerts


def test_suricata_raises_on_vxlan_what_it_raises_on_the_original(
    world: World, detector: Namespace, tmp_path: Path
) -> None:
    suricata = Suricata(tmp_path / "vxlan")
    live = subprocess.Popen(
        detector.inside(*suricata.argv("--pcap=vx0")),
        env=suricata.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        proc.eventually("Suricata has started", suricata.started)
        vsensor = world.start_vsensor(options=("--vxlan", f"{DETECTOR}:4789"))
        sensor = world.start_sensor("cap0")
        count = converse(world, tmp_path / "original.pcap")
        sensor.terminate()
        # Before the stop, which gives the streams 1.5 s for what they have not passed on, and a stall may take more.
        sent = len(world.stored("cap0"))
        proc.eventually("every datagram has arrived", lambda: datagrams(detector) >= sent)
        vsensor.terminate()
        received = detector.links()["vx0"]["stats64"]["rx"]["packets"]
        wanted = expected(tmp_path, tmp_path / "original.pcap")
        # What it has not looked at when it is stopped it never will; some alerts it raises at the end alone.
        proc.happened(lambda: suricata.alerts() == wanted, timeout_s=10)
    finally:
        live.send_signal(signal.SIGINT)
        said, _ = live.communicate(timeout=proc.HANGS_S)
    print(f"{count} packets in {received} outer frames")

    assert live.returncode == 0, said
    assert received > count  # some came in fragments
    assert suricata.alerts() == wanted


def datagrams(namespace: Namespace) -> int:
    """How many whole UDP datagrams came in for ports at which nobody listens: those of VXLAN, where it is looked at."""
    names, numbers = (line.split() for line in namespace.run("grep", "^Udp:", "/proc/net/snmp").splitlines())
    return int(numbers[names.index("NoPorts")])


@pytest.mark.parametrize("file_format", ["pcap", "pcapng"])
def test_suricata_raises_on_pcap_over_ip_what_it_raises_on_the_original(
    world: World, tmp_path: Path, file_format: str
) -> None:
    suricata = Suricata(tmp_path / "readers")
    options = ("--pcap-over-ip", "127.0.0.1:57012", "--pcap-over-ip-format", file_format)
    vsensor = world.start_vsensor(options=options)
    sensor = world.start_sensor("cap0")
    read = tmp_path / "read"
    argv = world.collector.inside("bash", "-c", f"tee {read} < /dev/tcp/127.0.0.1/57012")
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reading = threading.Thread(
            target=suricata.run, args=("-r", "/dev/stdin"), kwargs={"stdin": reader.stdout.fileno()}
        )
        reading.start()
        proc.eventually("the reader is connected", lambda: established(world.collector, 57012))
        count = converse(world, tmp_path / "original.pcap")
        sensor.terminate()
        proc.eventually("the reader has it all", lambda: b"the last datagram" in read.read_bytes())
        vsensor.terminate()
        reading.join(120)

    print(f"{count} packets")
    assert suricata.alerts() == expected(tmp_path, tmp_path / "original.pcap")


def established(namespace: Namespace, port: int) -> bool:
    """True when there is a connection to the port that both ends have accepted."""
    said = namespace.run("ss", "-Htn", "state", "established", f"( sport = :{port} )")
    return bool(said.strip())


def test_the_kernels_vxlan_device_takes_out_each_frame_as_it_was(
    world: World, detector: Namespace, tmp_path: Path
) -> None:
    """A second decoder, which checks the outer headers too."""
    make = "ip link add inner type vxlan id 7 dstport 4789 local 10.7.0.2 dev vx0 nolearning"
    detector.run(*make.split())
    detector.run("ip", "link", "set", "inner", "arp", "off", "up")
    rng = random.Random(SEED)
    # Some 800 outer packets: at worst all wait at once, and the receive backlog holds 1,000.
    sizes = [14, 60, 1464, 1465, 60_000, *(int(14 * 4000 ** rng.random()) for _ in range(145))]
    vsensor = world.start_vsensor(options=("--vxlan", f"{DETECTOR}:4789", "--vxlan-vni", "7"))
    sensor = world.start_sensor("cap0", changes=ONLY_OURS)
    with Witness(detector, "inner", tmp_path / "inner.pcap", count=len(sizes)) as inner:
        send(world, sizes)
        sensor.terminate()
    vsensor.terminate()  # once all have come, as the witness says: a stop leaves them 1.5 s
    out = [packet.data for packet in inner.packets()]

    print(f"seed {SEED}: {sum(sizes)} bytes in {len(sizes)} frames")
    assert [len(frame) for frame in out] == sizes
    assert out == [packet.data for packet in world.stored("cap0")]


def send(world: World, sizes: list[int]) -> None:
    """Sends frames of these sizes onto cap0, each with its number in its destination."""
    script = (
        "import socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\ns.bind(('cap0', 0))\n"
        f"for i, n in enumerate({sizes}): s.send(i.to_bytes(6, 'big') + bytes(6) + b'\\x88\\xb5' + bytes(n - 14))"
    )
    world.generator.run(sys.executable, "-c", script)


@pytest.mark.parametrize("oversize", ["fragment", "drop"])
def test_what_does_not_fit_the_mtu_is_fragmented_or_counted_by_choice(
    world: World, detector: Namespace, oversize: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """An MTU of 1500 leaves 1464 bytes for a frame: outer IPv4, UDP and VXLAN take 20, 8 and 8."""
    sizes = [60, 1465, 1500, 9000, 1464]  # when the last has come, all the others were sent or counted
    receive = (
        "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.7.0.2', 4789));"
        "print('ready', flush=True);\nwhile True: print(len(s.recv(65536)) - 8, flush=True)"
    )
    with subprocess.Popen(
        detector.inside(sys.executable, "-c", receive), stdout=subprocess.PIPE, text=True
    ) as receiver:
        assert receiver.stdout is not None
        assert receiver.stdout.readline() == "ready\n"
        vsensor = world.start_vsensor(options=("--vxlan", f"{DETECTOR}:4789", "--vxlan-oversize", oversize, "--json"))
        sensor = world.start_sensor("cap0", changes=ONLY_OURS)
        send(world, sizes)
        sensor.terminate()
        arriving = sizes if oversize == "fragment" else [sizes[0], sizes[-1]]
        got = [int(receiver.stdout.readline()) for _ in arriving]
        receiver.kill()
        said: list[str] = []

        def counted() -> bool:
            said.append(capfd.readouterr().out)
            return f'"vxlan_sent": {len(arriving)}' in "".join(said)

        proc.eventually("the count is said", counted)
        vsensor.terminate()

    assert got == arriving
    assert ('"vxlan_too_long": 3' in "".join(said)) == (oversize == "drop")
