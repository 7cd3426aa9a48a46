"""Numbered 64-byte frames by the hundred thousand a second, and the way back from the store to their numbers.

tcpreplay sends them from a file in its memory, pinned to one core. Building and checking go by columns: frames of one
size lie at a fixed distance, so one slice is one byte of thousands of them.
"""

from __future__ import annotations

import os
import struct
import subprocess
from array import array
from collections.abc import Iterator
from pathlib import Path

from harness.namespaces import Namespace
from harness.proc import HANGS_S

FRAME_BYTES = 64
_ADDRESSES = bytes.fromhex("02f100d0000202f100d00001")
_ETHERTYPE = b"\x88\xb5"  # IEEE 802 local experimental 1: nobody answers it
_HEAD = _ADDRESSES + _ETHERTYPE
_NUMBER_AT = len(_HEAD)
_PADDING = bytes(FRAME_BYTES - _NUMBER_AT - 8)
_PCAP_STRIDE = 16 + FRAME_BYTES
_CHUNK = 1 << 16
_EPB_STRIDE = 32 + FRAME_BYTES
_EPB_DATA = 28


def last_core() -> str:
    """For taskset: each processor has its own receive backlog, and a sender that moved could see frames overtake."""
    return str(max(os.sched_getaffinity(0)))


def write_pcap(path: Path, frames: int) -> None:
    """Frames numbered from 0, a multiple of 65,536 of them."""
    assert frames % _CHUNK == 0
    record = struct.pack("<IIII", 0, 0, FRAME_BYTES, FRAME_BYTES) + _HEAD + bytes(8) + _PADDING
    chunk = bytearray(record * _CHUNK)
    at = 16 + _NUMBER_AT
    chunk[at + 7 :: _PCAP_STRIDE] = bytes(range(256)) * 256
    chunk[at + 6 :: _PCAP_STRIDE] = b"".join(bytes([high]) * 256 for high in range(256))
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, 1))
        for number in range(frames // _CHUNK):
            for place, byte in enumerate(number.to_bytes(6, "big")):
                chunk[at + place :: _PCAP_STRIDE] = bytes([byte]) * _CHUNK
            file.write(chunk)


class Flood:
    """The frames of a file, from construction until they are over or `stop`."""

    def __init__(self, namespace: Namespace, interface: str, pcap: Path, *, per_second: int, loops: int = 1) -> None:
        # Several frames a timer: one timer for each does not reach these rates.
        pace = [f"--pps={per_second}", f"--pps-multi={max(1, per_second // 10_000)}"]
        options = ["-q", "--preload-pcap", f"--loop={loops}", *pace, "-i", interface]
        argv = ["taskset", "-c", last_core(), "tcpreplay", *options]
        self._process = subprocess.Popen(
            namespace.inside(*argv, pcap), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._process.terminate()
        self._process.communicate(timeout=HANGS_S)


def numbers_in(path: Path) -> array[int]:
    """The numbers of the flood's frames in a stored file, in its order; fails on any byte that was not sent."""
    data = path.read_bytes()
    found = array("Q")
    for start, end in _packet_runs(data):
        assert (end - start) % _EPB_STRIDE == 0
        count = (end - start) // _EPB_STRIDE
        run = data[start:end]
        fixed = struct.pack("<III", 6, _EPB_STRIDE, 0), struct.pack("<II", FRAME_BYTES, FRAME_BYTES) + _HEAD
        tail = _PADDING + struct.pack("<I", _EPB_STRIDE)
        for at, expected in ((0, fixed[0]), (20, fixed[1]), (_EPB_DATA + _NUMBER_AT + 8, tail)):
            for place, byte in enumerate(expected, at):
                assert run[place::_EPB_STRIDE] == bytes([byte]) * count, f"byte {place} of a packet in {path}"
        number = _EPB_DATA + _NUMBER_AT
        found.extend(n for (n,) in struct.iter_unpack(f">{number}xQ{_EPB_STRIDE - number - 8}x", run))
    return found


def _packet_runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Where the packets of each section begin and end: after SHB and IDB, before the ISB."""
    at = 0
    while at < len(data):
        kind, header, _, _, _, length = struct.unpack_from("<IIIHHq", data, at)
        assert kind == 0x0A0D0D0A
        (description,) = struct.unpack_from("<I", data, at + header + 4)
        end = at + header + length
        (statistics,) = struct.unpack_from("<I", data, end - 4)
        yield at + header + description, end - statistics
        at = end
