"""Who is believed to be the vSensor: against a real TLS server with this certificate or that."""

from __future__ import annotations

import gzip
import hashlib
import json
import ssl
import tracemalloc
from collections.abc import Callable, Iterator

import pytest
from scripted_server import KEY, NAME, Certificates, Heard, Server, make_certificates, raw

from ossensor.transport.client import Client, Job, Proof
from ossensor.transport.connection import tls_context
from ossensor.transport.protocol import (
    CONTROL_TYPE,
    FIELD_CERTIFICATE,
    FIELD_OUTCOME,
    FIELD_TIME,
    TAG_CONTROL,
    TAG_CONTROL_REPLY,
    TAG_DATA_REPLY,
    BatchId,
    Outcome,
    Stream,
    Welcome,
)
from ossensor.transport.registration import Question
from ossensor.transport.signing import Key, Nonce, Reply, body_matches, sign_reply, verify_request
from ossensor.transport.stamp import Stamp

NEXT_KEY = Key(b"n" * 32)
STRANGERS_KEY = Key(b"s" * 32)
NOW_S = 1_795_000_000
BATCH = BatchId(Stream("sensor-1", "0123456789abcdef" * 2, "eth0"), 0)
NOT_SIGNED = "the vSensor's answer is not signed with our key"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def good_sha256(certificates: Certificates) -> str:
    return sha256_of(certificates.ca_file.read_text())


@pytest.fixture
def serve() -> Iterator[Callable[[ssl.SSLContext], Server]]:
    made: list[Server] = []

    def start(context: ssl.SSLContext) -> Server:
        made.append(Server(context))
        return made[-1]

    yield start
    for server in made:
        server.close()


def sha256_of(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


def answer(
    heard: Heard,
    certificate: str,
    *,
    key: Key = KEY,
    tag: str = TAG_CONTROL_REPLY,
    outcome: Outcome | None = None,
    body: bytes = b"",
) -> bytes:
    """The vSensor's: it bears this certificate."""
    outcome = outcome or Outcome.REGISTERED
    reply = Reply(outcome.status, heard.request)
    reply.headers.update({FIELD_OUTCOME: outcome.value, FIELD_TIME: str(NOW_S + 7), FIELD_CERTIFICATE: certificate})
    sign_reply(reply, body, key=key, tag=tag, created_s=NOW_S)
    return raw(reply.status_code, dict(reply.headers), body)


def ask(server: Server, *keys: Key, bound: bool = True, context: ssl.SSLContext | None = None) -> Proof:
    client = Client(NAME, server.port, context or tls_context("key", None), "ossensor/test")
    keys = keys or (KEY,)
    nonces = tuple(Nonce("f" * 32, n) for n in range(len(keys)))
    return client.prove(Question("sensor-1", "127.0.0.1", 3, keys, NOW_S, nonces, bound))


Serve = Callable[[ssl.SSLContext], Server]


def test_the_vsensor_proves_itself_by_naming_its_certificate_under_the_key(
    serve: Serve, certificates: Certificates, good_sha256: str
) -> None:
    server = serve(certificates.good)
    server.script = lambda heard: answer(heard, good_sha256)

    proof = ask(server)

    assert (proof.key, proof.pin, proof.vsensor_time_s, proof.trouble) == (KEY, good_sha256, NOW_S + 7, "")
    (heard,) = server.heard
    assert (heard.method, heard.target) == ("POST", "/v1/sensors/sensor-1/registration")
    assert json.loads(heard.body) == {"protocol": 1, "application": "ossensor/test"}
    assert heard.headers["Content-Type"] == CONTROL_TYPE
    verified = verify_request(heard.request, keys={KEY.id: KEY}, tag=TAG_CONTROL)
    assert body_matches(verified.content_digest, hashlib.sha256(heard.body).digest())


@pytest.mark.parametrize("outcome", [Outcome.STALE, Outcome.REPLAYED, Outcome.ALTERED, Outcome.BUSY])
def test_a_signed_refusal_proves_as_much(
    serve: Serve, certificates: Certificates, good_sha256: str, outcome: Outcome
) -> None:
    server = serve(certificates.good)
    server.script = lambda heard: answer(heard, good_sha256, outcome=outcome)

    proof = ask(server)

    assert (proof.key, proof.pin, proof.vsensor_time_s) == (KEY, good_sha256, NOW_S + 7)


def test_a_signed_answer_may_ask_for_a_packet_filter(
    serve: Serve, certificates: Certificates, good_sha256: str
) -> None:
    server = serve(certificates.good)
    server.script = lambda heard: answer(heard, good_sha256, body=Welcome("not port 22").body)

    assert ask(server).welcome == Welcome("not port 22")


def test_an_answer_whose_body_was_changed_or_is_no_welcome_proves_nothing(
    serve: Serve, certificates: Certificates, good_sha256: str
) -> None:
    server = serve(certificates.good)
    wish, other = Welcome("not port 22").body, Welcome("not port 23").body
    scripts: list[Callable[[Heard], bytes]] = [
        lambda heard: answer(heard, good_sha256, body=wish).replace(wish, other),
        lambda heard: answer(heard, good_sha256, body=b"welcome"),
    ]
    for server.script in scripts:
        proof = ask(server)

        assert (proof.key, proof.welcome) == (None, Welcome())


def test_somebody_who_passes_question_and_answer_on_has_another_certificate(
    serve: Serve, certificates: Certificates, good_sha256: str
) -> None:
    middle = serve(certificates.stranger)
    middle.script = lambda heard: answer(heard, good_sha256)

    proof = ask(middle)

    assert (proof.key, proof.pin) == (None, "")
    assert proof.trouble.startswith("somebody stands between us and the vSensor, which has another certificate")
    stranger_sha256 = sha256_of(certificates.stranger_file.read_text())
    assert proof.detail == f"certificate {stranger_sha256[:16]}... here, {good_sha256[:16]}... at the vSensor"


def _other_request(heard: Heard, certificate: str) -> bytes:
    other = Heard(heard.method, heard.target.replace("sensor-1", "sensor-2"), heard.headers, heard.body)
    return answer(other, certificate)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(lambda _h, _c: raw(401, {}, b""), id="an unsigned refusal"),
        pytest.param(lambda _h, c: raw(200, {FIELD_CERTIFICATE: c, FIELD_OUTCOME: "registered"}, b""), id="unsigned"),
        pytest.param(lambda h, c: answer(h, c, key=STRANGERS_KEY), id="another key"),
        pytest.param(lambda h, c: answer(h, c, tag=TAG_DATA_REPLY), id="another channel"),
        pytest.param(lambda h, c: answer(h, c).replace(b"200 Whatever", b"201 Whatever"), id="another status"),
        pytest.param(lambda h, c: answer(h, "0" * 64).replace(b"0" * 64, c.encode()), id="another certificate put in"),
        pytest.param(_other_request, id="another question's answer"),
    ],
)
def test_an_answer_that_is_not_signed_for_this_question_proves_nothing(
    serve: Serve, certificates: Certificates, good_sha256: str, script: Callable[[Heard, str], bytes]
) -> None:
    server = serve(certificates.good)
    server.script = lambda heard: script(heard, good_sha256)

    proof = ask(server)

    assert (proof.key, proof.pin) == (None, "")
    assert proof.trouble.startswith(NOT_SIGNED)


def test_an_answer_to_an_earlier_question_proves_nothing(
    serve: Serve, certificates: Certificates, good_sha256: str
) -> None:
    server = serve(certificates.good)
    kept: list[bytes] = []
    server.script = lambda heard: kept[0] if kept else (kept.append(answer(heard, good_sha256)) or kept[0])
    client = Client(NAME, server.port, tls_context("key", None), "x")
    proofs = [
        client.prove(Question("sensor-1", "127.0.0.1", 3, (KEY,), NOW_S, (Nonce("f" * 32, n),), bound=True))
        for n in range(2)
    ]

    assert [proof.key for proof in proofs] == [KEY, None]


def test_while_keys_change_the_one_that_the_vsensor_has_is_taken(
    serve: Serve, certificates: Certificates, good_sha256: str
) -> None:
    server = serve(certificates.good)

    def script(heard: Heard) -> bytes:
        ours = f'keyid="{NEXT_KEY.id}"' in heard.headers["Signature-Input"]
        return answer(heard, good_sha256, key=NEXT_KEY) if ours else raw(401, {}, b"")

    server.script = script

    assert ask(server, KEY, NEXT_KEY).key == NEXT_KEY
    assert ask(server, NEXT_KEY, KEY).key == NEXT_KEY
    assert ask(server, KEY, STRANGERS_KEY).key is None
    assert len(server.heard) == 2 + 1 + 2


def test_a_trusted_certificate_without_the_key_proves_nothing(serve: Serve, certificates: Certificates) -> None:
    server = serve(certificates.good)
    server.script = lambda _: raw(200, {}, b"")

    proof = ask(server, bound=False, context=tls_context("ca", str(certificates.ca_file)))

    assert (proof.key, proof.trouble) == (None, NOT_SIGNED)


def test_with_cas_the_key_may_be_behind_another_certificate_but_not_behind_one_that_nobody_trusts(
    serve: Serve, certificates: Certificates
) -> None:
    balancer, stranger = serve(certificates.good), serve(certificates.stranger)
    for server in (balancer, stranger):
        server.script = lambda heard: answer(heard, "0" * 64)
    context = tls_context("ca", str(certificates.ca_file))

    assert ask(balancer, bound=False, context=context).key == KEY
    assert ask(stranger, bound=False, context=context).key is None
    assert stranger.heard == []


def test_nothing_is_sent_to_a_certificate_that_is_not_the_pinned_one(
    serve: Serve, certificates: Certificates, good_sha256: str
) -> None:
    stranger, good = serve(certificates.stranger), serve(certificates.good)
    for server, heard in ((stranger, 0), (good, 1)):
        server.script = lambda _: None
        client = Client(NAME, server.port, tls_context("key", None), "x")
        section = memoryview(bytearray(100))
        nonce = Nonce("f" * 32, 0)
        stamp = Stamp("127.0.0.1", 3, NOW_S, nonce, KEY, good_sha256)
        result = client.send(Job(BATCH, section, 1, 0, compress=False, stamp=stamp))
        client.close()

        assert (result.outcome, len(server.heard)) == (None, heard)
        if server is stranger:
            assert result.trouble == "the vSensor's certificate has changed; it must prove itself again"
            assert result.detail == "PinError: the certificate is not the one that was proven"


@pytest.mark.parametrize("closing", [b"Connection: close\r\n", b""], ids=["closing", "HTTP/1.0"])
def test_a_vsensor_that_closes_with_its_reply_is_believed_all_the_same(
    serve: Serve, certificates: Certificates, good_sha256: str, closing: bytes
) -> None:
    server = serve(certificates.good)
    server.close_after_reply = True

    def script(heard: Heard) -> bytes:
        reply = answer(heard, good_sha256)
        return reply.replace(b"\r\n", b"\r\n" + closing, 1) if closing else reply.replace(b"HTTP/1.1", b"HTTP/1.0", 1)

    server.script = script

    assert (ask(server).key, ask(server).pin) == (KEY, good_sha256)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(raw(302, {"Location": "/elsewhere"}, b"x" * 200_000), id="a redirect with a long body"),
        pytest.param(
            raw(302, {"Location": "/x", "Content-Encoding": "gzip"}, gzip.compress(bytes(50 << 20))), id="a bomb"
        ),
        pytest.param(raw(302, {"Location": "http://[::bad"}, b""), id="a redirect to nowhere"),
        pytest.param(raw(200, {"Content-Encoding": "gzip"}, gzip.compress(bytes(50 << 20))), id="a bomb without one"),
        pytest.param(raw(401, {"Connection": "close"}, b""), id="closing"),
        pytest.param(raw(500, {}, b"x" * 100_000), id="longer than is read"),
        pytest.param(raw(200, {}, b"", length=-3), id="a length below nothing"),
        pytest.param(raw(200, {}, b"", length=1 << 62), id="a length beyond everything"),
        pytest.param(b"HTTP/1.1 99999 What\r\n\r\n", id="no status"),
        pytest.param(b"\0" * 1000, id="no HTTP"),
    ],
)
def test_whatever_a_stranger_answers_is_no_proof_and_costs_no_memory(
    serve: Serve, certificates: Certificates, reply: bytes
) -> None:
    server = serve(certificates.stranger)
    server.script = lambda _: reply
    server.close_after_reply = True
    tracemalloc.start()
    try:
        proof = ask(server)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert proof.key is None
    assert proof.trouble
    assert len(server.heard) == 1
    assert peak_bytes < 8 << 20


def test_an_impostor_is_named_also_while_keys_change(
    serve: Serve, certificates: Certificates, good_sha256: str
) -> None:
    middle = serve(certificates.stranger)
    middle.script = lambda heard: answer(heard, good_sha256)

    proof = ask(middle, KEY, NEXT_KEY)

    assert proof.trouble.startswith("somebody stands between us and the vSensor")
    assert len(middle.heard) == 1
