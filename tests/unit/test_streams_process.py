"""`ossensor vsensor --pcap-over-ip` and `--vxlan` as processes: who reads what, who is cut off, who is killed."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from test_vsensor_command import faults_of
from test_vsensor_kit import PATIENCE_S, STREAM, payload, section, split
from test_vsensor_kit_process import Process, Sensor, sensor

from ossensor.errors import Exit
from ossensor.transport.protocol import Outcome, Stream

OTHER = Stream("sensor-2", "f" * 32, "eth0")
LOOPBACK = "127.0.0.1:0"


def now() -> int:
    return int(time.time())


@contextmanager
def streaming(root: Path, *options: str) -> Iterator[tuple[Process, Sensor]]:
    """A vSensor with streams, and a sensor that it has stored a batch of: the second of its start is past.

    That batch has no packet: an answer comes before the notice, so a reader that comes now may get it or not.
    """
    with Process(root, "--no-fsync", *options) as process:
        listening = process.wait_for("listening")
        process.wait_for("streaming")
        with sensor(listening["address"], Path(listening["certificate"])) as one:
            one.deliver(0, section([]), created=now, packets="0")
            yield process, one


def readers_port(process: Process) -> int:
    return int(process.wait_for("streams")["pcap_over_ip"].rpartition(":")[2])


def connect(process: Process) -> socket.socket:
    """A reader, joined."""
    count = len(process.all("reader_joined"))
    connection = socket.create_connection(("127.0.0.1", readers_port(process)), timeout=120)
    process.wait_for("reader_joined", count + 1)
    return connection


def read_all(connection: socket.socket) -> bytes:
    """Everything until the end of the stream."""
    return b"".join(iter(lambda: connection.recv(1 << 20), b""))


class Following:
    """A reader that is never behind: a thread takes whatever comes, until the end of the stream."""

    def __init__(self, connection: socket.socket) -> None:
        self.data = bytearray()
        self._connection = connection
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with suppress(TimeoutError):
            while piece := self._connection.recv(1 << 20):
                with self._news:
                    self.data += piece
                    self._news.notify_all()

    def has(self, count: int) -> None:
        """Returns once so many bytes have come: every other reader has been given them, too."""
        with self._news:
            assert self._news.wait_for(lambda: len(self.data) >= count, PATIENCE_S)

    def close(self) -> None:
        self._thread.join()


def frames_of(data: bytes) -> list[bytes]:
    """The packets of a pcapng stream, by a reader that is not the project's."""
    found = []
    for one in split_stream(data):
        kind, total = struct.unpack_from("<II", one)
        assert struct.unpack_from("<I", one, total - 4) == (total,)
        if kind == 6:
            (captured,) = struct.unpack_from("<I", one, 20)
            found.append(one[28 : 28 + captured])
    return found


def split_stream(data: bytes) -> list[bytes]:
    blocks, at = [], 0
    while at < len(data):
        (total,) = struct.unpack_from("<I", data, at + 4)
        assert at + total <= len(data), "cut inside a block"
        blocks.append(data[at : at + total])
        at += total
    return blocks


def counts(process: Process) -> dict[str, int]:
    """The last counts, once the process has stopped."""
    return {name: n for name, n in process.all("streamed")[-1].items() if name != "event"}


def test_tshark_reads_what_is_stored_from_when_it_connects_to_the_stop(tmp_path: Path) -> None:
    with streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one):
        argv = ["tshark", "-i", f"TCP@127.0.0.1:{readers_port(process)}", "-l", "-T", "fields"]
        fields = ["-e", "frame.len", "-e", "frame.interface_name", "-e", "frame.interface_description", "-e", "data"]
        with subprocess.Popen([*argv, *fields], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tshark:
            process.wait_for("reader_joined")
            for i in range(1, 11):
                one.deliver(i, named_section("eth0", [frame(i), frame(i + 100)]), created=now, packets="2")
            one.deliver(0, named_section("lo", [frame(99)]), created=now, stream=OTHER)
            assert tshark.stdout is not None
            lines = [tshark.stdout.readline() for _ in range(21)]
            code = process.stop()
            rest, said = tshark.communicate(timeout=120)

    expected = [(f"{i + n}", "eth0", "sensor-1") for i in range(1, 11) for n in (0, 100)] + [("99", "lo", "sensor-2")]
    seen = [tuple(line.rstrip("\n").split("\t")) for line in lines]
    assert [(s[0], s[1], s[2], s[3]) for s in seen] == [("60", i, d, frame(int(n))[14:].hex()) for n, i, d in expected]
    assert (code, rest) == (Exit.DRAINED, ""), said
    assert process.all("reader_left")[-1]["packets"] == 21
    assert counts(process) == {"announced": 21, "taken": 21, "passed_on": 21, "readers": 1}


def frame(number: int) -> bytes:
    """An Ethernet frame of an experimental type (IEEE 802's 0x88B5) that nothing dissects."""
    return bytes(12) + b"\x88\xb5" + struct.pack(">I", number) + bytes(42)


def named_section(name: str, payloads: list[bytes]) -> bytes:
    """As the kit's, with an interface that has a name and nanoseconds, as the sensor's have."""
    made = section(payloads)
    (header_bytes,) = struct.unpack_from("<I", made, 4)
    (idb_bytes,) = struct.unpack_from("<I", made, header_bytes + 4)
    text = name.encode()
    options = struct.pack("<HH", 2, len(text)) + text + bytes(-len(text) % 4) + b"\x09\0\x01\0\x09\0\0\0\0\0\0\0"
    idb = struct.pack("<IIHHI", 1, 20 + len(options), 1, 0, 262144) + options + struct.pack("<I", 20 + len(options))
    rest = idb + made[header_bytes + idb_bytes :]
    return made[:16] + struct.pack("<q", len(rest)) + made[24:header_bytes] + rest


def test_each_reader_gets_what_was_stored_after_it_came(tmp_path: Path) -> None:
    with streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one), connect(process) as early:
        one.deliver(1, section([payload(1)]), created=now)
        wait_for_packet(early, payload(1))
        with connect(process) as late:
            one.deliver(2, section([payload(2)]), created=now)
            process.stop()
            assert frames_of(read_all(late)) == [payload(2)]
        assert frames_of(read_all(early)) == [payload(1), payload(2)]


def wait_for_packet(reader: socket.socket, packet: bytes) -> None:
    """Returns once the packet has reached the reader's connection, where it is left."""
    while packet not in reader.recv(1 << 16, socket.MSG_PEEK):
        time.sleep(0.001)


def test_pcap_is_written_to_readers_on_request(tmp_path: Path) -> None:
    with (
        streaming(tmp_path, "--pcap-over-ip", LOOPBACK, "--pcap-over-ip-format", "pcap") as (process, one),
        connect(process) as reader,
    ):
        one.deliver(1, section([payload(1), payload(2, 61)]), created=now, packets="2")
        process.stop()
        data = read_all(reader)
    (tmp_path / "out.pcap").write_bytes(data)
    said = subprocess.run(
        ["capinfos", "-M", "-c", "-E", tmp_path / "out.pcap"], capture_output=True, check=True, text=True
    )

    assert data[:24] == struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
    assert data[40:100] == payload(1)
    assert data[116:] == payload(2, 61)
    assert "Number of packets:   2" in said.stdout


def test_only_chosen_sensors_are_streamed(tmp_path: Path) -> None:
    with (
        streaming(tmp_path, "--pcap-over-ip", LOOPBACK, "--stream-sensor", "sensor-2") as (process, one),
        connect(process) as reader,
    ):
        one.deliver(1, section([payload(1)]), created=now)
        one.deliver(0, section([payload(2)]), created=now, stream=OTHER)
        process.stop()

        assert frames_of(read_all(reader)) == [payload(2)]
    assert counts(process) == {"announced": 2, "taken": 2, "not_chosen": 1, "passed_on": 1, "readers": 1}


@pytest.mark.slow
def test_a_reader_that_hangs_is_cut_off_by_a_reset_and_one_that_reads_misses_nothing(tmp_path: Path) -> None:
    body = section([payload(7, 1 << 20)])
    with (
        streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one),
        connect(process) as hung,
        connect(process) as reading,
        closing(Following(reading)) as good,
    ):
        sent = 0
        while not process.all("reader_cut_off"):
            sent += 1
            assert one.deliver(sent, body, created=now) is Outcome.STORED
            good.has(sent << 20)  # or a busy machine's pause would make a hung one of it, too
            assert sent < 200
        process.stop()
        (cut_off,) = process.all("reader_cut_off")
        with pytest.raises(ConnectionResetError):
            read_all(hung)

    assert len(frames_of(bytes(good.data))) == sent
    assert set(frames_of(bytes(good.data))) == {payload(7, 1 << 20)}
    assert 64 << 20 < cut_off["behind_bytes"] < 68 << 20
    assert cut_off["unsent"] in {64, 65}
    assert counts(process)["reader_unsent"] == cut_off["unsent"]
    assert counts(process)["passed_on"] == sent


@pytest.mark.slow
def test_killed_streaming_costs_readers_their_connection_and_no_batch_anything(tmp_path: Path) -> None:
    """Ten kills under load: ingestion goes on, readers come back, and the counts say where every packet is."""
    total = 200
    seen: list[bytes] = []
    with streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one):
        stopped = threading.Event()

        def read() -> None:
            while not stopped.is_set():
                data = bytearray()
                # Refused, when it comes back after the stop.
                with (
                    suppress(ConnectionResetError, ConnectionRefusedError),
                    socket.create_connection(("127.0.0.1", readers_port(process)), timeout=PATIENCE_S) as connection,
                ):
                    while piece := connection.recv(1 << 20):
                        data += piece
                seen.extend(whole_frames(bytes(data)))

        reader = threading.Thread(target=read)
        reader.start()
        process.wait_for("reader_joined")
        outcomes = []
        for i in range(1, total + 1):
            outcomes.append(one.deliver(i, section([payload(i)]), created=now))
            if i % 20 == 10:
                os.kill(process.all("streaming")[-1]["pid"], signal.SIGKILL)
                process.wait_for("streaming", i // 20 + 2)
        restarts = process.all("restarting")
        one.deliver(total + 1, section([payload(total + 1)]), created=now)
        stopped.set()
        process.stop()
        reader.join()
    books = counts(process)

    assert outcomes == [Outcome.STORED] * total
    assert [(r["what"], r["why"]) for r in restarts] == [("streaming", "was ended by SIGKILL")] * 10
    assert books["announced"] == books["taken"] == total + 1
    ends = ("passed_on", "idle", "behind", "unreadable", "killed")
    assert sum(books.get(name, 0) for name in ends) == total + 1
    assert len(set(seen)) == len(seen)
    # While a successor is up and the reader is not back yet, packets are nobody's ("idle").
    assert total + 1 - books.get("idle", 0) - books.get("killed", 0) - 10 <= len(seen) <= books["passed_on"] + 10


def whole_frames(data: bytes) -> list[bytes]:
    """The packets of a stream that may be cut anywhere."""
    at = 0
    while at + 8 <= len(data) and at + struct.unpack_from("<I", data, at + 4)[0] <= len(data):
        at += struct.unpack_from("<I", data, at + 4)[0]
    return frames_of(data[:at])


def test_a_killed_server_loses_the_streams_no_packet_uncounted(tmp_path: Path) -> None:
    with streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one), connect(process) as reader:
        for i in range(1, 41):
            one.deliver(i, section([payload(i)]), created=now)
            if i % 10 == 5:
                os.kill(process.all("serving")[-1]["pid"], signal.SIGKILL)
                process.wait_for("serving", i // 10 + 2)
        process.stop()
        got = frames_of(read_all(reader))
    books = counts(process)
    order = [payload(i) for i in range(1, 41)]

    assert books["announced"] + books.get("unannounced", 0) == 40
    # A kill between the counting of a notice and its sending: counted as killed.
    assert books["announced"] == books["taken"] == books["passed_on"] + books.get("killed", 0)
    assert books["passed_on"] == len(got)
    assert got == [frame for frame in order if frame in got]  # in order, none twice


def hung_readers_ratio(process: Process, one: Sensor, first: int) -> float:
    """Median time to an acknowledgement with four readers that never read, against without, alternating.

    One that reads is there all the time, and tells when the others have been given what makes them hang.
    """
    with_s: list[float] = []
    without_s: list[float] = []
    body = section([payload(1, 1 << 20)])  # ten of them are more than the kernel keeps for a reader
    with connect(process) as reading, ExitStack() as later:
        good = Following(reading)
        later.callback(good.close)
        later.callback(reading.shutdown, socket.SHUT_RDWR)
        for block in range(12):
            hung: list[socket.socket] = [connect(process) for _ in range(4)] if block % 2 else []
            try:
                for i in range(10):
                    began = time.perf_counter()
                    one.deliver(first + block * 10 + i, body, created=now)
                    (with_s if hung else without_s).append(time.perf_counter() - began)
                good.has((block + 1) * 10 << 20)
            finally:
                for reader in hung:
                    reader.close()
    return sorted(with_s)[len(with_s) // 2] / sorted(without_s)[len(without_s) // 2]


@pytest.mark.alone
@pytest.mark.slow
def test_four_hung_readers_do_not_delay_an_acknowledgement(tmp_path: Path) -> None:
    with streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one):
        ratio = hung_readers_ratio(process, one, 1)
        process.stop()
    left = process.all("reader_left")
    print(f"an acknowledgement with four hung readers takes {ratio:.2f} of one without")

    assert sorted(reader["unsent"] > 0 for reader in left) == [False] + [True] * 24  # they were hung
    assert ratio < 1.5


def test_a_stopped_streaming_process_delays_no_acknowledgement_and_catches_up(tmp_path: Path) -> None:
    """SIGSTOP: the channel fills up after some hundred notices; what it does not take is told later."""
    with streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one), connect(process) as reader:
        pid = process.wait_for("streaming")["pid"]
        os.kill(pid, signal.SIGSTOP)
        outcomes = [one.deliver(i, section([payload(i)]), created=now) for i in range(1, 501)]
        os.kill(pid, signal.SIGCONT)
        process.stop()
        got = frames_of(read_all(reader))

    assert outcomes == [Outcome.STORED] * 500
    assert got == [payload(i) for i in range(1, 501)]


def test_a_file_that_was_removed_is_counted_and_the_next_one_is_streamed(tmp_path: Path) -> None:
    with streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one), connect(process) as reader:
        pid = process.wait_for("streaming")["pid"]
        os.kill(pid, signal.SIGSTOP)
        one.deliver(1, section([payload(1)]), created=now)
        for file in tmp_path.rglob("*.pcapng"):
            file.unlink()
        one.deliver(2, section([payload(2)]), created=now)
        os.kill(pid, signal.SIGCONT)
        process.stop()
        got = frames_of(read_all(reader))

    assert got == [payload(2)]
    assert counts(process)["unreadable"] == 1


# --- options ---------------------------------------------------------------------------------------------------------


def faults(root: Path, *options: str) -> list[str]:
    code, found = faults_of("--listen", "127.0.0.1:0", "--store", str(root), *options)
    assert code == Exit.CONFIGURATION
    return found


def test_all_faults_of_the_streams_are_named_at_once(tmp_path: Path) -> None:
    assert faults(
        tmp_path, "--pcap-over-ip", "x", "--vxlan", "127.0.0.1:0", "--vxlan-vni", "16777216", "--stream-sensor", "/"
    ) == [
        "vsensor: --pcap-over-ip: 'x' is not HOST:PORT with a port of 0 to 65535",
        "vsensor: --vxlan-vni: '16777216' is not a whole number from 0 to 16777215",
        "vsensor: --vxlan: port 0 receives nothing",
        "vsensor: --stream-sensor: '/' is no sensor's name",
    ]


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0"])
def test_an_address_that_others_reach_needs_its_own_option(tmp_path: Path, address: str) -> None:
    fault, other = faults(tmp_path, "--pcap-over-ip", address, "--vxlan-vni", "x")

    assert other.startswith("vsensor: --vxlan-vni: ")
    assert "is not a loopback address: whoever reaches it could read every packet" in fault
    with streaming(tmp_path, "--pcap-over-ip", address, "--pcap-over-ip-anyone") as (process, _):
        assert readers_port(process) > 0


def test_a_name_is_judged_by_the_address_that_it_stands_for(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "--pcap-over-ip", "0:0")  # inet_aton(3) takes it for 0.0.0.0, ipaddress for nothing

    assert fault.startswith("vsensor: --pcap-over-ip: 0.0.0.0 is not a loopback address")
    with streaming(tmp_path, "--pcap-over-ip", "localhost:0") as (process, _):
        assert process.wait_for("streams")["pcap_over_ip"].rpartition(":")[0] in {"127.0.0.1", "[::1]"}


def test_ctrl_c_reaches_all_processes_and_the_last_packets_are_streamed_all_the_same(tmp_path: Path) -> None:
    with streaming(tmp_path, "--pcap-over-ip", LOOPBACK) as (process, one), connect(process) as reader:
        for event in ("streaming", "serving"):  # the terminal sends it to the whole group
            os.kill(process.wait_for(event)["pid"], signal.SIGINT)
            if event == "streaming":
                one.deliver(1, section([payload(1)]), created=now)
        code = process.stop(signal.SIGINT)
        got = frames_of(read_all(reader))

    assert code == Exit.DRAINED
    assert got == [payload(1)]


def test_a_choice_of_sensors_without_a_stream_is_a_fault(tmp_path: Path) -> None:
    assert faults(tmp_path, "--stream-sensor", STREAM.sensor) == [
        "vsensor: --stream-sensor: there is no --pcap-over-ip and no --vxlan to stream to"
    ]


# --- VXLAN -----------------------------------------------------------------------------------------------------------


@contextmanager
def vxlan_receiver(host: str = "127.0.0.1") -> Iterator[tuple[socket.socket, str]]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        receiver.bind((host, 0))
        receiver.settimeout(120)
        port = receiver.getsockname()[1]
        yield receiver, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_frames_leave_in_vxlan_datagrams_in_order(tmp_path: Path, host: str) -> None:
    with (
        vxlan_receiver(host) as (receiver, address),
        streaming(tmp_path, "--vxlan", address, "--vxlan-vni", "42") as (process, one),
    ):
        one.deliver(1, section([payload(1), payload(2, 9000)]), created=now, packets="2")
        got = [receiver.recv(65536) for _ in range(2)]
        process.stop()

    assert got == [b"\x08\0\0\0\0\0\x2a\0" + p for p in (payload(1), payload(2, 9000))]
    assert counts(process) == {"announced": 2, "taken": 2, "passed_on": 2, "vxlan_sent": 2}


def test_what_no_datagram_holds_is_counted_and_a_port_without_a_socket_is_no_fault(tmp_path: Path) -> None:
    with vxlan_receiver() as (receiver, address), streaming(tmp_path, "--vxlan", address) as (process, one):
        one.deliver(1, section([payload(1, 65_600)]), created=now)
        one.deliver(2, section([payload(2)]), created=now)
        receiver.recv(65536)  # the long one was before it
        receiver.close()  # as with a detector that listens to the wire: the kernel answers each datagram by ICMP
        one.deliver(3, section([payload(3)] * 20), created=now, packets="20")
        process.stop()

    expected = {"announced": 22, "taken": 22, "passed_on": 22, "vxlan_sent": 21, "vxlan_too_long": 1}
    assert counts(process) == expected


@pytest.mark.slow
def test_killed_streaming_goes_on_from_the_same_ports_and_counts_what_it_had_in_hand(tmp_path: Path) -> None:
    total = 100
    with vxlan_receiver() as (receiver, address), streaming(tmp_path, "--vxlan", address) as (process, one):
        for i in range(1, total + 1):
            one.deliver(i, section([payload(i)]), created=now)
            if i % 20 == 10:
                os.kill(process.all("streaming")[-1]["pid"], signal.SIGKILL)
                process.wait_for("streaming", i // 20 + 2)
        process.stop()
        got = []
        while select.select([receiver], [], [], 0)[0]:
            data, sender = receiver.recvfrom(65536)
            got.append((data[8:], sender[1]))
    books = counts(process)
    order = [payload(i) for i in range(1, total + 1)]
    numbers = [order.index(frame) for frame, _ in got]

    assert books["announced"] == books["taken"] == total
    assert books["passed_on"] + books.get("killed", 0) == total
    assert books["passed_on"] <= books["vxlan_sent"] <= len(got) <= total
    assert numbers == sorted(set(numbers))  # in order, none twice
    assert len({port for _, port in got}) <= 16


def test_our_own_datagrams_do_not_go_round(tmp_path: Path) -> None:
    with vxlan_receiver() as (receiver, address), streaming(tmp_path, "--vxlan", address) as (process, one):
        port = struct.pack(">H", receiver.getsockname()[1])
        outer = b"\x45" + bytes(8) + b"\x11" + bytes(6) + bytes((127, 0, 0, 1)) + b"\0\0" + port + bytes(20)
        one.deliver(1, section([bytes(12) + b"\x08\0" + outer]), created=now)
        one.deliver(2, section([payload(2)]), created=now)
        got = receiver.recv(65536)[8:]
        process.stop()

    assert got == payload(2)
    assert counts(process) == {"announced": 2, "taken": 2, "passed_on": 2, "vxlan_sent": 1, "vxlan_own": 1}


def test_a_network_that_cannot_be_reached_is_counted_and_named(tmp_path: Path) -> None:
    # 255.255.255.255 needs SO_BROADCAST: the kernel refuses each datagram with EACCES, whatever the machine's routes.
    with streaming(tmp_path, "--vxlan", "255.255.255.255:4789") as (process, one):
        one.deliver(1, section([payload(1)]), created=now)
        process.stop()

    assert counts(process) == {"announced": 1, "taken": 1, "passed_on": 1, "vxlan_unreachable": 1}
    assert process.stderr.decode().splitlines() == ["streams: cannot send VXLAN to 255.255.255.255: Permission denied"]


def test_split_of_a_stream_and_of_a_file_agree() -> None:
    made = section([payload(1), payload(2)])

    assert split(made) == [b"".join(split_stream(made))]
    assert frames_of(made) == [payload(1), payload(2)]


def test_the_kits_sections_with_a_name_are_whole() -> None:
    made: Any = named_section("eth0", [payload(1)])

    assert split(made) == [made]
