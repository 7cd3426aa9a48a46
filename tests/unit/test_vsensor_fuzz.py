"""Requests that were changed at random, to the sensors' paths and to the operator's.

None is answered with a 5xx, nothing is stored but bodies that were signed, and nobody without a token is told anything.
`OSSENSOR_FUZZ_REQUESTS=100000` is what `make fuzz` takes, from another seed each time; here it is always the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
from collections import Counter
from collections.abc import MutableMapping
from functools import partial
from pathlib import Path
from typing import Any

from called_collector import Called, Whole, called
from test_vsensor_kit import NOW_S, Message, Running, Signer, payload, section, stored
from test_vsensor_lookout import WHO
from test_vsensor_operator import BLOCK, TOKEN

from ossensor.transport.orders import Report
from ossensor.transport.protocol import MAX_SEQUENCE, TAG_ORDER, Outcome, antigena_path, introduction_path
from ossensor.transport.signing import Request
from ossensor.vsensor import glimpse
from ossensor.vsensor.antigena import Antigena
from ossensor.vsensor.bookfile import BookFile
from ossensor.vsensor.connection import EXTENSION
from ossensor.vsensor.entrance import Entrance
from ossensor.vsensor.events import Events
from ossensor.vsensor.lookout import Lookout
from ossensor.vsensor.operator import PATH, OperatorDoor
from ossensor.vsensor.trail import Trail

REQUESTS = int(os.environ.get("OSSENSOR_FUZZ_REQUESTS", "2000"))
LONG = "OSSENSOR_FUZZ_REQUESTS" in os.environ
SEED = int(os.environ.get("OSSENSOR_SEED", random.randrange(2**32) if LONG else 1))
AUTHORITY = "vsensor.test:8443"
OPERATOR_TARGETS = ("/v1/sensors", "/v1/sensors/sensor-1", "/metrics", "/openapi.json", "/healthz", PATH)
LEAVES: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 2**63, 10**400, float("inf"), "", "a", "\x00", "é", "\ud800", "A" * 600, [], {}),
    *({"network": "10.0.0.1"}, {"network": "::/0", "port": 70000}, "enforce", "tcp", NOW_S, "0" * 32, NOW_S + 60),
)
CHARACTERS = "".join(map(chr, range(256)))


def changed_text(rng: random.Random, text: str) -> str:
    at, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
    new = "".join(rng.choices(CHARACTERS, k=rng.randrange(4)))
    return rng.choice((text[:at] + new + text[at:], text[:at] + text[end:], text[:at] + new + text[at + 1 :], text * 2))


def changed_json(rng: random.Random, value: Any) -> Any:
    """The same with one member, at any depth, that is something else, gone, or new."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        rest = {n: v for n, v in value.items() if n != name}
        return rng.choice(
            ({**value, name: changed_json(rng, value[name])}, rest, {**value, rng.choice("xyzé"): rng.choice(LEAVES)})
        )
    return rng.choice((*LEAVES, [value], {"a": value}))


class Maker:
    """Makes requests, and remembers which bodies were signed as the batch that they are."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.signer = Signer(AUTHORITY)
        self.sequence = 0
        self.signed: list[bytes] = []

    def message(self) -> Message:
        rng = self.rng
        kind = rng.randrange(6)
        made = self.signed_one(kind) if kind < 4 else self.operators()
        for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
            self.change(made)
        return made

    def signed_one(self, kind: int) -> Message:
        """Of a key's holder; of the JSON that it signs, some means nothing."""
        rng, signer = self.rng, self.signer
        match kind:
            case 0:
                body = section([payload(self.sequence)])
                self.signed.append(body)
                made = signer.message(
                    self.sequence, body, floor=str(rng.choice((0, *[self.sequence] * 5, MAX_SEQUENCE)))
                )
                self.sequence += 1
                return made
            case 1:
                return signer.registration(self.json({"protocol": 1}))
            case 2:
                return signer.registration(self.json(json.loads(WHO.body)), target=introduction_path("sensor-1"))
        report = self.json(json.loads(Report("enforce").body))
        return signer.registration(report, tag=TAG_ORDER, target=antigena_path("sensor-1"))

    def json(self, value: Any) -> bytes:
        if self.rng.random() < 0.5:
            value = changed_json(self.rng, value)
        return json.dumps(value).encode()

    def operators(self) -> Message:
        rng = self.rng
        fields = [("Host", AUTHORITY), ("Authorization", TOKEN.header)]
        order = {"target": {"sensor": "sensor-1"}, "duration_s": 60, "action": {**BLOCK, "id": f"n{rng.randrange(50)}"}}
        body, method, target = b"", "GET", rng.choice(OPERATOR_TARGETS)
        if rng.random() < 0.6:
            name = f"{PATH}/n{rng.randrange(50)}"
            method, target = rng.choice((("POST", PATH), ("POST", f"{name}/extend"), ("DELETE", name)))
            if method == "POST":
                body = self.json(order if target == PATH else {"duration_s": 5})
        fields += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        return Message(method, target, fields, body, Request(method, f"https://{AUTHORITY}{target}"))

    def change(self, made: Message) -> None:
        rng = self.rng
        index = rng.randrange(len(made.fields))
        name, value = made.fields[index]
        match rng.randrange(8):
            case 0:
                made.target = "/" + changed_text(rng, made.target[1:])
            case 1:
                made.method = rng.choice(("GET", "PUT", "POST", "DELETE", "HEAD", "OPTIONS", "TRACE", "x"))
            case 2:
                made.fields[index] = (name, changed_text(rng, value))
            case 3:
                made.fields.append((name, rng.choice((value, changed_text(rng, value)))))
            case 4:
                del made.fields[index]
                made.fields = made.fields or [("Host", AUTHORITY)]
            case 5:
                made.fields.append((rng.choice(("ossensor-x", "content-encoding", "transfer-encoding", "cookie")), "1"))
            case 6:
                at = rng.randrange(len(made.body) + 1)
                made.body = made.body[:at] + rng.randbytes(rng.randrange(3)) + made.body[at + 1 :]
            case 7:
                rng.shuffle(made.fields)


def field(made: Message, name: str) -> list[str]:
    return [value for n, value in made.fields if n.lower() == name]


async def ask(site: Called, rng: random.Random, made: Message) -> tuple[int, dict[bytes, bytes], bytes]:
    """The reply; one in fifty peers goes away in the middle of the body."""
    path, _, query = made.target.partition("?")
    scope: dict[str, Any] = {
        "type": "http", "http_version": "1.1", "method": made.method, "path": path, "root_path": "",
        "raw_path": path.encode("latin-1"), "query_string": query.encode("latin-1"),
        "headers": [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in made.fields],
        "client": (f"2001:db8:{rng.randrange(65536):x}:{rng.randrange(65536):x}::1", 1),
    }  # fmt: skip
    comes = made.body[: rng.randrange(len(made.body) + 1)] if rng.random() < 0.02 else made.body
    if made.body:
        scope["extensions"] = {EXTENSION: Whole(comes)}
    said: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        return {"type": "http.disconnect"}

    async def send(event: MutableMapping[str, Any]) -> None:
        said.append(event)

    await site.collector.app(scope, receive, send)
    start, *rest = said
    return start["status"], dict(start["headers"]), b"".join(event["body"] for event in rest)


def test_changed_requests_bring_no_error_and_store_nothing_that_was_not_signed(tmp_path: Path) -> None:
    print(f"seed {SEED}, {REQUESTS} requests")
    rng = random.Random(SEED)
    maker = Maker(rng)
    statuses: Counter[int] = Counter()
    outcomes: Counter[str] = Counter()
    root = tmp_path / "store"
    with asyncio.Runner() as runner, contextlib.ExitStack() as stack:
        site = stack.enter_context(called(root))
        site.collector._order._patience_s = 0.001  # predecessors that were changed do not come later
        book = stack.enter_context(contextlib.closing(BookFile(root / "antigena.sqlite")))
        trail = stack.enter_context(contextlib.closing(Trail(root / "trail", site.clock)))
        antigena = stack.enter_context(contextlib.closing(Antigena(book, trail, site.clock)))
        entrance = Entrance(TOKEN, None, site.clock, antigena.note, lambda *_: None)
        site.collector.add_routes(OperatorDoor(entrance, antigena, trail, site.clock, lambda *_: None).routes)
        lookout = Lookout(entrance, site.collector, Events(partial(glimpse.text, site.collector.live), lambda _: None))
        site.collector.add_routes([route for route in lookout.routes if route.path != "/v1/events"])
        for _ in range(REQUESTS):
            made = maker.message()
            status, fields, body = runner.run(ask(site, rng, made))
            statuses[status] += 1
            outcome = fields.get(b"ossensor-outcome", b"").decode()
            outcomes[outcome] += 1
            assert status < 500, (SEED, made, body)
            if body and field(made, "authorization") != [TOKEN.header]:
                assert outcome == Outcome.REGISTERED.value, (SEED, made, body)
            if outcome == Outcome.STORED.value:
                (length,) = {int(one) for one in field(made, "content-length")}  # what is behind it is not the body's
                assert made.body[:length] in maker.signed, (SEED, made)
    kept = stored(root)
    print(f"statuses {dict(sorted(statuses.items()))}, outcomes {dict(outcomes)}")

    assert len(kept) == outcomes[Outcome.STORED.value] > 0
    assert set(kept) <= set(maker.signed)
    assert {200, 201, 401, 404, 405, 411, 422} <= statuses.keys()


def test_bytes_that_are_no_http_end_a_connection_and_nothing_else(tmp_path: Path) -> None:
    rng = random.Random(SEED)
    tries = max(200, REQUESTS // 50)
    print(f"seed {SEED}, {tries} connections")
    answers: Counter[bytes] = Counter()
    with Running(tmp_path / "store", operator_token=TOKEN) as server:
        maker = Maker(rng)
        maker.signer = server.signer
        for _ in range(tries):
            made = maker.message()
            raw = bytearray(server.wire.head(made) + made.body)
            for _ in range(rng.randrange(4)):
                at = rng.randrange(len(raw))
                raw[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
            with server.wire.connect() as connection, contextlib.suppress(OSError):
                connection.sendall(raw)
                connection.settimeout(0.2)  # of some it takes more to come, which never does
                answers[connection.recv(4096)[9:12]] += 1
        asked = server.send(10**6, floor=str(10**6)).outcome
    *kept, last = stored(tmp_path / "store")  # not while the last of them is still being written
    print(f"statuses {dict(answers)}")

    assert (asked, last) == (Outcome.STORED, section([payload(10**6)]))
    assert set(kept) <= set(maker.signed)
    assert [status for status in answers if status.startswith(b"5")] == []
    assert {b"400", b"401"} <= answers.keys()
