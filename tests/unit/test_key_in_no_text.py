"""E9: what holds the key can be printed, and what fails while the key is in hand can be told, without showing it."""

from __future__ import annotations

import os
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from called_collector import head_of
from test_vsensor_kit import NOW_S, Signer, posing

from ossensor.antigena.token import Token
from ossensor.errors import Exit
from ossensor.settings import load
from ossensor.transport.client import Client, Job, Proof, Result
from ossensor.transport.compression import AUTO
from ossensor.transport.introduction import Introduction
from ossensor.transport.protocol import BatchId, Stream
from ossensor.transport.registration import Question
from ossensor.transport.signing import Key, Nonce, RefusedError, Reply, sign_reply, verify_reply
from ossensor.transport.stamp import Stamp
from ossensor.vsensor.certificate import Certificate
from ossensor.vsensor.retention import Keeping, Limits
from ossensor.vsensor.server import Settings as CollectorSettings
from ossensor.vsensor.verify import Authentic, authenticate
from ossensor.workers.lines import Plan
from ossensor.workers.route import Destination, Route, ends_the_process

SECRET = "kept-to-itself-5f1c9a7e2d"
KEY = Key(SECRET.encode())
NONCE = Nonce("f" * 32, 1)
STAMP = Stamp("192.0.2.1", 1, NOW_S, NONCE, KEY)
JOB = Job(BatchId(Stream("s", "0" * 32, "eth0"), 0), memoryview(b""), 0, 0, compress=False, stamp=STAMP)
QUESTION = Question("s", "192.0.2.1", 1, (KEY,), NOW_S, (NONCE,), bound=True)
DESTINATION = Destination("vsensor.test", 443, (KEY,), pinned=True, sensor="s", application="x")


def shown(text: str) -> list[str]:
    """The spellings of the key, or of half of it, that are in the text."""
    halves = (SECRET[: len(SECRET) // 2], SECRET[len(SECRET) // 2 :])
    return [half for half in halves if half in text or half.encode().hex() in text.lower()]


def _authentic() -> Authentic:
    return authenticate(head_of(Signer("vsensor.test", key=KEY).message()), {KEY.id: KEY})


def _route() -> Route:
    return Route(DESTINATION, ssl.create_default_context(), lambda _: None, lambda _: True)


def _loaded() -> object:
    environment = {"VSENSOR_HOSTNAME": "v.test", "VSENSOR_HMAC_KEY": SECRET, "OSSENSOR_CONFIG_PATH": "/nosuch"}
    return load(environment)


HOLDERS: dict[str, Callable[[], object]] = {
    "key": lambda: KEY,
    "operator's token": lambda: Token(SECRET.encode()),
    "settings, loaded": _loaded,
    "stamp": lambda: STAMP,
    "job": lambda: JOB,
    "result": lambda: Result(JOB, "", 0.0),
    "question": lambda: QUESTION,
    "proof": lambda: Proof(QUESTION, "", KEY),
    "destination": lambda: DESTINATION,
    "plan": lambda: Plan(DESTINATION, AUTO, Introduction("x", "h")),
    "route": _route,
    "collector's settings": lambda: CollectorSettings(
        {KEY.id: KEY},
        Path("/"),
        Certificate(Path("/"), Path("/"), ""),
        durable=True,
        keeping=Keeping(1, 1.0, Limits(), compress=False),
    ),
    "authentic request": _authentic,
}


@pytest.mark.parametrize("name", HOLDERS)
def test_e9_what_holds_the_key_does_not_show_it(name: str) -> None:
    holder = HOLDERS[name]()

    assert shown(f"{holder!r} {holder} {[holder]} {vars(holder) if hasattr(holder, '__dict__') else ''}") == []
    assert len(shown(repr(KEY.secret))) == len(shown(KEY.secret.hex())) == 2  # or nothing would be found anywhere


def _of_another_key() -> None:
    authenticate(head_of(Signer("vsensor.test", key=Key(SECRET[::-1].encode())).message()), {KEY.id: KEY})


def _under_its_name() -> None:
    key = posing(SECRET[::-1].encode(), KEY.id)
    authenticate(head_of(Signer("vsensor.test", key=key).message()), {KEY.id: KEY})


def _altered() -> None:
    message = Signer("vsensor.test", key=KEY).message().set("ossensor-floor", "9")
    authenticate(head_of(message), {KEY.id: KEY})


def _no_signature() -> None:
    authenticate(head_of(Signer("vsensor.test", key=KEY).message().set("Signature", "ossensor=:?:")), {KEY.id: KEY})


def _altered_reply() -> None:
    reply = Reply(200, Signer("vsensor.test", key=KEY).message().signed)
    sign_reply(reply, b"", key=KEY, tag="x", created_s=NOW_S)
    verify_reply(reply, b"more", keys={KEY.id: KEY}, tag="x")


@pytest.mark.parametrize("fail", [_of_another_key, _under_its_name, _altered, _no_signature, _altered_reply])
def test_e9_a_refusal_and_all_that_led_to_it_can_be_told(fail: Callable[[], None]) -> None:
    with pytest.raises(RefusedError) as caught:
        fail()

    assert shown("".join(traceback.format_exception(caught.value))) == []


def test_e9_a_bug_while_the_key_is_in_hand_prints_no_value_of_it(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The last frame of a thread or process prints its traceback: code, and what the exception says."""

    def broken(*_: object, **__: object) -> bytes:
        raise TypeError

    monkeypatch.setattr("ossensor.transport.signing.hmac.digest", broken)
    client = Client("vsensor.test", 443, ssl.create_default_context(), "x")
    pid = os.fork()
    if not pid:
        with ends_the_process():
            client.send(JOB)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    told = capfd.readouterr().err

    assert (code, told.splitlines()[-1]) == (Exit.INTERNAL, "TypeError")
    assert "in sign_request" in told  # where the key was an argument
    assert shown(told) == []
