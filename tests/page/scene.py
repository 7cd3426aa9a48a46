"""Who meets in the tests of the page: a vSensor, a browser, a person who logs in, and sensors that are acted."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from browser import Browser, Page
from test_vsensor_kit import Message, Signer, Wire, fresh, payload
from test_vsensor_kit_process import Process

from ossensor import pcapng
from ossensor.antigena.token import Token
from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Report
from ossensor.transport.protocol import FIELD_BOOKS, Account, Outcome, Stream, introduction_path

TOKEN: Final = Token(b"operator-token-of-forty-characters-00000")
VIEWER: Final = Token(b"viewer-token-of-forty-characters-0000000")


def token_file(folder: Path, token: Token) -> str:
    file = folder / f"token-{token.id}"
    file.touch(0o600)
    file.write_bytes(token.secret)
    return str(file)


class Site:
    """A vSensor, and the browser that its page is opened in."""

    def __init__(self, process: Process, browser: Browser) -> None:
        listening = process.wait_for("listening")
        self.process = process
        self.browser = browser
        self.address: str = listening["address"]
        self.certificate = Path(listening["certificate"])
        self.url = f"https://{self.address}/"

    def actor(self, name: str, **introduction: Any) -> Actor:
        return Actor(self, name, **introduction)


def log_in(page: Page, token: Token = TOKEN) -> None:
    page.wait("!document.querySelector('#login').hidden")
    page.write("#token", token.secret.decode())
    page.key("Enter")
    page.wait("!document.querySelector('#live').hidden && document.querySelector('#link').dataset.state === 'live'")


def captured(packets: int, size: int) -> bytes:
    """A section of so many packets, of this moment."""
    view = memoryview(bytearray(4096 + packets * (size + 64)))
    prologue = pcapng.section_header("page") + pcapng.interface_description("eth0", 1, 262144, "", "test")
    section = pcapng.Section.open(view, prologue)
    now_ns = time.time_ns()
    for number in range(packets):
        assert section.add(now_ns, payload(number % 100, size), size)
    return bytes(view[: section.close(now_ns, now_ns, packets, 0)])


class Actor:
    """A sensor, as far as the vSensor can tell: signs what the test has it say."""

    def __init__(self, site: Site, name: str, **introduction: Any) -> None:
        self.name = name
        self._signer = Signer(site.address, run=f"{time.time_ns():032x}")
        self._wire = Wire(int(site.address.rpartition(":")[2]), site.certificate)
        self._stream = Stream(name, f"{time.time_ns():032x}", "eth0")
        self._sequence = 0
        self._packets = 0
        self._dropped = 0
        said = {"application": "ossensor/0.1.0", "host": f"ip-{name}", "interfaces": ("eth0",), "interfaces_in_all": 1}
        self._introduction = Introduction(**{**said, **introduction})

    def introduce(self) -> None:
        body, target = self._introduction.body, introduction_path(self.name)
        self._say(partial(self._signer.registration, body, target=target), Outcome.REGISTERED)

    def send(self, packets: int = 10, *, size: int = 200, dropped: int = 0, missing: int | None = None) -> None:
        """One batch, just captured.

        `dropped`: what the kernel has dropped since the one before. `missing`: it is the last, and the books have so
        many packets that never came.
        """
        self._dropped += dropped
        before, self._packets = self._packets, self._packets + packets
        received = self._packets + self._dropped + (missing or 0)
        books = Account(before, received, self._dropped, final=int(missing is not None))
        message = partial(
            self._signer.message,
            self._sequence,
            captured(packets, size),
            packets=str(packets),
            stream=self._stream,
            fields={FIELD_BOOKS: books.text},
        )
        self._say(message, Outcome.STORED)
        self._sequence += 1

    def report(self, book: str = "", version: int = 0, **members: Any) -> dict[str, Any]:
        """What it is ordered."""
        message = partial(self._signer.report, Report("enforce", book, version, **members), sensor=self.name)
        orders: dict[str, Any] = json.loads(self._say(message, Outcome.REGISTERED))
        return orders

    def _say(self, signed: Callable[..., Message], expected: Outcome) -> bytes:
        answer = fresh(self._wire.send, signed)
        assert answer.outcome is expected
        return answer.body

    def close(self) -> None:
        self._wire.close()
