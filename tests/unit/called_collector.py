"""The collector without sockets, TLS and HTTP parser, and requests signed by hand: thousands of either in a second.

What is tried here is the collector itself, by the interface that uvicorn calls it by. That the bytes of a connection
become these calls, and these replies bytes, is tried with a server on loopback (test_vsensor_refusals.py).
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import re
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from test_vsensor_kit import KEY, NOW_S, Clock, Message

from ossensor.transport.signing import Key
from ossensor.vsensor.collector import Collector
from ossensor.vsensor.connection import EXTENSION
from ossensor.vsensor.index import Index
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.store import Store
from ossensor.vsensor.verify import Head


@dataclass(frozen=True)
class Said:
    """All of a reply that a peer could tell from another, and what would become its bytes."""

    status: int
    fields: tuple[tuple[bytes, bytes], ...]
    body: bytes


BARE_401 = Said(401, ((b"content-length", b"0"),), b"")


def head_of(message: Message) -> Head:
    path, _, query = message.target.partition("?")
    return Head(message.method, path, query, tuple((n.lower(), v) for n, v in message.fields))


class Whole:
    """The source of a body that is all there (body.Source)."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def fill(self, view: memoryview, took: Callable[[int], None]) -> asyncio.Future[bool]:
        piece, self._body = self._body[: len(view)], self._body[len(view) :]
        view[: len(piece)] = piece
        took(len(piece))
        done = asyncio.get_running_loop().create_future()
        done.set_result(len(piece) == len(view))
        return done

    def stop(self) -> None:
        pass


class Called:
    """A collector that has been running for an hour."""

    def __init__(self, root: Path, runner: asyncio.Runner) -> None:
        root.mkdir(exist_ok=True)
        layout = Layout(root)
        self.store, self.index = Store(layout, durable=False), Index(layout.index, durable=False)
        self.clock = Clock(NOW_S - 3600)
        self.collector = Collector({KEY.id: KEY}, self.store, self.index, self.clock, "0" * 64)
        self.clock.now_s = NOW_S
        self._runner = runner

    def ask(self, message: Message) -> Said:
        return self._runner.run(self._ask(message))

    async def _ask(self, message: Message) -> Said:
        head = head_of(message)
        scope = {
            "type": "http", "http_version": "1.1", "method": head.method, "path": head.path, "root_path": "",
            "raw_path": head.path.encode("latin-1"), "query_string": head.query.encode("latin-1"),
            "headers": [(n.encode("latin-1"), v.encode("latin-1")) for n, v in head.fields],
            "extensions": {EXTENSION: Whole(message.body)},
        }  # fmt: skip
        said: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            raise AssertionError("bodies are not read this way")

        async def send(event: MutableMapping[str, Any]) -> None:
            said.append(event)

        await self.collector.app(scope, receive, send)
        start, *rest = said
        return Said(start["status"], tuple(start["headers"]), b"".join(event["body"] for event in rest))


@contextmanager
def called(root: Path) -> Iterator[Called]:
    with asyncio.Runner() as runner:
        made = Called(root, runner)
        made.store.start()
        try:
            yield made
        finally:
            made.store.close()
            made.index.close()


def signed_by_hand(message: Message, key: Key, *, key_id: str, nonce: str, target: str | None = None) -> Message:
    """The message for this nonce and target, signed under `key` in the name of `key_id`, as RFC 9421 section 2.5 says.

    With the standard library, because the signature library takes a third of a millisecond for each.
    """
    inner = message.get("signature-input").removeprefix("ossensor=")
    inner = re.sub(r'keyid="[^"]*"', f'keyid="{key_id}"', re.sub(r'nonce="[^"]*"', f'nonce="{nonce}"', inner))
    made = Message(message.method, target or message.target, list(message.fields), message.body, message.signed)
    derived = {"@method": made.method, "@authority": made.get("host"), "@path": made.target, "@query": "?"}
    values = {**{n.lower(): v for n, v in made.fields}, **derived}
    lines = [f'"{c}": {values[c]}' for c in re.findall(r'"([^"]+)"', inner.partition(")")[0])]
    base = "\n".join([*lines, f'"@signature-params": {inner}'])
    mac = base64.b64encode(hmac.digest(key.secret, base.encode(), "sha256")).decode()
    return made.set("Signature-Input", f"ossensor={inner}").set("Signature", f"ossensor=:{mac}:")
