"""A batch as a file: told from a damaged one at every bit and at every length."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ossensor import pcapng
from ossensor.spoolfile import DamagedError, Spooled, opened, trailer
from ossensor.transport.protocol import Account, BatchId, Stream

ACCOUNT = Account(first_packet=7, received=20, kernel_drops=1, final=1)


def spooled(sensor: str = "sensor-1", interface: str = "eth0", sequence: int = 5) -> Spooled:
    return Spooled(BatchId(Stream(sensor, "0123456789abcdef" * 2, interface), sequence), 3, 1_795_000_000_123_456_789)


def section(packets: int = 3) -> bytes:
    memory = bytearray(4096)
    prologue = pcapng.section_header("test") + pcapng.interface_description("eth0", 1, 262_144, "", "Linux")
    made = pcapng.Section.open(memoryview(memory), prologue)
    for n in range(packets):
        assert made.add(n, bytes(60), 60)
    return bytes(memory[: made.close(0, 9, packets, 0)])


FILE = section() + trailer(spooled(), section(), ACCOUNT)


def test_what_was_written_is_read() -> None:
    found, account = opened(spooled(), FILE)

    assert (bytes(found), account) == (section(), ACCOUNT)


@pytest.mark.parametrize(
    "sensor,interface,sequence",
    [("s", "eth0", 0), ("Host-1.example_x", "veth@if3%", 2**63 - 1), ("a" * 63, "é" * 7, 1), ("x", "a,b,c", 9)],
)
def test_a_name_says_who_it_is(sensor: str, interface: str, sequence: int) -> None:
    one = spooled(sensor, interface, sequence)

    assert Spooled.parse(one.name) == one
    assert len(one.name) < 255
    assert "/" not in one.name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "x.pcapng",
        spooled().name + "x",
        spooled().name.replace(".pcapng", ".part"),
        spooled().name.replace("sensor-1", ".."),
        spooled().name.replace("eth0", "a%2Fb"),
        spooled().name.replace("eth0", "%65th0"),
        spooled().name.replace(",3,", ",03,"),
        "1" + spooled().name,
        spooled(sequence=2**63).name,
    ],
)
def test_other_files_are_none_of_ours(name: str) -> None:
    assert Spooled.parse(name) is None


def test_names_sort_by_age() -> None:
    names = [Spooled(spooled().batch, 3, ns).name for ns in (5, 999, 10**18, 10**19)]

    assert sorted(names) == names


def test_every_flipped_bit_is_found() -> None:
    data = bytearray(FILE)
    for bit in range(len(data) * 8):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamagedError):
            opened(spooled(), bytes(data))
        data[bit // 8] ^= 1 << bit % 8
    print(len(data) * 8, "bits")


def test_every_cut_is_found() -> None:
    for length in range(len(FILE)):
        with pytest.raises(DamagedError):
            opened(spooled(), FILE[:length])


def test_a_file_under_another_batchs_name_is_damaged() -> None:
    with pytest.raises(DamagedError):
        opened(spooled(sequence=6), FILE)


@pytest.mark.parametrize("body", [b"[]  ", b"{}  ", json.dumps({"account": 1, "sha256": 2}).encode(), b"[" * 4000])
def test_a_last_block_that_is_no_record_is_damage(body: bytes) -> None:
    body += b" " * (-len(body) % 4)
    length = (len(body) + 12).to_bytes(4, "little")
    data = section() + (0x80004F53).to_bytes(4, "little") + length + body + length

    with pytest.raises(DamagedError):
        opened(spooled(), data)


def test_tshark_reads_it(tmp_path: Path) -> None:
    path = tmp_path / spooled().name
    path.write_bytes(FILE)
    argv = ["tshark", "-r", str(path), "-T", "fields", "-e", "frame.len"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["60", "60", "60"]
