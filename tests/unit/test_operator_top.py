"""`ossensor top`: what it shows of a snapshot, and how it follows a real vSensor, in a terminal and in a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from test_operator_process import Site
from test_vsensor_kit import Running
from test_vsensor_kit_process import Process
from test_vsensor_lookout import say_everything
from test_vsensor_operator import TOKEN

from ossensor.cli import main
from ossensor.operator import board
from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Report
from ossensor.transport.protocol import Account, BatchId, Stream
from ossensor.vsensor.live import SILENT_AFTER_S, Live
from ossensor.vsensor.section import Span

START_S = 1_795_000_000.0


class Scene:
    """A live state with what it takes for every column."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.live = Live(lambda: self.now_s)

    def store(self, sensor: str, interface: str, packets: int, **books: int) -> None:
        newest_ns = int((self.now_s - 0.5) * 1e9)
        batch = BatchId(Stream(sensor, "0" * 32, interface), 0)
        self.live.stored(batch, packets, packets * 10_000, Account(**books), Span(newest_ns, newest_ns))


def test_the_busiest_interface_comes_first_with_all_that_is_known_of_it() -> None:
    scene = Scene()
    scene.live.introduced("quiet", Introduction("ossensor/0.1.0", "ip-10-0-1-9"))
    scene.now_s += SILENT_AFTER_S + 1
    scene.live.introduced("web-1", Introduction("ossensor/0.1.0", "ip-10-0-1-7", {"family": "web"}))
    scene.live.reported("web-1", Report("observe"))
    scene.store("web-1", "eth0", 500)
    scene.store("web-1", "eth1", 50_000, received=50_007, kernel_drops=7, rejected=3, corrupt=1, final=1)
    scene.now_s += 2

    head, blank, *table = board.lines(scene.live.snapshot())
    cells = [re.split("  +", line) for line in table]
    assert (head, blank) == ("10,100 packets/s, 101.0 MB/s; sensors: 2, silent: 1; counted for 3 min 3 s", "")
    assert cells[0] == list(board._HEAD)
    web = ["web-1", "web"]
    assert cells[1:] == [
        [*web, "eth1", "10,000", "100.0", "50,000", "7", "4", "0", "0", "0.5 s", "2 s", "observe", "balanced"],
        [*web, "eth0", "100", "1.0", "500", "0", "0", "0", "0", "0.5 s", "2 s", "observe", "open"],
        ["quiet", "ip-10-0-1-9", *["-"] * 9, "SILENT 3 min 3 s", "off", "-"],
    ]


def test_of_more_than_the_screen_holds_the_busiest_are_shown_and_the_rest_counted() -> None:
    scene = Scene()
    for n in range(10):
        scene.store(f"s{n}", "eth0", n + 1)
    scene.now_s += 1
    shown = board.lines(scene.live.snapshot(), width=20, height=8)

    assert [line[:2] for line in shown[3:]] == ["s9", "s8", "s7", "s6", "an"]
    assert shown[-1] == "and 6 more"
    assert max(map(len, shown)) == 20


def test_what_a_sensor_calls_itself_does_not_reach_the_terminal_as_an_order() -> None:
    scene = Scene()
    snapshot = scene.live.snapshot()
    scene.live.introduced("s", Introduction("a", "h"))
    snapshot = scene.live.snapshot()
    snapshot["sensors"]["s"]["host"] = "\x1b[2J\r\n"

    assert "\\x1b[2J\\r\\n" in board.lines(snapshot)[3]


@pytest.mark.parametrize("snapshot", [{}, {"time_s": 1, "sensors": 3}, {"time_s": 1, "sensors": {"s": {}}}])
def test_what_is_no_snapshot_is_not_shown(snapshot: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        board.lines(snapshot)


# -- the command ------------------------------------------------------------------------------------------------------


def options(url: str, token: Path, ca: Path) -> list[str]:
    return ["top", "--url", url, "--token-file", str(token), "--ca-file", str(ca)]


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.touch(0o600)
    path.write_bytes(TOKEN.secret)
    return path


def test_once_is_a_table_for_people_and_an_object_for_programs(
    tmp_path: Path, token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Running(tmp_path / "store", operator_token=TOKEN) as server:
        say_everything(server)
        words = options(f"https://{server.authority}", token, server.pair.certificate)
        assert main([*words, "--once"]) == 0
        table = capsys.readouterr().out.splitlines()
        assert main([*words, "--once", "--json"]) == 0
        snapshot = json.loads(capsys.readouterr().out)

    assert table == [*board.lines(snapshot), ""]
    assert list(snapshot["sensors"]) == ["sensor-1"]


def test_wrong_tokens_doors_that_are_not_and_nobody_there_are_told_apart(
    tmp_path: Path, token: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    other.touch(0o600)
    other.write_text("x" * 40)
    with Running(tmp_path / "store", operator_token=TOKEN) as server:
        url, ca = f"https://{server.authority}", server.pair.certificate
        said = [(main(options(url, other, ca)), capsys.readouterr().err)]
    said.append((main(options(url, token, ca)), capsys.readouterr().err))
    with Running(tmp_path / "closed") as server:
        ca = server.pair.certificate
        said.append((main(options(f"https://{server.authority}", token, ca)), capsys.readouterr().err))

    assert said == [
        (78, "top: --token-file: the vSensor does not take this token\n"),
        (75, f"top: {url}: Connection refused\n"),
        (78, "top: --url: no operator is let in there (ossensor vsensor --operator-token-file)\n"),
    ]


def test_everything_that_is_missing_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["top"]) == 78
    assert capsys.readouterr().err == "top: --token-file: not given\ntop: --url: not given\n"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


def typed(site: Site, *words: str) -> list[str]:
    common = options(f"https://{site.listen}", site.token, site.root / "tls" / "cert.pem")
    # Ctrl-C reaches it even where these tests run in a shell's background, which has it ignored.
    return ["env", "--default-signal=INT", sys.executable, "-m", "ossensor", *common, *words]


def test_it_goes_on_after_the_vsensor_was_killed_and_started_anew(site: Site) -> None:
    with site.vsensor() as process:
        site.say(Report("off"))
        top = subprocess.Popen(typed(site, "--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert top.stdout is not None
        assert top.stderr is not None
        first = json.loads(top.stdout.readline())
        os.kill(process.wait_for("serving")["pid"], signal.SIGKILL)
        later = next(s for s in map(json.loads, top.stdout) if not s["sensors"])
        top.send_signal(signal.SIGINT)
        top.stdout.read()
        errors = top.stderr.read().splitlines()
        code = top.wait(timeout=120)
        top.stdout.close()
        top.stderr.close()

    assert (code, list(first["sensors"])) == (0, ["web-1"])
    assert later["since_s"] >= first["since_s"]
    assert [error.endswith("; trying again") for error in errors] == [True] * len(errors) != []


def test_the_token_that_may_only_look_is_enough_and_a_stop_does_not_wait_for_who_reads(site: Site) -> None:
    viewer = site.root.parent / "viewer"
    viewer.touch(0o600)
    viewer.write_text("v" * 40)
    tokens = ("--operator-token-file", str(site.token), "--viewer-token-file", str(viewer))
    with Process(site.root, *tokens) as process:
        site.listen, site.token = process.wait_for("listening")["address"], viewer
        top = subprocess.Popen(typed(site, "--json"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert top.stdout is not None
        assert json.loads(top.stdout.readline())["sensors"] == {}
        assert (site.type("list")[0], site.type("clear", "a")[0]) == (0, 78)
        assert process.stop() == 0
        assert process.stderr == b""
        top.send_signal(signal.SIGINT)
        top.stdout.read()
        assert top.wait(timeout=120) == 0
        top.stdout.close()


def test_a_reader_that_has_enough_ends_it(site: Site) -> None:
    with site.vsensor():
        command = " ".join(typed(site))
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", f"{command} | head -1"],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("0 packets/s, 0.0 MB/s; sensors: 0, silent: 0;")


def test_in_a_terminal_each_snapshot_is_drawn_over_the_one_before_and_fits(site: Site) -> None:
    with site.vsensor():
        site.say(Report("off"))
        ours, theirs = pty.openpty()
        with closing(os.fdopen(ours, "rb", buffering=0)) as screen:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 40, 0, 0))
            top = subprocess.Popen(typed(site), stdin=theirs, stdout=theirs, stderr=theirs)
            os.close(theirs)
            drawn = b""
            while drawn.count(b"\x1b[J") < 2:
                drawn += screen.read(4096)
            top.send_signal(signal.SIGINT)
            with suppress(OSError):  # EIO: nobody has the other end any more
                while screen.read(4096):
                    pass
            assert top.wait(timeout=120) == 0
    frames = drawn.decode().split("\x1b[H")[1:]
    lines = [line.removesuffix("\x1b[K") for line in frames[0].split("\r\n")]

    assert lines[0] == "0 packets/s, 0.0 MB/s; sensors: 1, silen"
    assert lines[3].startswith("web-1")
    assert max(len(line.removesuffix("\x1b[J")) for line in lines) <= 40
    assert len(lines) <= 6
