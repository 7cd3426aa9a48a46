"""Standard output, whose reader nobody waits for: every line is read, or counted where it would have been."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from test_vsensor_kit import Signer, Wire, fresh, rows
from test_vsensor_kit_process import Process

from ossensor.transport.protocol import Outcome, introduction_path
from ossensor.vsensor.outlet import Outlet

LINE = "x" * 1000


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        with contextlib.suppress(OSError):
            os.close(fd)


def told(fd: int) -> tuple[list[tuple[int, int]], int]:
    """Each line's number with how many were left out before it, up to the one that says `end`; left out before that."""
    lines: list[tuple[int, int]] = []
    left_out = 0
    with os.fdopen(os.dup(fd)) as file:
        for line in file:
            event = json.loads(line)
            if event["event"] == "end":
                break
            if event["event"] == "left_out":
                left_out += event["lines"]
            else:
                lines.append((event["number"], left_out))
                left_out = 0
    return lines, left_out


@pytest.mark.parametrize("is_begun", [False, True])
def test_lines_that_nobody_reads_are_left_out_and_counted_and_nobody_waits(
    pipe: tuple[int, int], *, is_begun: bool
) -> None:
    outlet = Outlet(as_json=True, lines_max=10, fd=pipe[1])
    with outlet.begun() if is_begun else contextlib.nullcontext():
        for number in range(500):  # 64 KiB go into the pipe
            outlet.write(json.dumps({"event": "line", "number": number, "padding": LINE}))
        found: list[tuple[list[tuple[int, int]], int]] = []
        reader = threading.Thread(target=lambda: found.append(told(pipe[0])))
        reader.start()
        while reader.is_alive():  # until one fits
            outlet.write(json.dumps({"event": "end"}))
            reader.join(0.01)

    lines, left_out_last = found[0]
    expected = 0
    for number, left_out in lines:  # one may fit behind a gap: the thread takes lines whenever it gets its turn
        assert number == expected + left_out
        expected = number + 1
    assert 0 < len(lines) < 500
    assert expected + left_out_last >= 500  # of `end`, too, some may be left out


def test_a_reader_that_has_gone_is_nobodys_trouble(pipe: tuple[int, int]) -> None:
    os.close(pipe[0])
    outlet = Outlet(fd=pipe[1])
    outlet.write("nobody")
    with outlet.begun():
        outlet.write("nobody")


class Unread(Process):
    """Whoever started the vSensor reads what it says until it serves, and then stands still until it is to end."""

    def __init__(self, root: Path) -> None:
        self.goes_on = threading.Event()
        super().__init__(root)

    def _take(self, line: bytes) -> None:
        super()._take(line)
        if self.all("serving"):
            self.goes_on.wait()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.goes_on.set()
        return super().stop(number)


def test_a_vsensor_whose_lines_nobody_reads_stores_and_answers_and_says_them_later(tmp_path: Path) -> None:
    with Unread(tmp_path) as vsensor:
        address = vsensor.wait_for("listening")["address"]
        vsensor.wait_for("serving")
        wire, signer = Wire(int(address.rpartition(":")[2]), tmp_path / "tls" / "cert.pem"), Signer(address)
        names = [f"sensor-{number}" for number in range(30)]
        told = json.dumps({"task": {f"label-{number}": "x" * 500 for number in range(24)}}).encode()
        # Each is a line of 12 KiB, and the pipe takes 64.
        outcomes = [
            fresh(wire.send, partial(signer.registration, told, target=introduction_path(name))).outcome
            for name in names
        ]
        outcomes.append(fresh(wire.send, signer.message).outcome)
        wire.close()
        assert outcomes == [Outcome.REGISTERED] * 30 + [Outcome.STORED]
        vsensor.goes_on.set()
        vsensor.wait_for("introduced", 30)

    assert [event["sensor"] for event in vsensor.all("introduced")] == names
    assert len(rows(tmp_path)) == 1
