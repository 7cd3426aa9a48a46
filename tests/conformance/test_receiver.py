"""What docs/protocol.md asks of a receiver, tried from outside. `--receiver URL --receiver-key KEY` tries another."""

from __future__ import annotations

import importlib.util
import json
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
import zstandard
from peer import SENSOR, Peer, section

from ossensor.transport.orders import Orders, Report
from ossensor.transport.protocol import (
    FIELD_CERTIFICATE,
    FIELD_FLOOR,
    FIELD_TIME,
    TAG_CONTROL,
    TAG_DATA,
    TAG_ORDER,
    Welcome,
    antigena_path,
)
from ossensor.transport.signing import Key

STORED, PRESENT = (201, "stored"), (200, "present")
NOBODY = (401, None)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def peer(receiver: Peer) -> Peer:
    """A sensor's life of its own."""
    return Peer(receiver.url, receiver.key)


@pytest.fixture
def epoch() -> str:
    return secrets.token_hex(16)


def test_it_says_which_certificate_is_its_own_and_what_time_it_is(peer: Peer) -> None:
    answer = peer.register()

    assert answer.said == (200, "registered")
    assert Welcome.parse(answer.body)  # raises for what a sensor would not take
    assert answer.fields[FIELD_CERTIFICATE] == answer.certificate_sha256
    assert abs(int(answer.fields[FIELD_TIME]) - time.time()) <= 60


def test_a_batch_is_stored_once(peer: Peer, epoch: str) -> None:
    assert [peer.put(epoch, 0).said, peer.put(epoch, 0).said] == [STORED, PRESENT]


def test_a_compressed_batch_is_stored(peer: Peer, epoch: str) -> None:
    body = zstandard.compress(section())

    assert peer.put(epoch, 0, body=body, fields={"Content-Encoding": "zstd"}).said == STORED


def test_a_stream_is_stored_in_order_and_what_the_sensor_gave_up_is_not_waited_for(peer: Peer, epoch: str) -> None:
    said = [
        peer.put(epoch, 0).said,
        peer.put(epoch, 2).said,
        peer.put(epoch, 1).said,
        peer.put(epoch, 2).said,
        peer.put(epoch, 5, floor=5).said,
        peer.put(epoch, 3).said,
        peer.put(epoch, 2).said,
    ]

    early, given_up = (425, "out-of-order"), (422, "malformed")
    assert said == [STORED, early, STORED, STORED, STORED, given_up, PRESENT]


def test_a_floor_above_the_batch_itself_contradicts_it(peer: Peer, epoch: str) -> None:
    assert peer.put(epoch, 3, floor=4).said == (422, "malformed")


def test_a_nonce_is_good_once(peer: Peer, epoch: str) -> None:
    nonce = peer.nonce()

    assert peer.put(epoch, 0, nonce=nonce).said == STORED
    assert peer.put(epoch, 1, nonce=nonce).said == (401, "replayed")
    assert peer.register(nonce=nonce).said == (401, "replayed")
    assert peer.put(epoch, 1).said == STORED


@pytest.mark.parametrize("skew_s", [-3600, -90, 90, 3600])
def test_what_was_signed_at_another_time_is_stale_and_told_the_time(peer: Peer, epoch: str, skew_s: int) -> None:
    answer = peer.put(epoch, 0, created_s=int(time.time()) + skew_s)

    assert answer.said == (401, "stale")
    assert abs(int(answer.fields[FIELD_TIME]) - time.time()) <= 60
    assert peer.register(created_s=int(time.time()) + skew_s).fields[FIELD_CERTIFICATE] == answer.certificate_sha256


def test_a_body_that_is_not_the_signed_one_is_altered(peer: Peer, epoch: str) -> None:
    body = bytearray(section())
    body[100] ^= 1

    assert peer.put(epoch, 0, sent_body=bytes(body)).said == (400, "altered")
    assert peer.put(epoch, 0).said == STORED


def test_what_is_no_section_is_malformed(peer: Peer, epoch: str) -> None:
    assert peer.put(epoch, 0, body=b"not a capture").said == (422, "malformed")
    assert peer.put(epoch, 0, body=section()[:-4]).said == (422, "malformed")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param({"key": Key(b"a key that nobody has given it.")}, id="another key"),
        pytest.param({"tag": TAG_CONTROL}, id="signed for registrations"),
        pytest.param({"tag": TAG_DATA + "-reply"}, id="signed as a reply"),
        pytest.param({"after_signing": {FIELD_FLOOR: "7"}}, id="a field changed"),
        pytest.param({"after_signing": {"ossensor-more": "x"}}, id="a field added"),
        pytest.param({"after_signing": {"Content-Encoding": "zstd"}}, id="an encoding added"),
        pytest.param({"after_signing": {"Signature": "ossensor=:AAAA:"}}, id="another signature"),
        pytest.param({"after_signing": {"Signature-Input": ""}}, id="no signature"),
    ],
)
def test_nobody_is_told_anything_by_a_receiver_that_he_has_no_key_of(
    peer: Peer, epoch: str, parts: dict[str, Any]
) -> None:
    answer = peer.put(epoch, 0, **parts)

    assert (answer.said, answer.body) == (NOBODY, b"")
    assert not [name for name in answer.fields if name.startswith("ossensor-")]


def test_a_registration_signed_for_batches_is_nobodys(peer: Peer) -> None:
    assert peer.register(tag=TAG_DATA).said == NOBODY


def test_what_means_nothing_to_it_is_not_there(peer: Peer) -> None:
    assert peer.send("POST", "/v1/sensors/conformance/later", b"{}", tag=TAG_CONTROL).said == (404, None)


def test_without_antigena_it_says_so_by_404(peer: Peer) -> None:
    """A 401 would have the sensor complain of the key."""
    report = Report("enforce").body
    answer = peer.send("POST", antigena_path(SENSOR), report, tag=TAG_ORDER)

    assert answer.said in {(404, None), (200, "registered")}
    assert answer.outcome is None or Orders.parse(answer.body)


def test_another_path_under_a_good_signature_is_nobodys(peer: Peer, epoch: str) -> None:
    nonce = peer.nonce()
    first = peer.put(epoch, 0, nonce=nonce)
    assert first.said == STORED

    other = Peer(peer.url, peer.key, run=peer.run, count=peer.count)
    assert other.put(epoch, 1, after_signing={"Host": "elsewhere.example"}).said == NOBODY


def test_the_reference_receiver_signs_what_the_vectors_say(receiver: Peer) -> None:  # noqa: ARG001  once a receiver
    spec = importlib.util.spec_from_file_location("receiver", ROOT / "docs" / "receiver.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases = json.loads((ROOT / "tests" / "vectors" / "signing.json").read_text())
    for case in cases:
        key, wanted = bytes.fromhex(case["key"]), case["expected"]
        request = {**wanted["request"], **case["fields"], "host": case["authority"]}
        where = case["method"], case["path"], case["query"]
        nonce = case["created"], case["nonce"]
        assert module.digest(bytes.fromhex(case["body"])) == wanted["request"]["content-digest"], case["name"]
        assert module.verify(key, *where, request, case["tag"]) == nonce, case["name"]
        assert module.verify(key, *where, {**request, "content-type": "x"}, case["tag"]) is None
        reply = case["reply"]
        what = case["method"], case["path"], wanted["request"]["signature"]
        signed = module.reply(key, reply["status"], reply["fields"], *what, reply["created"], case["tag"] + "-reply")
        assert {name: signed[name] for name in ("signature-input", "signature")} == {
            name: wanted["reply"][name] for name in ("signature-input", "signature")
        }, case["name"]
    assert len(cases) >= 30
