"""Every forged, altered, replayed or stale request is refused, and the store holds nothing of it.

A real TLS server on loopback; each message is signed as a sensor signs it and then changed on its way.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import http_sf
import pytest
from test_vsensor_kit import EPOCH, KEY, NOW_S, RUN, Answer, Message, Running, Signer, eventually, payload, posing, rows
from test_vsensor_kit import section as make_section

from ossensor.transport.protocol import (
    FIELD_FLOOR,
    FIELD_PACKETS,
    Outcome,
    Stream,
)
from ossensor.transport.signing import Key, digest_field

BARE_401 = (401, {"content-length": "0"}, b"", None)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("refusals") / "store") as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_is_stored(server: Running) -> Iterator[None]:
    """After each test here: no row, no byte of pcapng, and no memory still lent."""
    yield
    assert rows(server.root) == []
    assert [p for p in server.root.rglob("*.pcapng") if p.stat().st_size] == []
    assert eventually(lambda: server.collector.budget.lent_bytes == 0)


def view(answer: Answer) -> tuple[int, dict[str, str], bytes, Outcome | None]:
    return answer.status, answer.fields, answer.body, answer.outcome


def swap(old: str, new: str) -> Callable[[Message], object]:
    """Replaces, once, in the request's target."""

    def change(message: Message) -> None:
        assert old in message.target
        message.target = message.target.replace(old, new, 1)

    return change


def put(name: str, value: str) -> Callable[[Message], object]:
    return lambda m: m.set(name, value)


def drop(name: str) -> Callable[[Message], object]:
    return lambda m: m.drop(name)


def twice(name: str, value: str | None = None) -> Callable[[Message], object]:
    """The field again: the same value, or another."""
    return lambda m: m.fields.append((name, m.get(name) if value is None else value))


def parameters(old: str, new: str) -> Callable[[Message], object]:
    """Replaces in Signature-Input what the pattern finds."""

    def change(message: Message) -> None:
        value, count = re.subn(old, new, message.get("signature-input"))
        assert count == 1
        message.set("Signature-Input", value)

    return change


def signature(change: Callable[[bytes], bytes]) -> Callable[[Message], object]:
    def apply(message: Message) -> None:
        raw = base64.b64decode(message.get("signature").removeprefix("ossensor=:").removesuffix(":"))
        message.set("Signature", f"ossensor=:{base64.b64encode(change(raw)).decode()}:")

    return apply


def loosen_base64(message: Message) -> None:
    """Sets a padding bit that decoders ignore: 32 bytes leave two of them."""
    value = message.get("signature")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = value[-3]
    assert value.endswith("=:")
    loose = value[:-3] + alphabet[alphabet.index(last) + 1] + "=:"
    assert http_sf.parse(loose.encode(), tltype="dictionary") == http_sf.parse(value.encode(), tltype="dictionary")
    message.set("Signature", loose)


def second_signature(message: Message) -> None:
    for name in ("Signature-Input", "Signature"):
        value = message.get(name)
        message.set(name, f"{value}, {value.replace('ossensor=', 'other=', 1)}")


def relabel(message: Message) -> None:
    for name in ("Signature-Input", "Signature"):
        message.set(name, message.get(name).replace("ossensor=", "other=", 1))


ALTERED: dict[str, Callable[[Message], object]] = {
    "path: sensor": swap("sensor-1", "sensor-2"),
    "path: epoch": swap(EPOCH, EPOCH[::-1]),
    "path: interface": swap("eth0", "eth1"),
    "path: sequence": swap("batches/0", "batches/1"),
    "path: sequence spelled otherwise": swap("batches/0", "batches/00"),
    "path: percent-encoded letter": swap("eth0", "%65th0"),
    "path: not UTF-8": swap("eth0", "%ff"),
    "path: malformed sensor": swap("sensor-1", "..."),
    "query added": swap("batches/0", "batches/0?x=1"),
    "fragment added": swap("batches/0", "batches/0#"),
    "fragment added behind an empty query": swap("batches/0", "batches/0?#x"),
    "host: other name": put("Host", "vsensor.example"),
    "host: other port": put("Host", "127.0.0.1:1"),
    "host: user before it": lambda m: m.set("Host", "x@" + m.get("host")),
    "host: fragment behind it": lambda m: m.set("Host", m.get("host") + "#"),
    "host: empty": put("Host", ""),
    "content-type changed": put("Content-Type", "application/octet-stream"),
    "content-type missing": drop("Content-Type"),
    "content-encoding added": put("Content-Encoding", "zstd"),
    "floor changed": put(FIELD_FLOOR, "1"),
    "floor missing": drop(FIELD_FLOOR),
    "packets changed": put(FIELD_PACKETS, "2"),
    "packets in Arabic digits": put(FIELD_PACKETS, "\u0661".encode().decode("latin-1")),
    "packets missing": drop(FIELD_PACKETS),
    "unsigned field of ours": put("ossensor-more", "1"),
    "digest of another body": put("Content-Digest", digest_field(bytes(32))),
    "digest with a second algorithm": lambda m: m.set("Content-Digest", m.get("content-digest") + ", sha-512=:AA==:"),
    "digest missing": drop("Content-Digest"),
    "created earlier": parameters(f"created={NOW_S}", f"created={NOW_S - 1}"),
    "created later": parameters(f"created={NOW_S}", f"created={NOW_S + 1}"),
    "created a fraction": parameters(f"created={NOW_S}", f"created={NOW_S}.0"),
    "created a string": parameters(f"created={NOW_S}", f'created="{NOW_S}"'),
    "created missing": parameters(f";created={NOW_S}", ""),
    "created twice": parameters(f"created={NOW_S}", f"created=1;created={NOW_S}"),
    "nonce: other run": parameters(RUN, RUN[::-1]),
    "nonce: other count": parameters(r'-(\d+)"', r'-1\1"'),
    "nonce missing": parameters(r';nonce="[^"]*"', ""),
    "tag of replies": parameters('"ossensor-data"', '"ossensor-data-reply"'),
    "tag missing": parameters(';tag="ossensor-data"', ""),
    "keyid unknown": parameters(KEY.id, "0" * 16),
    "keyid missing": parameters(f';keyid="{KEY.id}"', ""),
    "algorithm": parameters("hmac-sha256", "ed25519"),
    "expiry added": parameters("$", f";expires={NOW_S + 9}"),
    "unknown parameter": parameters("$", ";more=1"),
    "space in the parameters": parameters(";created", "; created"),
    "component not covered": parameters(' "ossensor-floor"', ""),
    "component covered twice": parameters('"@path"', '"@path" "@path"'),
    "components in another order": parameters('"@method" "@authority"', '"@authority" "@method"'),
    "component of the reply": parameters('"@method"', '"@status"'),
    "no components": parameters(r"\(.*\)", "()"),
    "signature-input missing": drop("Signature-Input"),
    "signature-input no list": put("Signature-Input", "ossensor=1"),
    "signature-input no structured field": put("Signature-Input", "ossensor=(("),
    "signature: first bit": signature(lambda raw: bytes([raw[0] ^ 0x80]) + raw[1:]),
    "signature: last bit": signature(lambda raw: raw[:-1] + bytes([raw[-1] ^ 1])),
    "signature cut": signature(lambda raw: raw[:-1]),
    "signature lengthened": signature(lambda raw: raw + b"\0"),
    "signature empty": signature(lambda _: b""),
    "signature loose base64": loosen_base64,
    "signature with a parameter": lambda m: m.set("Signature", m.get("signature") + ";x=1"),
    "signature no bytes": put("Signature", "ossensor=1"),
    "signature missing": drop("Signature"),
    "two signatures": second_signature,
    "another label": relabel,
    "unsigned": lambda m: [m.drop(n) for n in ("Signature", "Signature-Input", "Content-Digest")],
    **{
        f"{name} twice": twice(name)
        for name in (
            "Content-Type",
            "Content-Digest",
            "Signature",
            "Signature-Input",
            FIELD_FLOOR,
            FIELD_PACKETS,
            FIELD_FLOOR.title(),
        )
    },
    "floor twice, differing": twice(FIELD_FLOOR, "7"),
}


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_request_gets_the_one_unsigned_401(server: Running, name: str) -> None:
    message = server.signer.message(created_s=NOW_S)
    ALTERED[name](message)

    assert view(server.wire.send(message)) == BARE_401


@pytest.mark.parametrize(
    "secret",
    # Not the key with a NUL behind it: HMAC fills short keys up with zeros (RFC 2104), so that *is* the same key.
    [b"", KEY.secret[:-1], KEY.secret + b"\n", bytes(32), KEY.secret[::-1]],
    ids=["empty", "cut", "line break", "zeros", "reversed"],
)
@pytest.mark.parametrize("own_id", [True, False], ids=["its own id", "the real id"])
def test_a_request_signed_with_another_key_gets_the_one_unsigned_401(
    server: Running, secret: bytes, *, own_id: bool
) -> None:
    key = Key(secret) if own_id else posing(secret, KEY.id)
    message = Signer(server.authority, key=key).message()

    assert view(server.wire.send(message)) == BARE_401


@pytest.mark.parametrize("tag", ["ossensor-data-reply", "ossensor-control", ""])
def test_what_was_signed_for_another_channel_gets_the_one_unsigned_401(server: Running, tag: str) -> None:
    assert view(server.send(tag=tag)) == BARE_401


@pytest.mark.parametrize(
    "method, target, status",
    [
        ("POST", None, 405),
        ("GET", None, 405),
        ("DELETE", None, 405),
        ("PUT", "/", 404),
        ("PUT", "/v1/sensors/a", 404),
        ("PUT", f"/v1/sensors/a/epochs/{EPOCH}/interfaces/a%2Fb/batches/0", 404),
        ("PUT", f"/v2/sensors/a/epochs/{EPOCH}/interfaces/a/batches/0", 404),
        ("PUT", f"/v1/sensors/a/epochs/{EPOCH}/interfaces/a/batches/0/", 404),
        ("GET", "/docs", 404),
    ],
)
def test_other_resources_and_methods_get_nothing_signed(
    server: Running, method: str, target: str | None, status: int
) -> None:
    answer = server.send(method=method, target=target)

    assert (status, b"", None) == (answer.status, answer.body, answer.outcome)


@pytest.mark.parametrize(
    "change, status",
    [
        (drop("Content-Length"), 411),
        (put("Content-Length", "01"), 411),
        (put("Content-Length", "+1"), 400),  # by h11, before anything of ours
        (twice("Content-Length", "7"), 400),
    ],
    ids=["none", "leading zero", "sign", "two"],
)
def test_a_request_without_one_plain_content_length_is_refused(
    server: Running, change: Callable[[Message], object], status: int
) -> None:
    message = server.signer.message()
    change(message)
    message.body = b""
    server.wire.close()

    answer = server.wire.send(message)

    assert (status, None) == (answer.status, answer.outcome)


def test_a_chunked_request_is_refused(server: Running) -> None:
    message = server.signer.message()
    message.drop("Content-Length").set("Transfer-Encoding", "chunked")
    message.body = b"0\r\n\r\n"
    server.wire.close()

    answer = server.wire.send(message)

    assert (answer.status, answer.body, answer.outcome) == (411, b"", None)


def test_a_body_with_any_bit_flipped_is_altered(server: Running) -> None:
    body = make_section([payload(0, 200)])
    bits = random.Random(9421).sample(range(len(body) * 8), 64)
    outcomes = []
    for bit in bits:
        message = server.signer.message(0, body)
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        message.body = bytes(damaged)
        outcomes.append(server.wire.send(message).outcome)

    assert outcomes == [Outcome.ALTERED] * 64


def _digest(body: bytes, spelling: str) -> str:
    text = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return spelling.format(text=text, unpadded=text.rstrip("="), sha512="AA==")


@pytest.mark.parametrize(
    "spelling",
    [
        "sha-256=:{text}:, sha-512=:{sha512}:",
        "sha-512=:{sha512}:, sha-256=:{text}:",
        "sha-256=:{unpadded}:",
        "sha-256=:{text}:;x",
        "SHA-256=:{text}:",
        "sha-256={text}",
    ],
)
def test_a_signed_digest_in_any_other_spelling_is_no_digest(server: Running, spelling: str) -> None:
    """Signed by the holder of the key, so the MAC is good; the body is the right one; the digest still is not ours."""
    body = make_section([payload(0)])
    message = server.signer.message(0, body)
    resign(message, {"Content-Digest": _digest(body, spelling)})

    assert server.wire.send(message).outcome == Outcome.ALTERED


@pytest.mark.parametrize("parameter", [f";expires={NOW_S + 9}", ";more=1"])
def test_a_signed_parameter_that_this_protocol_does_not_have_gets_the_one_unsigned_401(
    server: Running, parameter: str
) -> None:
    """`expires` would be believed by a reader of the RFC, and is not looked at here."""
    message = server.signer.message()
    resign(message, {"Signature-Input": message.get("signature-input") + parameter})

    assert view(server.wire.send(message)) == BARE_401


def resign(message: Message, fields: dict[str, str]) -> None:
    """Signs again by hand, over fields that the project's signer would not write."""
    for name, value in fields.items():
        message.set(name, value)
    inner = message.get("signature-input").removeprefix("ossensor=")
    components = re.findall(r'"([^"]+)"', inner.partition(")")[0])
    derived = {"@method": message.method, "@authority": message.get("host"), "@path": message.target, "@query": "?"}
    lines = [f'"{c}": {derived[c] if c in derived else message.get(c)}' for c in components]
    base = "\n".join([*lines, f'"@signature-params": {inner}'])
    tag = base64.b64encode(hmac.digest(KEY.secret, base.encode("latin-1"), "sha256")).decode()
    message.set("Signature", f"ossensor=:{tag}:")
    message.signed.headers["Signature"] = f"ossensor=:{tag}:"


MALFORMED: dict[str, dict[str, Any]] = {
    **{
        f"{field} {value!r}": {field: value}
        for field in ("floor", "packets")
        for value in ("+1", "-1", "1_0", "01", "1.0", "0x1", "1e3", "", "1 0", str(2**63), "9" * 40)
    },
    "content type": {"fields": {"Content-Type": "application/octet-stream"}},
    "content type with a parameter": {"fields": {"Content-Type": "application/x-pcapng; v=1"}},
    "content encoding gzip": {"fields": {"Content-Encoding": "gzip"}},
    "content encoding twice over": {"fields": {"Content-Encoding": "zstd, zstd"}},
    "content encoding identity": {"fields": {"Content-Encoding": "identity"}},
    "sensor of dots": {"target": f"/v1/sensors/../epochs/{EPOCH}/interfaces/eth0/batches/0"},
    "sensor that is the index": {"stream": Stream("index.sqlite", EPOCH, "eth0")},
    "sensor that is the TLS folder": {"stream": Stream("tls", EPOCH, "eth0")},
    "epoch in capitals": {"target": f"/v1/sensors/a/epochs/{EPOCH.upper()}/interfaces/eth0/batches/0"},
    "interface of dots": {"target": f"/v1/sensors/a/epochs/{EPOCH}/interfaces/%2E%2E/batches/0"},
    "interface not UTF-8": {"target": f"/v1/sensors/a/epochs/{EPOCH}/interfaces/%ff/batches/0"},
    "interface too long": {"target": f"/v1/sensors/a/epochs/{EPOCH}/interfaces/{'e' * 16}/batches/0"},
    "sequence 01": {"target": f"/v1/sensors/a/epochs/{EPOCH}/interfaces/eth0/batches/01"},
    "sequence over the limit": {"target": f"/v1/sensors/a/epochs/{EPOCH}/interfaces/eth0/batches/{2**63}"},
    "a query": {"target": f"/v1/sensors/a/epochs/{EPOCH}/interfaces/eth0/batches/0?a=1"},
    "sequence below its own floor": {"sequence": 3, "floor": "4"},
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_signed_request_that_means_nothing_is_malformed(server: Running, name: str) -> None:
    assert server.send(**MALFORMED[name]).outcome == Outcome.MALFORMED
