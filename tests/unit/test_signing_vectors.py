"""RFC 9421 and 9530, against the RFCs' own examples, an independent signer, and vectors that are kept in a file.

The vectors (tests/vectors/signing.json) are the protocol: a change that alters one is a new protocol version. They were
written by the signer in this file, which shares nothing with the code under test; running this file as a program writes
them again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, MappingKeyResolver
from http_message_signatures.algorithms import HMAC_SHA256
from http_message_signatures.digests import ContentDigest

from ossensor.transport import signing
from ossensor.transport.signing import (
    Key,
    Nonce,
    Reply,
    Request,
    body_matches,
    digest_field,
    sign_reply,
    sign_request,
    verify_reply,
    verify_request,
)

VECTORS = Path(__file__).parent.parent / "vectors" / "signing.json"
KEY = Key(bytes(range(32)))
TAG = "ossensor-data"
URL = "https://vsensor.example:8443/v1/sensors/s/epochs/" + "0" * 32 + "/interfaces/eth0/batches/0"
NONCE = Nonce("0123456789abcdef" * 2, 7)


# --- the oracle: the RFC by hand, with the standard library ---------------------------------------------------------


def oracle(
    values: list[tuple[str, str]], *, secret: bytes, created: int, nonce: str | None, tag: str
) -> dict[str, str]:
    """Signature base, input and signature over these (component, value) pairs, in this order (RFC 9421 section 2.5)."""
    key_id = hmac.digest(secret, b"ossensor key id v1", "sha256")[:8].hex()
    names = " ".join(c for c, _ in values)
    inner = f'({names});created={created};keyid="{key_id}";alg="hmac-sha256"'
    inner += f';nonce="{nonce}"' * (nonce is not None) + f';tag="{tag}"'
    base = "\n".join([*(f"{c}: {v}" for c, v in values), f'"@signature-params": {inner}'])
    mac = base64.b64encode(hmac.digest(secret, base.encode(), "sha256")).decode()
    return {"base": base, "signature-input": f"ossensor={inner}", "signature": f"ossensor=:{mac}:"}


def oracle_digest(body: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"


def oracle_request(case: dict[str, Any]) -> dict[str, str]:
    fields = {"content-digest": oracle_digest(bytes.fromhex(case["body"])), **case["fields"]}
    ours = sorted(n for n in fields if n.startswith("ossensor-") or n == "content-encoding")
    values = [
        ('"@method"', case["method"]),
        ('"@authority"', case["authority"]),
        ('"@path"', case["path"]),
        ('"@query"', "?" + case["query"]),
        *((f'"{n}"', fields[n]) for n in ("content-digest", "content-type", *ours)),
    ]
    signed = oracle(
        values, secret=bytes.fromhex(case["key"]), created=case["created"], nonce=case["nonce"], tag=case["tag"]
    )
    return {"content-digest": fields["content-digest"], **signed}


def oracle_reply(case: dict[str, Any], request: dict[str, str]) -> dict[str, str]:
    reply = case["reply"]
    digest = oracle_digest(b"")
    values = [
        ('"@status"', str(reply["status"])),
        ('"content-digest"', digest),
        ('"@method";req', case["method"]),
        ('"@path";req', case["path"]),
        ('"signature";req', request["signature"]),
        *((f'"{n}"', reply["fields"][n]) for n in sorted(reply["fields"])),
    ]
    signed = oracle(
        values, secret=bytes.fromhex(case["key"]), created=reply["created"], nonce=None, tag=case["tag"] + "-reply"
    )
    return {"content-digest": digest, **signed}


def make_cases() -> list[dict[str, Any]]:
    """One plain request, and one variation of it for each thing that is signed."""
    plain: dict[str, Any] = {
        "key": KEY.secret.hex(),
        "method": "PUT",
        "authority": "vsensor.example:8443",
        "path": "/v1/sensors/s/epochs/" + "0" * 32 + "/interfaces/eth0/batches/0",
        "query": "",
        "fields": {"content-type": "application/x-pcapng", "ossensor-floor": "0", "ossensor-packets": "1"},
        "body": b"body".hex(),
        "created": 1795424479,
        "nonce": str(NONCE),
        "tag": TAG,
        "reply": {
            "status": 201,
            "created": 1795424480,
            "fields": {"ossensor-outcome": "stored", "ossensor-time": "1795424480"},
        },
    }
    fields, reply = plain["fields"], plain["reply"]
    variations: dict[str, dict[str, Any]] = {
        "plain": {},
        "key of one byte": {"key": "ff"},
        "key of 64 bytes": {"key": bytes(range(64)).hex()},
        "key longer than a block": {"key": bytes(range(200)).hex()},
        "key with a line break": {"key": b"secret\n".hex()},
        "default port": {"authority": "vsensor.example"},
        "IPv4": {"authority": "192.0.2.1:8443"},
        "IPv6": {"authority": "[2001:db8::1]:8443"},
        "percent-encoded interface": {"path": plain["path"].replace("eth0", "veth%40if3%25")},
        "interface not ASCII": {"path": plain["path"].replace("eth0", "%C3%BCplink")},
        "largest sequence": {"path": plain["path"][:-1] + str(2**63 - 1)},
        "other sensor": {"path": plain["path"].replace("/s/", "/Host-1.example_x/")},
        "other epoch": {"path": plain["path"].replace("0" * 32, "f" * 32)},
        "query": {"query": "a=1&b=%20"},
        "POST": {"method": "POST"},
        "zstd": {"fields": {**fields, "content-encoding": "zstd"}},
        "floor": {"fields": {**fields, "ossensor-floor": str(2**63 - 1)}},
        "no packets": {"fields": {**fields, "ossensor-packets": "0"}},
        "a field to come": {"fields": {**fields, "ossensor-a": "x", "ossensor-z": "y z"}},
        "other content type": {"fields": {**fields, "content-type": "application/json"}},
        "empty body": {"body": ""},
        "body of line breaks": {"body": b"\r\n\r\n".hex()},
        "body of a mebibyte's ends": {"body": (b"\0" * 1000 + b"\xff" * 1000).hex()},
        "created at the epoch": {"created": 0},
        "created in 2106": {"created": 2**32},
        "first nonce": {"nonce": f"{'0' * 32}-0"},
        "last nonce": {"nonce": f"{'f' * 32}-{2**63 - 1}"},
        "other tag": {"tag": "ossensor-control"},
        "present": {"reply": {**reply, "status": 200, "fields": {**reply["fields"], "ossensor-outcome": "present"}}},
        "stale": {"reply": {**reply, "status": 401, "fields": {**reply["fields"], "ossensor-outcome": "stale"}}},
        "too large": {
            "reply": {**reply, "status": 413, "fields": {**reply["fields"], "ossensor-outcome": "too-large"}}
        },
        "reply an hour later": {"reply": {**reply, "created": reply["created"] + 3600}},
    }
    cases = []
    for name, changes in variations.items():
        case = {"name": name, **plain, **changes}
        request = oracle_request(case)
        cases.append({**case, "expected": {"request": request, "reply": oracle_reply(case, request)}})
    return cases


CASES = json.loads(VECTORS.read_text(encoding="utf-8")) if VECTORS.exists() else []


@pytest.fixture(params=CASES, ids=lambda case: str(case["name"]))
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def signed_request(case: dict[str, Any]) -> Request:
    request = Request(
        case["method"], f"https://{case['authority']}{case['path']}" + f"?{case['query']}" * bool(case["query"])
    )
    request.headers.update(case["fields"])
    run, _, count = case["nonce"].partition("-")
    sign_request(
        request,
        hashlib.sha256(bytes.fromhex(case["body"])).digest(),
        key=Key(bytes.fromhex(case["key"])),
        tag=case["tag"],
        created_s=case["created"],
        nonce=Nonce(run, int(count)),
    )
    return request


def base_of(message: Any, key: Key, tag: str, required: list[str]) -> str:
    """The signature base, as the library made it to verify."""
    result = signing._verify(message, required, keys={key.id: key}, tag=tag)
    return "\n".join(f"{name}: {value}" for name, value in result.covered_components.items())


def wire(message: Any) -> dict[str, str]:
    return {name: message.headers[name] for name in ("content-digest", "signature-input", "signature")}


def test_the_file_of_vectors_is_what_the_independent_signer_makes() -> None:
    assert len(CASES) >= 30
    assert make_cases() == CASES


def test_a_request_is_signed_as_the_vector_says(case: dict[str, Any]) -> None:
    expected = dict(case["expected"]["request"])
    request = signed_request(case)
    key = Key(bytes.fromhex(case["key"]))

    assert base_of(request, key, case["tag"], []) == expected.pop("base")
    assert wire(request) == expected


def test_a_vectors_request_is_verified(case: dict[str, Any]) -> None:
    request = signed_request(case)
    key = Key(bytes.fromhex(case["key"]))
    verified = verify_request(request, keys={key.id: key}, tag=case["tag"])

    assert (verified.key_id, verified.created_s, str(verified.nonce)) == (key.id, case["created"], case["nonce"])
    assert body_matches(verified.content_digest, hashlib.sha256(bytes.fromhex(case["body"])).digest())


def test_a_reply_is_signed_and_verified_as_the_vector_says(case: dict[str, Any]) -> None:
    expected = dict(case["expected"]["reply"])
    key = Key(bytes.fromhex(case["key"]))
    tag = case["tag"] + "-reply"
    reply = Reply(case["reply"]["status"], signed_request(case))
    reply.headers.update(case["reply"]["fields"])
    sign_reply(reply, b"", key=key, tag=tag, created_s=case["reply"]["created"])

    assert base_of(reply, key, tag, []) == expected.pop("base")
    assert wire(reply) == expected
    assert verify_reply(reply, b"", keys={key.id: key}, tag=tag) == case["reply"]["created"]


# --- the RFCs' examples, through the library that we use ------------------------------------------------------------

RFC_SECRET = base64.b64decode(
    "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
)
RFC_SIGNATURE = "sig-b25=:pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8=:"


def rfc_request() -> Request:
    request = Request("POST", "https://example.com/foo?param=Value&Pet=dog")
    request.headers.update({"Date": "Tue, 20 Apr 2021 02:07:55 GMT", "Content-Type": "application/json"})
    return request


def test_rfc_9421_appendix_b_2_5_is_reproduced() -> None:
    request = rfc_request()
    resolver = MappingKeyResolver(
        public_keys={"test-shared-secret": RFC_SECRET}, private_keys={"test-shared-secret": RFC_SECRET}
    )
    HTTPMessageSigner(signature_algorithm=HMAC_SHA256, key_resolver=resolver).sign(
        request,
        key_id="test-shared-secret",
        created=signing.dt.datetime.fromtimestamp(1618884473, tz=signing.dt.UTC),
        label="sig-b25",
        include_alg=False,
        covered_component_ids=["date", "@authority", "content-type"],
    )

    assert request.headers["Signature-Input"] == (
        'sig-b25=("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    )
    assert request.headers["Signature"] == RFC_SIGNATURE
    (result,) = HTTPMessageVerifier(signature_algorithm=HMAC_SHA256, key_resolver=resolver).verify(
        request, max_age=signing.dt.timedelta(days=365_000)
    )
    assert result.parameters["created"] == 1618884473


@pytest.mark.parametrize(
    "body, digest",
    [
        (b'{"hello": "world"}', "X48E9qOokqqrvdts8nOJRJN3OWDUoyWxBf7kbu9DBPE="),
        (b'{"hello": "world"}\n', "RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg="),
    ],
)
def test_rfc_9530_digests_are_reproduced(body: bytes, digest: str) -> None:
    assert ContentDigest.create(body) == f"sha-256=:{digest}:"
    assert digest_field(hashlib.sha256(body).digest()) == f"sha-256=:{digest}:"


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(make_cases(), indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
