"""E3: how far apart the clocks of sensor and vSensor may be, and from whom a sensor learns that they are."""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from called_collector import called
from scripted_server import KEY, Heard, Script, Server, make_certificates, raw
from test_vsensor_kit import NOW_S, Signer, rows

from ossensor.steady import steady_clock
from ossensor.transport.client import Proof
from ossensor.transport.connection import tls_context
from ossensor.transport.endpoint import State
from ossensor.transport.protocol import FIELD_CERTIFICATE, FIELD_OUTCOME, FIELD_TIME, TAG_CONTROL_REPLY, Outcome
from ossensor.transport.signing import Key, Reply, sign_reply
from ossensor.workers.route import Addresses, Destination, Route

SKEWS_S = {-301: False, -61: False, -60: True, -59: True, 0: True, 59: True, 60: True, 61: False, 301: False}
HOUR_S = 3600


@pytest.mark.parametrize("skew_s, believed", SKEWS_S.items())
def test_e3_batches_and_registrations_are_accepted_within_sixty_seconds_and_no_second_more(
    tmp_path: Path, skew_s: int, *, believed: bool
) -> None:
    with called(tmp_path) as vsensor:
        signer = Signer("vsensor.test")
        batch = vsensor.ask(signer.message(created_s=NOW_S + skew_s))
        registration = vsensor.ask(signer.registration(created_s=NOW_S + skew_s))
        tally, controls = dict(vsensor.collector.tally), dict(vsensor.collector.controls)

    assert (batch.status, registration.status, len(rows(tmp_path))) == ((201, 200, 1) if believed else (401, 401, 0))
    assert (tally, controls) == (({"stored": 1}, {"registered": 1}) if believed else ({"stale": 1}, {"stale": 1}))


def _answer(heard: Heard, off_s: int, key: Key = KEY, **changes: str) -> bytes:
    """What a vSensor says whose clock is off, signed with this key; fields changed on the way."""
    reply = Reply(Outcome.STALE.status, heard.request)
    now_s = int(steady_clock()()) + off_s
    reply.headers.update({FIELD_OUTCOME: Outcome.STALE.value, FIELD_TIME: str(now_s), FIELD_CERTIFICATE: "0" * 64})
    sign_reply(reply, b"", key=key, tag=TAG_CONTROL_REPLY, created_s=now_s)
    reply.headers.update({name.replace("_", "-"): value for name, value in changes.items()})
    return raw(reply.status_code, dict(reply.headers), b"")


def _unsigned(_: Heard) -> bytes:
    return raw(401, {FIELD_OUTCOME: Outcome.STALE.value, FIELD_TIME: str(int(steady_clock()()) + HOUR_S)}, b"")


LIARS: dict[str, Script] = {
    "unsigned": _unsigned,
    "signed with another key": lambda heard: _answer(heard, HOUR_S, Key(b"another key of thirty-two bytes.")),
    "another time under the signature": lambda heard: _answer(
        heard, 0, ossensor_time=str(int(steady_clock()()) + HOUR_S)
    ),
    "an HTTP date and no time": lambda _: raw(401, {"Date": "Tue, 24 Nov 2099 08:12:31 GMT"}, b""),
    "a good reply to another question": lambda heard: _answer(
        Heard(heard.method, heard.target.replace("sensor-1", "sensor-2"), heard.headers, heard.body), HOUR_S
    ),
}


class Asking:
    """A route, whose guard is content with everything, and the vSensor that it asks."""

    def __init__(self, server: Server, ca_file: Path) -> None:
        self._server = server
        self._now_s = 0.0
        self._news: queue.SimpleQueue[Addresses | Proof] = queue.SimpleQueue()
        to = Destination("127.0.0.1", server.port, (KEY,), pinned=False, sensor="sensor-1", application="test")
        self.route = Route(to, tls_context("ca", str(ca_file)), self._news.put, lambda _: True)

    def once(self) -> bool:
        """Whether the answer to the next question proved anything."""
        while True:
            self._now_s += 61  # longer than any back-off, and than a proof lasts
            match self.route.endpoint.wants(self._now_s):
                case State.RESOLVING:
                    addresses = self._news.get(timeout=120)
                    assert isinstance(addresses, Addresses)
                    self.route.resolved(addresses, self._now_s)
                case State.GUARDING:
                    self.route.endpoint.guarded(self._now_s, ok=True)
                case State.PROVING:
                    proof = self._news.get(timeout=120)
                    assert isinstance(proof, Proof)
                    self.route.proved(proof, self._now_s)
                    return proof.key is not None
                case _:
                    self.route.attend(self._now_s)

    def signed_off_s(self) -> list[int]:
        """How far what it has signed so far was from this machine's time, in whole minutes."""
        inputs = (heard.headers["Signature-Input"] for heard in self._server.heard)
        created_s = [int(found[1]) for found in map(re.compile(r"created=(\d+)").search, inputs) if found]
        return [round((one_s - steady_clock()()) / 60) * 60 for one_s in created_s]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    certificates = make_certificates(tmp_path)
    made = Server(certificates.good)
    yield made, certificates.ca_file
    made.close()


@pytest.mark.parametrize("liar", LIARS)
def test_e3_the_time_is_learnt_from_a_reply_to_this_question_under_the_key_and_from_no_other(
    server: tuple[Server, Path], liar: str
) -> None:
    asking = Asking(*server)
    proved = []
    for script in (LIARS[liar], LIARS[liar], lambda heard: _answer(heard, HOUR_S), LIARS[liar]):
        server[0].script = script
        proved.append(asking.once())

    # The liar's hour was not believed; the vSensor's was, from the next signature on, and no liar takes it back.
    assert proved == [False, False, True, False]
    assert asking.signed_off_s() == [0, 0, 0, HOUR_S]


def test_e3_what_is_signed_follows_the_vsensors_time_also_when_this_clock_is_set_meanwhile(
    server: tuple[Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = Asking(*server)
    server[0].script = lambda heard: _answer(heard, HOUR_S)
    assert asking.once()
    true_s, offs_s = steady_clock(), []
    for jump_s in (HOUR_S, -HOUR_S, 61, -301, 10**9):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: true_s() + jump_s)
        offs_s.append(round(asking.route.stamp().created_s - true_s() - HOUR_S))

    assert all(abs(off_s) <= 30 for off_s in offs_s)  # seconds are whole, and a busy machine loses some
    assert len(offs_s) == 5
