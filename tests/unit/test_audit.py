"""`ossensor audit`: every verdict, and the numbers behind it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import old_index
import pytest

from ossensor import cli, pcapng
from ossensor.transport.protocol import Account, BatchId, MalformedError, Stream
from ossensor.vsensor import progress
from ossensor.vsensor.index import Index, Row
from ossensor.vsensor.judgement import Batch, Finding, Hole, RemovedRun, contradictions, judge
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.section import Span

STREAM = Stream("sensor-1", "0123456789abcdef" * 2, "eth0")


def batch(sequence: int, first: int, packets: int, **books: int) -> Batch:
    return Batch(sequence, packets, Account(first_packet=first, **books))


def test_a_closed_stream_whose_packets_are_all_there_is_balanced() -> None:
    finding = judge([batch(0, 0, 10, received=3), batch(1, 10, 5, received=17, kernel_drops=2, final=1)])

    assert finding == Finding(2, 15, 17, 2, {}, closed=True)
    assert finding.verdict == "balanced"


def test_an_empty_final_batch_closes_a_stream() -> None:
    assert judge([batch(0, 0, 10), batch(1, 10, 0, received=10, final=1)]).verdict == "balanced"


def test_a_stream_without_a_final_batch_is_open_whatever_its_counts_say_so_far() -> None:
    assert judge([batch(0, 0, 10, received=999)]).verdict == "open"


def test_sequences_that_are_missing_are_named_with_their_packets() -> None:
    finding = judge([batch(2, 30, 10), batch(5, 100, 10, received=110, final=1, rejected=60)])

    assert finding.holes == [Hole(0, 2, 30), Hole(3, 2, 60)]
    assert (finding.verdict, finding.faults, finding.dropped) == ("LOST 90", [], {"rejected": 60})


def test_a_hole_in_an_open_stream_is_told_too() -> None:
    assert judge([batch(0, 0, 10), batch(2, 13, 10)]).verdict == "open, LOST 3"


@pytest.mark.parametrize(
    "batches,fault",
    [
        ([batch(0, 0, 10, received=12, kernel_drops=1, final=1)], "12 received, 11 explained: 1 missing"),
        ([batch(0, 0, 10, received=9, final=1)], "9 received, 10 explained: -1 missing"),
        ([batch(0, 0, 10), batch(1, 11, 1)], "batch 1 begins at packet 11, and 10 came before it"),
        ([batch(0, 0, 10), batch(2, 9, 1)], "batch 2 says that fewer packets came before it than are stored"),
        ([batch(0, 0, 0, final=1), batch(1, 0, 0)], "batch 1 came after the final one"),
    ],
)
def test_numbers_that_contradict_each_other_are_not_balanced(batches: list[Batch], fault: str) -> None:
    finding = judge(batches)

    assert (finding.verdict, finding.faults) == ("NOT BALANCED", [fault])


def test_batches_from_before_books_were_sent_are_open_and_their_holes_of_unknown_size() -> None:
    finding = judge([Batch(0, 10, None), Batch(2, 10, None)])

    assert (finding.holes, finding.received, finding.verdict) == ([Hole(1, 1, None)], None, "open, LOST 0")


def run(first: int, last: int, first_packet: int, packets: int, **books: int) -> RemovedRun:
    return RemovedRun(first, last, packets, first_packet, Account(first_packet=first_packet, **books))


def test_what_retention_removed_is_neither_missing_nor_stored() -> None:
    finding = judge([run(0, 4, 0, 50), batch(5, 50, 10, received=60, final=1)])

    assert (finding.verdict, finding.batches, finding.packets, finding.holes) == ("balanced", 1, 10, [])
    assert (finding.removed_batches, finding.removed_packets) == (5, 50)


def test_a_hole_between_what_was_removed_is_missing_still() -> None:
    finding = judge([run(0, 4, 0, 50), run(7, 9, 62, 30, received=92, final=1)])

    assert (finding.verdict, finding.holes, finding.removed_packets) == ("LOST 12", [Hole(5, 2, 12)], 80)


def test_a_stream_that_was_removed_whole_is_balanced_or_not_by_its_last_books() -> None:
    assert judge([run(0, 9, 0, 100, received=100, final=1)]).verdict == "balanced"
    assert judge([run(0, 9, 0, 100, received=101, final=1)]).verdict == "NOT BALANCED"


def test_batches_that_two_stores_have_count_once() -> None:
    finding = judge([batch(0, 0, 10), batch(0, 0, 10), batch(1, 10, 5), run(1, 3, 10, 25, received=35, final=1)])

    assert (finding.verdict, finding.batches, finding.packets) == ("balanced", 2, 15)
    assert (finding.removed_batches, finding.removed_packets, finding.doubles) == (2, 20, 2)


# -- the field --------------------------------------------------------------------------------------------------------


def test_an_account_is_spelled_in_one_way() -> None:
    account = Account(1, 2, 3, 1, 4, 5, 6)

    assert account.text == ("first-packet=1, received=2, kernel-drops=3, final=1, rejected=4, too-large=5, corrupt=6")
    assert Account.parse(account.text) == account


@pytest.mark.parametrize(
    "change",
    [
        ("=2", "=02"),
        ("=2", "=-2"),
        ("=2", "="),
        (", ", ","),
        ("received", "Received"),
        ("final=1", "final=2"),
        (", corrupt=6", ""),
        ("corrupt=6", "corrupt=6, more=1"),
        ("corrupt=6", "corrupt=6 "),
        ("first-packet=1", f"first-packet={2**63}"),
        ("first-packet=1, received=2", "received=2, first-packet=1"),
    ],
)
def test_any_other_spelling_is_malformed(change: tuple[str, str]) -> None:
    text = Account(1, 2, 3, 1, 4, 5, 6).text.replace(*change)

    with pytest.raises(MalformedError):
        Account.parse(text)


# -- sections against the books ---------------------------------------------------------------------------------------


def section(packets: int, received: int, kernel_drops: int) -> bytes:
    memory = bytearray(4096)
    prologue = pcapng.section_header("test") + pcapng.interface_description("eth0", 1, 262_144, "", "Linux")
    made = pcapng.Section.open(memoryview(memory), prologue)
    for n in range(packets):
        assert made.add(n, bytes(60), 60)
    return bytes(memory[: made.close(0, 9, received, kernel_drops)])


def test_a_section_that_says_what_its_batch_says_is_no_contradiction() -> None:
    assert contradictions(batch(3, 0, 10, received=12, kernel_drops=2), section(10, 12, 2)) == []
    assert contradictions(Batch(3, 10, None), section(10, 12, 2)) == []
    assert contradictions(Batch(3, 10, None, Span(0, 9)), section(10, 12, 2)) == []


@pytest.mark.parametrize("span", [Span(1, 9), Span(0, 8)])
def test_packets_of_other_times_than_the_index_says_are_named(span: Span) -> None:
    fault = "batch 3 holds packets of other times than it was sent with"
    assert contradictions(Batch(3, 10, None, span), section(10, 12, 2)) == [fault]


@pytest.mark.parametrize(
    "stored,fault",
    [
        (section(9, 12, 2), "batch 3 holds 9 packets, and was sent as 10"),
        (section(10, 13, 2), "batch 3 says 13 received, 2 dropped inside, and 12 received, 2 dropped beside"),
        (section(10, 12, 1), "batch 3 says 12 received, 1 dropped inside, and 12 received, 2 dropped beside"),
        (section(10, 12, 2)[:-1], "batch 3 cannot be read: block length 76 at offset 1012"),
        (section(10, 12, 2)[: -pcapng.CLOSING_BYTES], "batch 3 has no statistics block"),
    ],
)
def test_a_section_that_says_otherwise_is_named(stored: bytes, fault: str) -> None:
    assert contradictions(batch(3, 0, 10, received=12, kernel_drops=2), stored) == [fault]


# -- the command ------------------------------------------------------------------------------------------------------


def store(root: Path, *batches: Batch, file_bytes: int = 100) -> None:
    """A store whose index has these batches of ten bytes each, in one file."""
    layout = Layout(root)
    (root / "f.pcapng").write_bytes(bytes(file_bytes))
    with closing(Index(layout.index)) as index:
        index.add_file("f.pcapng")
        index.commit(
            Row(BatchId(STREAM, b.sequence), 0, "f.pcapng", 10 * n, 10, b.packets, n, b.books and b.books.text)
            for n, b in enumerate(batches)
        )


def test_a_good_store_ends_with_0_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, batch(0, 0, 10), batch(1, 10, 5, received=15, final=1))

    code = cli.main(["audit", str(tmp_path)])

    out = capsys.readouterr().out.splitlines()
    assert code == 0
    assert out[1].split() == ["sensor-1", "eth0", "01234567", "2", "0", "15", "15", "0", "balanced"]
    assert out[2:] == ["1 streams, 0 with something missing"]


def test_a_store_with_a_hole_ends_with_1_and_programs_can_read_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, batch(0, 0, 10), batch(3, 25, 5, received=30, final=1))

    code = cli.main(["audit", str(tmp_path), "--json"])

    (audited,) = json.loads(capsys.readouterr().out)
    assert code == 1
    assert (audited["verdict"], audited["lost"]) == ("LOST 15", 15)
    assert audited["finding"]["holes"] == [{"first": 1, "count": 2, "packets": 15}]


@pytest.mark.parametrize("more", ["", "--json"])
def test_the_verdict_is_the_exit_code_also_when_nobody_reads_on(tmp_path: Path, more: str) -> None:
    store(tmp_path, batch(0, 0, 10), *(batch(n, 25, 5) for n in range(3, 4000, 2)))
    argv = f"exec 3> >(:); wait $!; {sys.executable} -m ossensor audit {tmp_path} {more} >&3"
    done = subprocess.run(["bash", "-c", argv], capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (1, b"")


def test_a_file_that_is_shorter_than_its_batches_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, batch(0, 0, 10), batch(1, 10, 5, received=15, final=1), file_bytes=19)

    code = cli.main(["audit", str(tmp_path)])

    assert code == 1
    assert "    f.pcapng has 19 bytes, and batches up to 20" in capsys.readouterr().out.splitlines()


def test_a_store_is_audited_by_who_may_not_write_to_it_and_is_as_it_was(tmp_path: Path) -> None:
    """As on a read-only file system, or in the store of another user, whose vSensor is not running."""
    store(tmp_path, batch(0, 0, 10, received=10, kernel_drops=0, final=1))
    before = sorted(path.name for path in tmp_path.iterdir())
    tmp_path.chmod(0o555)
    # To root, modes say nothing, unless without this.
    bounded = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [
            *bounded,
            sys.executable,
            "-c",
            "import sys; from ossensor import cli; sys.exit(cli.main())",
            "audit",
            str(tmp_path),
        ],
        capture_output=True,
        check=False,
        text=True,
    )
    after = sorted(path.name for path in tmp_path.iterdir())
    tmp_path.chmod(0o755)

    assert (done.returncode, done.stderr, after) == (0, "", before)
    assert done.stdout.endswith("1 streams, 0 with something missing\n")


def test_a_folder_that_is_no_store_is_a_wrong_setting(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["audit", str(tmp_path)])

    assert code == 78
    assert capsys.readouterr().err.startswith(f"ossensor: {tmp_path}/index.sqlite: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", [1, 2])
def test_a_store_of_an_older_layout_is_audited_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], layout: int
) -> None:
    (tmp_path / "f.pcapng").write_bytes(bytes(20))
    books = [Account(), Account(first_packet=10, received=15, final=1)]
    old_index.make(tmp_path / "index.sqlite", layout, STREAM, [(10, books[0].text), (5, books[1].text)])

    code = cli.main(["audit", str(tmp_path)])

    verdict = ["15", "0", "balanced"] if layout == 2 else ["-", "-", "open"]  # layout 1 knew no books
    line = capsys.readouterr().out.splitlines()[1]
    assert (code, line.split()) == (0, ["sensor-1", "eth0", "01234567", "2", "0", "15", *verdict])


def test_batches_that_came_again_are_told_of_each_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, batch(0, 0, 10), batch(1, 10, 5, received=15, final=1))
    with closing(Index(tmp_path / "index.sqlite")) as index:
        for sequences in ([0, 1], [1], [1]):
            index.count_repeats(BatchId(STREAM, sequence) for sequence in sequences)

    code = cli.main(["audit", str(tmp_path)])
    line = capsys.readouterr().out.splitlines()[1]
    cli.main(["audit", str(tmp_path), "--json"])
    (audited,) = json.loads(capsys.readouterr().out)

    assert (code, line.split()[3:5], audited["finding"]["repeats"]) == (0, ["2", "4"], 4)


def test_an_index_of_a_later_program_is_refused_by_its_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
        db.execute("PRAGMA user_version = 9")

    code = cli.main(["audit", str(tmp_path)])

    assert code == 78
    assert capsys.readouterr().err == f"ossensor: {tmp_path}/index.sqlite has layout 9; this program knows 3\n"


def test_several_stores_are_audited_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sensor went from one vSensor to the other, and back; one acknowledgement was lost on the way."""
    one, other = tmp_path / "one", tmp_path / "other"
    batches = [batch(n, 10 * n, 10, received=50, final=n // 4) for n in range(5)]
    for root, sequences in ((one, (0, 1, 4)), (other, (1, 2, 3))):
        root.mkdir()
        store(root, *(batches[n] for n in sequences))

    alone = cli.main(["audit", str(one)])
    lines = capsys.readouterr().out.splitlines()
    together = cli.main(["audit", str(one), str(other)])
    both = capsys.readouterr().out.splitlines()

    assert (alone, lines[1].split()[-2:]) == (1, ["LOST", "20"])
    assert (together, both[1].split()) == (0, ["sensor-1", "eth0", "01234567", "5", "0", "50", "50", "0", "balanced"])
    assert both[2:] == ["    1 batches are in more than one of the stores", "1 streams, 0 with something missing"]


def test_every_store_that_is_none_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, batch(0, 0, 10))

    code = cli.main(["audit", str(tmp_path / "x"), str(tmp_path), str(tmp_path / "y")])

    assert code == 78
    assert [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()] == [
        f"{tmp_path}/x/index.sqlite",
        f"{tmp_path}/y/index.sqlite",
    ]


def test_files_that_no_index_names_are_told_and_are_no_fault(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store(tmp_path, batch(0, 0, 10))
    with closing(Index(tmp_path / "index.sqlite")) as index:
        index.add_file("a/eth0/known.pcapng")
    (tmp_path / "a" / "eth0").mkdir(parents=True)
    (tmp_path / "tls").mkdir()
    for name in ("known.pcapng", "known.pcapng.zst.part", "stray.pcapng", "stray.pcapng.zst", "notes.txt"):
        (tmp_path / "a" / "eth0" / name).touch()
    (tmp_path / "tls" / "cert.pem").touch()

    code = cli.main(["audit", str(tmp_path)])

    assert code == 0
    assert capsys.readouterr().err.splitlines() == [
        f"ossensor: {tmp_path}/a/eth0/stray.pcapng: no index names this file",
        f"ossensor: {tmp_path}/a/eth0/stray.pcapng.zst: no index names this file",
    ]


def test_a_file_that_somebody_took_away_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store(tmp_path, batch(0, 0, 10), batch(1, 10, 5, received=15, final=1))
    (tmp_path / "f.pcapng").unlink()

    code = cli.main(["audit", str(tmp_path)])

    assert code == 1
    assert "    f.pcapng is not there, and had batches up to 20" in capsys.readouterr().out.splitlines()


def test_what_takes_long_says_on_a_terminal_how_far_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store(tmp_path, batch(0, 0, 10), batch(1, 10, 5, received=15, final=1))
    monkeypatch.setattr(progress, "PERIOD_S", -1.0)

    cli.main(["audit", str(tmp_path), "--deep"])
    assert "\r" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    cli.main(["audit", str(tmp_path), "--deep"])

    told = [line.removesuffix("\x1b[K") for line in capsys.readouterr().err.split("\r")]
    looked = ["1 batches looked at", "2 batches looked at"]
    assert told == ["", *looked, *["2 batches looked at, 0 MB read"] * 2, ""]
