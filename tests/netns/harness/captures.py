"""Reading what was captured: pcap and pcapng readers that share no line with the sensor, and a tcpdump to compare with.

The readers are strict: whatever is not exactly a file of the blocks that the vSensor may store fails the test.
"""

from __future__ import annotations

import re
import signal
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Self

from harness.namespaces import Namespace, in_user_namespace

_SECTION, _INTERFACE, _STATISTICS, _PACKET = 0x0A0D0D0A, 1, 5, 6
_LITTLE = b"\x4d\x3c\x2b\x1a"
_LATE_S = 60  # for packets that never come
_IF_NAME, _IF_TSRESOL = 2, 9


class CutShortError(AssertionError):
    """The file ends inside a block: a defect of a finished file, and quite normal for one that is being written."""


class Packet(NamedTuple):
    """One captured packet. A pcap file does not say on which interface; then that is empty."""

    interface: str
    time_ns: int
    original_bytes: int
    data: bytes


def read_pcap(path: Path) -> list[Packet]:
    """The packets of a little-endian nanosecond pcap file, in the file's order."""
    content = path.read_bytes()
    assert struct.unpack_from("<IHH", content) == (0xA1B23C4D, 2, 4), f"{path}: not a nanosecond pcap file"
    packets, at = [], 24
    while at < len(content):
        seconds, nanoseconds, captured, original = struct.unpack_from("<IIII", content, at)
        data = content[at + 16 : at + 16 + captured]
        assert len(data) == captured, f"{path}: cut at byte {at}"
        packets.append(Packet("", seconds * 1_000_000_000 + nanoseconds, original, data))
        at += 16 + captured
    return packets


def _blocks(path: Path) -> Iterator[tuple[str, int, bytes]]:
    """Byte order, type and body of each block of a pcapng file, whose both lengths agree."""
    content, at, order = path.read_bytes(), 0, "<"
    while at < len(content):
        if at + 12 > len(content):
            raise CutShortError(f"{path}: cut at byte {at}")
        if content[at : at + 4] == b"\x0a\x0d\x0d\x0a":  # reads the same in both byte orders
            order = "<" if content[at + 8 : at + 12] == _LITTLE else ">"
        kind, total = struct.unpack_from(f"{order}II", content, at)
        assert (total % 4, total >= 12) == (0, True), f"{path}: a block of {total} bytes at {at}"
        if total > len(content) - at:
            raise CutShortError(f"{path}: cut at byte {at}")
        assert struct.unpack_from(f"{order}I", content, at + total - 4) == (total,), f"{path}: lengths differ at {at}"
        yield order, kind, content[at + 8 : at + total - 4]
        at += total


def _options(order: str, body: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at < len(body):
        code, length = struct.unpack_from(f"{order}HH", body, at)
        if code == 0:
            break
        found[code] = body[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4
    return found


def read_pcapng(path: Path, *, finished: bool = True) -> list[Packet]:
    """The packets of a file of concatenated sections, in the file's order.

    Fails unless every section is SHB, IDBs of Ethernet with a name and nanoseconds, EPBs, and one ISB per interface. Of
    a file that is not finished, because its writer was killed, the last section may be cut, and then is left out.
    """
    packets: list[Packet] = []
    try:
        for section in _sections(path):
            packets += section
    except CutShortError:
        if finished:
            raise
    return packets


def _sections(path: Path) -> Iterator[list[Packet]]:
    """The packets of each section, once it is whole."""
    packets: list[Packet] = []
    names: list[str] = []
    statistics = 0
    begun = False
    for order, kind, body in _blocks(path):
        if kind == _SECTION:
            assert statistics == len(names), f"{path}: a section ended without its statistics"
            assert struct.unpack_from(f"{order}HH", body, 4) == (1, 0), f"{path}: not version 1.0"
            assert names or not begun, f"{path}: a section without an interface"
            packets, names, statistics, begun = [], [], 0, True
        elif kind == _INTERFACE:
            assert struct.unpack_from(f"{order}H", body) == (1,), f"{path}: not Ethernet"
            options = _options(order, body[8:])
            assert options.get(_IF_TSRESOL) == b"\x09", f"{path}: not in nanoseconds"
            assert _IF_NAME in options, f"{path}: an interface without a name"
            names.append(options[_IF_NAME].decode())
        elif kind == _PACKET:
            interface, high, low, captured, original = struct.unpack_from(f"{order}5I", body)
            assert statistics == 0, f"{path}: a packet after the statistics"
            data = body[20 : 20 + captured]
            assert len(data) == captured, f"{path}: a packet longer than its block"
            packets.append(Packet(names[interface], high << 32 | low, original, data))
        else:
            assert kind == _STATISTICS, f"{path}: unexpected block type {kind:#x}"
            statistics += 1
            if statistics == len(names):
                yield packets
    if statistics != len(names) or (begun and not names):
        raise CutShortError(f"{path}: the last section has no statistics")


def tshark(path: Path, display_filter: str = "frame") -> int:
    """How many packets of the file Wireshark's own reader finds that pass the filter. Fails when it complains."""
    argv: list[str | Path] = ["tshark", "-n", "-r", path, "-Y", display_filter, "-T", "fields", "-e", "frame.number"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return len(done.stdout.splitlines())


class Witness:
    """A tcpdump beside the sensor, that ends by itself at `count` packets: a signal would cut off what its ring holds.

    In a user namespace it is a dumpcap: tcpdump insists on changing its user, and there is none to change to.
    """

    def __init__(self, namespace: Namespace, interface: str, path: Path, *, count: int) -> None:
        self._path = path
        self._dumpcap = in_user_namespace()
        options: list[str | Path] = ["-i", interface, "-s", "262144", "-w", path]  # and 64 MiB of buffer
        if self._dumpcap:
            tool, ready, own = "dumpcap", "File:", ["-q", "-B", "64"]
        else:
            tool, ready, own = "tcpdump", "listening on", ["-n", "-B", "65536", "--time-stamp-precision=nano"]
        argv = namespace.inside(tool, *own, *options, "-c", str(count))
        self._process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self._stderr = self._process.stderr
        assert any(ready in line for line in self._stderr), f"{tool} does not listen"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Fails when packets were lost here: then nothing can be held against this capture."""
        try:
            self._process.wait(timeout=_LATE_S if kind is None else 0)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGINT)
        with self._stderr:
            said = self._stderr.read()
        self._process.wait()
        if kind is None:
            none_lost = r"received/dropped .*: \d+/0 " if self._dumpcap else r"^0 packets dropped by kernel"
            assert re.search(none_lost, said, re.MULTILINE), said

    def packets(self) -> list[Packet]:
        return read_pcapng(self._path) if self._dumpcap else read_pcap(self._path)
