"""`ossensor extract`: exactly the packets that were asked for, and no more of the store read than they need."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import old_index
import pytest
from filled_store import EPOCH, PER_BATCH, START_NS, START_S, fill, frame, made, number_of, opened

from ossensor import cli, pcapng
from ossensor.transport.protocol import BatchId, Outcome, Stream
from ossensor.vsensor import extract as extracting
from ossensor.vsensor import moments
from ossensor.vsensor.section import span
from ossensor.vsensor.store import Append, Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,000 s of a's eth0 and eth1 and of b's eth0, in files of some ten batches."""
    root = tmp_path_factory.mktemp("stores") / "store"
    with closing(opened(root, rotate_bytes=1 << 14)) as filling:
        fill(filling, "a", "eth0", 100)
        fill(filling, "a", "eth1", 100, port=443)
        fill(filling, "b", "eth0", 100)
    assert len(list((root / "a" / "eth0").iterdir())) == 10
    return root


class Extracted:
    def __init__(self, root: Path, tmp_path: Path, *arguments: str) -> None:
        self.out = tmp_path / "out.pcapng"
        self.code = cli.main(["extract", str(root), "-w", str(self.out), "--json", *arguments])

    @property
    def packets(self) -> list[pcapng.Packet]:
        return list(pcapng.packets(self.out.read_bytes()))

    @property
    def numbers(self) -> list[int]:
        return [number_of(packet.data) for packet in self.packets]


@pytest.fixture
def extract(store: Path, tmp_path: Path) -> Iterator[Any]:
    return lambda *arguments: Extracted(store, tmp_path, *arguments)  # type: ignore[return-value]


def summary(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def names(path: Path) -> list[str]:
    """The interfaces' names as the file has them."""
    bodies = [bytes(body) for kind, body in pcapng.blocks(path.read_bytes()) if kind == pcapng.IDB]
    return [value.decode() for body in bodies for code, value in pcapng.options(body, 8) if code == 2]


def test_everything_comes_out_as_it_was_stored_merged_by_time(extract: Any, store: Path) -> None:
    got = extract()

    originals = [p for file in sorted(store.rglob("*.pcapng")) for p in pcapng.packets(file.read_bytes())]
    assert got.code == 0
    assert [p.ts_ns for p in got.packets] == sorted(p.ts_ns for p in originals)
    assert sorted((p.ts_ns, p.original_length, p.data) for p in got.packets) == sorted(
        (p.ts_ns, p.original_length, p.data) for p in originals
    )
    assert names(got.out) == ["a/eth0", "a/eth1", "b/eth0"]


@pytest.mark.parametrize(
    "since,until,expected",
    [
        (str(START_S + 500), str(START_S + 505), range(500, 505)),
        (str(START_S + 509), str(START_S + 511), range(509, 511)),  # over the border of two batches
        ("2026-11-23T10:08:20Z", "2026-11-23T11:08:25+01:00", range(500, 505)),
        (f"{START_S + 499}.000000001", f"{START_S + 505}.000000001", range(500, 506)),
        (str(START_S + 998), None, range(998, 1000)),
        (None, str(START_S + 2), range(2)),
        (str(START_S + 5000), None, range(0)),
        (str(START_S + 998), "9999-12-31T23:59:59Z", range(998, 1000)),
        ("0001-01-01T00:00:00Z", str(START_S + 2), range(2)),
        ("0001-01-01T00:00:00Z", "1969-12-31T23:59:59Z", range(0)),
        ("99999999998", "99999999999", range(0)),
    ],
)
def test_from_is_the_first_moment_and_to_the_first_that_is_not_wanted(
    extract: Any, since: str | None, until: str | None, expected: range
) -> None:
    window = [*(["--from", since] if since else []), *(["--to", until] if until else [])]

    got = extract("--sensor", "a", "--interface", "eth0", *window)

    assert (got.code, got.numbers) == (0, list(expected))


def test_one_percent_of_the_time_is_read_from_one_percent_of_the_bytes(
    extract: Any, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def read_bytes() -> int:
        return int(dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())["rchar"])

    files = sum(file.stat().st_size for file in store.rglob("*.pcapng"))
    index = (store / "index.sqlite").stat().st_size
    before = read_bytes()
    got = extract("--from", str(START_S + 500), "--to", str(START_S + 510))
    by_the_kernel = read_bytes() - before  # everything this process read meanwhile, the index's pages included
    told = summary(capsys)
    print(f"stored {files:,}, index {index:,}; said to be read {told['bytes_read']:,}, by the kernel {by_the_kernel:,}")

    assert [p.ts_ns for p in got.packets] == [START_NS + n * 10**9 for n in range(500, 510) for _ in range(3)]
    assert (told["batches_read"], told["bytes_stored"]) == (3, files)
    assert told["bytes_read"] * 100 == pytest.approx(files, rel=0.02)
    assert told["bytes_read"] <= by_the_kernel <= told["bytes_read"] + index + 4096


def test_sensors_and_interfaces_are_chosen_by_name(extract: Any) -> None:
    window = ["--from", str(START_S), "--to", str(START_S + 1)]

    assert names(extract("--sensor", "b", *window).out) == ["b/eth0"]
    assert names(extract("--interface", "eth0", *window).out) == ["a/eth0", "b/eth0"]
    assert names(extract("--sensor", "a", "--sensor", "b", "--interface", "eth1", *window).out) == ["a/eth1"]


def test_a_filter_chooses_packets(extract: Any, capsys: pytest.CaptureFixture[str]) -> None:
    got = extract("--bpf", "udp src port 443 and udp[15] >= 254", "--to", str(START_S + 256))

    assert (got.numbers, names(got.out)) == ([254, 255], ["a/eth1"])
    assert summary(capsys)["packets"] == 2


def test_tshark_reads_what_was_extracted(extract: Any) -> None:
    got = extract("--from", str(START_S), "--to", str(START_S + 3))
    fields = ["frame.time_epoch", "frame.interface_name", "udp.srcport", "frame.len"]

    shown = subprocess.run(
        ["tshark", "-r", got.out, "-T", "fields", *(part for field in fields for part in ("-e", field))],
        capture_output=True,
        text=True,
        check=True,
    )

    assert [line.split("\t") for line in shown.stdout.splitlines()] == [
        [f"{START_S + n}.000000000", name, port, "100"]
        for n in range(3)
        for name, port in (("a/eth0", "80"), ("a/eth1", "443"), ("b/eth0", "80"))
    ]


def test_stdout_gets_the_file_and_stderr_the_summary(store: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ossensor", "extract", store, "--to", str(START_S + 1), "-w", "-", "--json"],
        capture_output=True,
        check=True,
    )

    assert len(list(pcapng.packets(done.stdout))) == 3
    assert json.loads(done.stderr)["packets"] == 3


def test_a_reader_that_has_enough_ends_it_without_a_word(store: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as out:
        done = subprocess.run(
            [sys.executable, "-m", "ossensor", "extract", store, "-w", "-"],
            stdout=out,
            stderr=subprocess.PIPE,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, b"")


def test_what_takes_long_says_on_a_terminal_how_far_it_is(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extracting, "_PROGRESS_S", -1.0)
    window = ("--from", str(START_S), "--to", str(START_S + 20), "--sensor", "b")

    Extracted(store, tmp_path, *window)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Extracted(store, tmp_path, *window)

    told = [line for line in capsys.readouterr().err.split("\r") if line]
    assert [line.partition(" packets")[0] for line in told] == ["2026-11-23T10:00:00Z: 0", "2026-11-23T10:00:10Z: 10"]


def test_a_vsensor_that_is_writing_does_not_mind(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "s")) as filling:
        for n in range(3):
            fill(filling, "a", "eth0", 1, first=n)
            assert Extracted(tmp_path / "s", tmp_path).numbers == list(range((n + 1) * PER_BATCH))


# -- what is not as usual ---------------------------------------------------------------------------------------------


def put(filling: Store, interface: str, body: bytes, packets: int, sequence: int = 0) -> None:
    batch = BatchId(Stream("a", EPOCH, interface), sequence)
    assert filling.append(Append(batch, 0, packets, body, None, span(body))).result(120) is Outcome.STORED


def test_a_filter_knows_the_length_on_the_wire_and_each_link_layer(tmp_path: Path) -> None:
    with closing(opened(tmp_path / "s")) as filling:
        put(filling, "eth0", made("eth0", [(START_NS, frame(1, size=900)), (START_NS, frame(2))], cut=60), 2)
        put(filling, "wg0", made("wg0", [(START_NS + 1, frame(3, size=900, ethernet=False))], linktype=101), 1)

    got = Extracted(tmp_path / "s", tmp_path, "--bpf", "udp and greater 800")

    assert [(p.original_length, len(p.data), p.interface) for p in got.packets] == [(900, 60, 0), (886, 886, 1)]


def test_a_filter_that_one_link_layer_does_not_have_is_refused_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(opened(tmp_path / "s")) as filling:
        put(filling, "wg0", made("wg0", [(START_NS, frame(3, ethernet=False))], linktype=101), 1)

    got = Extracted(tmp_path / "s", tmp_path, "--bpf", "ether host 02:00:00:00:00:01")

    assert got.code == 78
    assert "does not compile for link layer 101: " in capsys.readouterr().err


def test_packets_out_of_order_are_all_found_and_stay_as_they_were(tmp_path: Path) -> None:
    times = [50, 90, 40, 45]
    with closing(opened(tmp_path / "s")) as filling:
        put(filling, "eth0", made("eth0", [(START_NS + t * 10**9, frame(t)) for t in times]), 4)

    got = Extracted(tmp_path / "s", tmp_path, "--from", str(START_S + 41), "--to", str(START_S + 91))

    assert got.numbers == [50, 90, 45]


def test_a_damaged_batch_is_told_and_the_others_come(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "s"
    with closing(opened(root)) as filling:
        fill(filling, "a", "eth0", 3)
    (file,) = root.rglob("*.pcapng")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10  # inside the second batch, whose last bytes lie in front of the third
    length = len(data) // 3
    data[length + 4] ^= 1  # the length of its first block
    file.write_bytes(data[:-1])

    got = Extracted(root, tmp_path)

    told = capsys.readouterr()
    place = file.relative_to(root)
    assert (got.code, got.numbers) == (1, list(range(PER_BATCH)))
    assert json.loads(told.out)["damaged_batches"] == 2
    assert [line.split(" is damaged: ")[0] for line in told.err.splitlines()] == [
        f"ossensor: a/eth0: batch 1 of {place}",
        f"ossensor: a/eth0: batch 2 of {place}",
    ]


@pytest.mark.parametrize("layout", [1, 2])
def test_a_store_whose_index_has_no_times_is_read_whole(tmp_path: Path, layout: int) -> None:
    root = tmp_path / "s"
    bodies = [made("eth0", [(START_NS + n * 10**9, frame(n))]) for n in range(3)]
    (root / "a" / "eth0").mkdir(parents=True)
    (root / "a/eth0/f.pcapng").write_bytes(b"".join(bodies))
    old_index.make(
        root / "index.sqlite", layout, ("a", EPOCH, "eth0"), [(1, None)] * 3, "a/eth0/f.pcapng", len(bodies[0])
    )

    got = Extracted(root, tmp_path, "--from", str(START_S + 1))

    assert got.numbers == [1, 2]


# -- arguments --------------------------------------------------------------------------------------------------------


def test_everything_that_is_wrong_with_the_arguments_is_said_at_once(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(
        [
            *("extract", str(store), "--from", "yesterday", "--to", "2026-11-23T10:00:00", "--sensor", "c"),
            *("--interface", "wlan0", "--bpf", "tcp prot 80", "-w", str(store / "index.sqlite")),
        ]
    )

    told = capsys.readouterr()
    assert (code, told.out) == (78, "")
    lines = told.err.splitlines()
    assert lines.pop(4).startswith("ossensor: --bpf: 'tcp prot 80' does not compile: ")  # and why, in libpcap's words
    assert lines == [
        f"ossensor: --from: 'yesterday': allowed: {moments.ALLOWED}",
        "ossensor: --to: '2026-11-23T10:00:00': has no zone: add Z, or +01:00",
        "ossensor: --sensor: 'c': not in this store; there: a, b",
        "ossensor: --interface: 'wlan0': not in this store; there: eth0, eth1",
        f"ossensor: -w: {store}/index.sqlite: is inside the store",
    ]


@pytest.mark.parametrize(
    "arguments,fault",
    [
        (["--from", "5", "--to", "5"], "--from 5 is not before --to 5"),
        (["--sensor", "b", "--interface", "eth1"], "no sensor of this name has an interface of that one"),
        (["-w", "/nowhere/x"], "-w: /nowhere/x: its directory is not there"),
        (["-w", "/dev"], "-w: /dev: is a directory"),
    ],
)
def test_each_other_wrong_argument_has_its_message(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    code = cli.main(["extract", str(store), "-w", str(tmp_path / "x"), *arguments])

    assert code == 78
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_full_disk_is_told_with_the_files_name(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["extract", str(store), "-w", "/dev/full"])

    assert (code, capsys.readouterr().err) == (78, "ossensor: -w: /dev/full: No space left on device\n")


@pytest.mark.parametrize(
    "text,expected",
    [
        ("0", 0),
        ("1795428000.5", 1795428000_500000000),
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-23T10:00:00.123456789Z", START_NS + 123456789),
        ("2026-11-23T10:00:00,5Z", START_NS + 500_000_000),
        ("2026-11-23T11:00+01:00", START_NS),
        ("20261123T100000.000000001Z", START_NS + 1),
        ("2026-11-23T05:30:00-0430", START_NS),
    ],
)
def test_a_moment_is_read_to_the_nanosecond(text: str, expected: int) -> None:
    assert moments.parse(text) == expected
    assert moments.parse(moments.show(expected)) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("", " 5", "5 ", "-5", "+5", "1e3", "0x10", "5.", ".5", "1.0000000001", "1_000", "\u0665", "999999999999"),
        *("2026-11-23", "2026-11-23T10:00:00", "2026-11-31T10:00:00Z", "2026-11-23 10:00:00Z", "2026-11-23T25:00:00Z"),
        *("2026-11-23T10:00:00.0000000001Z", "now", "2026-W48-1T10:00:00Z", "2026-11-23T10:00:00+25:00"),
    ],
)
def test_anything_else_is_no_moment(text: str) -> None:
    with pytest.raises(ValueError, match=r"allowed|zone|hour|day|offset|must be"):
        moments.parse(text)


def test_an_index_that_holds_what_nobody_wrote_is_named_as_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "s"
    with closing(opened(root)) as filling:
        fill(filling, "a", "eth0", 3)
    index = root / "index.sqlite"
    for allowed, wanted in (("", " NOT NULL"), (" NOT NULL", "")):
        with closing(sqlite3.connect(index)) as db, db:
            if allowed:
                db.execute("UPDATE batches SET length = NULL WHERE sequence = 1")
            db.execute("PRAGMA writable_schema = ON")
            db.execute(
                "UPDATE sqlite_schema SET sql = replace(sql, ?, ?) WHERE name = 'batches'",
                (f"length INTEGER{wanted},", f"length INTEGER{allowed},"),
            )

    assert Extracted(root, tmp_path).code == 78
    assert capsys.readouterr().err == f"ossensor: {index} is damaged: NULL value in batches.length\n"
