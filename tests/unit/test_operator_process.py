"""`ossensor vsensor` and `ossensor antigena` as they are run, and kill -9 of the former between order and report."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Self

import pytest
import requests
from held_port import held_port
from test_vsensor_kit import KEY, PATIENCE_S, RUN, Answer, Message, Signer, answer_of, fresh
from test_vsensor_kit_process import Process

from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import Outcome, introduction_path

TOKEN = "operator-token-of-forty-characters-00000"


class Site:
    """A store, a token, and a vSensor that may be killed; its port stays the same."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "store"
        self.token = tmp_path / "token"
        self.token.touch(0o600)
        self.token.write_text(TOKEN + "\n")
        self.port = held_port()
        self.listen = f"127.0.0.1:{self.port.getsockname()[1]}"
        self.runs = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.port.close()

    def vsensor(self) -> Process:
        process = Process(self.root, "--operator-token-file", str(self.token), listen=self.listen)
        process.wait_for("listening")
        return process

    def type(self, *words: str) -> tuple[int, Any]:
        """The exit code and the answer of a command in a process of its own."""
        common = ("--url", f"https://{self.listen}", "--ca-file", str(self.root / "tls" / "cert.pem"), "--json")
        command = [sys.executable, "-m", "ossensor", "antigena", *words, *common, "--token-file", str(self.token)]
        done = subprocess.run(command, capture_output=True, check=False, text=True, timeout=120)
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr

    def say(self, report: Report | None = None, family: str = "") -> Orders:
        """What the sensor is ordered in reply to a report, or to its introduction: nothing."""
        signer = Signer(self.listen, run=f"{self.runs:x}{RUN[1:]}")
        self.runs += 1
        with closing(requests.Session()) as session:
            session.trust_env = False
            session.verify = str(self.root / "tls" / "cert.pem")

            def send(message: Message) -> Answer:
                headers = {n: v for n, v in message.fields if n not in {"Host", "Content-Length"}}
                url = f"https://{self.listen}{message.target}"
                response = session.post(url, data=message.body, headers=headers, timeout=PATIENCE_S)
                return answer_of(message, response.status_code, response.headers, response.content)

            if report is not None:
                answer = fresh(send, partial(signer.report, report, sensor="web-1"))
            else:
                body = Introduction("ossensor/0.1.0", "host", {"family": family}).body
                answer = fresh(send, partial(signer.registration, body, target=introduction_path("web-1")))
        assert answer.outcome is Outcome.REGISTERED
        return Orders.parse(answer.body) if report is not None else Orders()

    def trail(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.root / "antigena-audit.jsonl").read_text().splitlines()]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as made:
        yield made


QUARANTINE = ("quarantine", "--device", "192.0.2.9", "--family", "web", "--duration", "600", "--id", "q1")


@pytest.mark.parametrize("whole", [True, False], ids=["the vSensor", "its serving process"])
def test_an_order_is_still_there_after_kill_9_of(site: Site, *, whole: bool) -> None:
    with site.vsensor() as process:
        code, placed = site.type(*QUARANTINE)
        assert code == 0
        site.say(family="web")
        if whole:
            process.stop(signal.SIGKILL)
        else:
            os.kill(process.wait_for("serving")["pid"], signal.SIGKILL)
            process.wait_for("serving", 2)
    with site.vsensor() as process:
        # No introduction: that the sensor is of the family was remembered, too.
        orders = site.say(Report("enforce"))
        report = Report("enforce", orders.book, orders.version, {"q1": {"matched": 1, "closed": 1}})
        assert site.say(report) == orders
        code, listed = site.type("list")
        assert site.type("clear", "q1")[0] == 0
        after = site.say(report)

    assert [dict(action) for action in orders.actions] == [placed["action"]]
    assert (code, listed["orders"][0]["sensors"]) == (
        0,
        {"web-1": {"counts": {"matched": 1, "closed": 1}, "refused": ""}},
    )
    assert (after.book, after.version, after.actions) == (orders.book, orders.version + 1, ())
    assert [line["event"] for line in site.trail()] == ["order", "report", "report", "clear"]
    assert {line["peer"] for line in site.trail() if "token" in line} == {"127.0.0.1"}
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in site.root.glob("antigena*")}
    assert modes == {"antigena.sqlite": 0o600, "antigena-audit.jsonl": 0o600}


def test_what_the_vsensor_prints_and_what_it_keeps_show_neither_token_nor_key(site: Site) -> None:
    with site.vsensor() as process:
        site.type(*QUARANTINE)
        arguments = Path(f"/proc/{process.process.pid}/cmdline").read_bytes()
        site.token.write_text("another" + TOKEN)
        assert site.type("list")[0] == 78
        process.wait_for("unauthorised")
    written = b"".join(p.read_bytes() for p in site.root.rglob("*") if p.is_file() and p.name != "key.pem")
    said = json.dumps(process.events).encode() + process.stderr + arguments + written

    assert [TOKEN.encode() in said, KEY.secret in said, KEY.secret.hex().encode() in said] == [False] * 3
    assert process.all("order")[0]["peer"] == "127.0.0.1"


def test_a_torn_line_of_the_trail_stays_and_the_next_stands_alone(site: Site) -> None:
    site.root.mkdir()
    (site.root / "antigena-audit.jsonl").write_text('{"event": "ord')
    with site.vsensor():
        assert site.type(*QUARANTINE)[0] == 0

    torn, line = (site.root / "antigena-audit.jsonl").read_text().splitlines()
    assert (torn, json.loads(line)["event"]) == ('{"event": "ord', "order")
