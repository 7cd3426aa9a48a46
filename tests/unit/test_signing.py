"""What is believed of a signed message, and what is refused. The bytes themselves: test_signing_vectors.py."""

from __future__ import annotations

import base64
import hashlib
import hmac
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossensor.transport.signing import (
    Key,
    Nonce,
    RefusedError,
    Reply,
    Request,
    Verified,
    body_matches,
    digest_field,
    in_window,
    sign_reply,
    sign_request,
    verify_reply,
    verify_request,
)

KEY = Key(bytes(range(32)))
TAG = "ossensor-data"
URL = "https://vsensor.example:8443/v1/sensors/s/epochs/" + "0" * 32 + "/interfaces/eth0/batches/0"
NONCE = Nonce("0123456789abcdef" * 2, 7)


def plain_request(created_s: int = 1795424479, **fields: str) -> Request:
    request = Request("PUT", URL)
    request.headers.update({"Content-Type": "application/x-pcapng", **fields})
    sign_request(request, bytes(32), key=KEY, tag=TAG, created_s=created_s, nonce=NONCE)
    return request


def plain_reply(request: Request) -> Reply:
    reply = Reply(201, request)
    reply.headers["ossensor-outcome"] = "stored"
    sign_reply(reply, b"", key=KEY, tag=TAG + "-reply", created_s=1795424480)
    return reply


def test_two_keys_are_live_and_the_one_that_signed_is_named() -> None:
    new = Key(b"n" * 32)
    keys = {KEY.id: KEY, new.id: new}
    request = Request("PUT", URL)
    request.headers["Content-Type"] = "application/x-pcapng"
    sign_request(request, bytes(32), key=new, tag=TAG, created_s=0, nonce=NONCE)

    assert verify_request(request, keys=keys, tag=TAG).key_id == new.id
    assert verify_request(plain_request(), keys=keys, tag=TAG).key_id == KEY.id
    with pytest.raises(RefusedError):
        verify_request(request, keys={KEY.id: KEY}, tag=TAG)


def test_a_reply_fits_the_request_that_it_answers_and_no_other() -> None:
    first, second = plain_request(), plain_request(created_s=1795424481)
    reply = plain_reply(first)

    assert verify_reply(reply, b"", keys={KEY.id: KEY}, tag=TAG + "-reply") == 1795424480
    reply.request = second
    with pytest.raises(RefusedError):
        verify_reply(reply, b"", keys={KEY.id: KEY}, tag=TAG + "-reply")


def signed_by_hand(parameters: str) -> Request:
    """A request whose MAC is good under the key, with these parameters in place of ours."""
    request = plain_request()
    signed = {
        '"@method"': "PUT",
        '"@authority"': "vsensor.example:8443",
        '"@path"': URL.partition(":8443")[2],
        '"@query"': "?",
        '"content-digest"': digest_field(bytes(32)),
        '"content-type"': "application/x-pcapng",
    }
    inner = f"({' '.join(signed)}){parameters}"
    base = "\n".join([*(f"{name}: {value}" for name, value in signed.items()), f'"@signature-params": {inner}'])
    mac = base64.b64encode(hmac.digest(KEY.secret, base.encode(), "sha256")).decode()
    request.headers.update({"Signature-Input": f"ossensor={inner}", "Signature": f"ossensor=:{mac}:"})
    return request


NAMED = f';keyid="{KEY.id}";alg="hmac-sha256";tag="{TAG}"'


def test_what_is_signed_by_hand_as_we_sign_is_believed() -> None:
    request = signed_by_hand(f';created=5;nonce="{NONCE}"' + NAMED)

    assert verify_request(request, keys={KEY.id: KEY}, tag=TAG) == Verified(KEY.id, 5, NONCE, digest_field(bytes(32)))


@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param(f';created=5;nonce="{NONCE}x"' + NAMED, id="a nonce of another protocol"),
        pytest.param(";created=5" + NAMED, id="no nonce"),
        pytest.param(f';nonce="{NONCE}"' + NAMED, id="no time"),
        pytest.param(f';created="5";nonce="{NONCE}"' + NAMED, id="a time that is a text"),
        pytest.param(f';created=5.0;nonce="{NONCE}"' + NAMED, id="a time that is a fraction"),
        pytest.param(f';created;nonce="{NONCE}"' + NAMED, id="a time that is true"),
        pytest.param(f';created=5;nonce="{NONCE}";tag="{TAG}"', id="no key's name"),
        pytest.param(f';created=5;expires=9;nonce="{NONCE}"' + NAMED, id="an end, which this protocol does not have"),
    ],
)
def test_a_holder_of_the_key_who_leaves_out_or_changes_what_is_needed_is_refused(parameters: str) -> None:
    with pytest.raises(RefusedError):
        verify_request(signed_by_hand(parameters), keys={KEY.id: KEY}, tag=TAG)


LOOSE = {
    "a space behind it": ("Signature-Input", lambda value: value + " "),
    "two spaces in the list": ("Signature-Input", lambda value: value.replace(" ", "  ", 1)),
    "a parameter given twice": ("Signature-Input", lambda value: value.replace(";created", ";created=1;created", 1)),
    "a second member": ("Signature-Input", lambda value: f"{value}, other=()"),
    "a second signature": ("Signature", lambda value: f"{value}, other=:AA==:"),
    "a parameter of the signature": ("Signature", lambda value: value + ";a"),
    "base64 without its end": ("Signature", lambda value: value.replace("=:", ":")),
    "bits behind the last byte": ("Signature", lambda value: value[:-3] + _next_digit(value[-3]) + "=:"),
}


def _next_digit(digit: str) -> str:
    """Of base64; as the last of 43, one that gives the same 32 bytes."""
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/"
    return digits[digits.index(digit) + 1]


@pytest.mark.parametrize("name", LOOSE)
def test_a_good_signature_in_any_other_spelling_is_refused(name: str) -> None:
    """The MAC is over a re-serialisation: what was seen once must not come again as another request."""
    request = plain_request()
    field, loosened = LOOSE[name]
    request.headers[field] = loosened(request.headers[field])

    with pytest.raises(RefusedError):
        verify_request(request, keys={KEY.id: KEY}, tag=TAG)


@pytest.mark.parametrize("name", ["ossensor-\u00e9", "ossensor-\0", "ossensor-\n", 'ossensor-"', "ossensor-"])
def test_a_field_of_ours_whose_name_cannot_be_signed_is_refused(name: str) -> None:
    request = plain_request()
    request.headers[name] = "1"

    with pytest.raises(RefusedError):
        verify_request(request, keys={KEY.id: KEY}, tag=TAG)


@pytest.mark.parametrize("url", ["https://[", "https://vsensor.example:port/", "", f"{URL}\udc80"])
def test_a_place_that_is_none_is_refused(url: str) -> None:
    """Target and Host field are a stranger's; the last has no UTF-8."""
    request = plain_request()
    request.url = url

    with pytest.raises(RefusedError):
        verify_request(request, keys={KEY.id: KEY}, tag=TAG)


@pytest.mark.parametrize("change", ["status", "outcome", "new field", "body", "tag", "outcome gone"])
def test_an_altered_reply_is_refused(change: str) -> None:
    reply, body, tag = plain_reply(plain_request()), b"", TAG + "-reply"
    match change:
        case "status":
            reply.status_code = 200
        case "outcome":
            reply.headers["ossensor-outcome"] = "present"
        case "new field":
            reply.headers["ossensor-time"] = "1"
        case "outcome gone":
            del reply.headers["ossensor-outcome"]
        case "body":
            body = b"x"
        case "tag":
            tag = TAG

    with pytest.raises(RefusedError):
        verify_reply(reply, body, keys={KEY.id: KEY}, tag=tag)


@pytest.mark.parametrize(
    "skew_s, believed", [(-301, 0), (-61, 0), (-60, 1), (-59, 1), (0, 1), (59, 1), (60, 1), (61, 0)]
)
def test_the_window_is_sixty_seconds_either_way(skew_s: int, believed: int) -> None:
    assert in_window(1_000_000 + skew_s, 1_000_000.0) == bool(believed)


def test_a_body_matches_only_its_digest_in_one_spelling() -> None:
    sha256 = hashlib.sha256(b"body").digest()
    text = base64.b64encode(sha256).decode()
    accepted = [
        spelling
        for spelling in (
            f"sha-256=:{text}:",
            f"sha-256=:{text.rstrip('=')}:",
            f"sha-256=:{text}:, sha-512=:AA==:",
            f"sha-512=:AA==:, sha-256=:{text}:",
            f"sha-256=:{text}: ",
            f"SHA-256=:{text}:",
            f"sha-256=:{text}:;a",
            f"sha-512=:{text}:",
            "",
            "ü",
        )
        if body_matches(spelling, sha256)
    ]

    assert accepted == [f"sha-256=:{text}:"]


def test_each_bit_of_a_body_changes_its_digest() -> None:
    body = hashlib.shake_128(b"body").digest(4096)
    digest = digest_field(hashlib.sha256(body).digest())
    matching = 0
    for bit in range(len(body) * 8):
        damaged = bytearray(body)
        damaged[bit // 8] ^= 1 << bit % 8
        matching += body_matches(digest, hashlib.sha256(damaged).digest())

    assert matching == 0


@pytest.mark.parametrize(
    "text",
    ["", "0", "0" * 32, f"{'0' * 32}-", f"{'0' * 32}-01", f"{'0' * 32}-+1", f"{'0' * 32}-1 ", f"{'A' * 32}-1",
     f"{'0' * 31}-1", f"{'0' * 32}-\u0661", f"{'0' * 32}-1\n", f"{'0' * 32}-{'1' * 20}"],
)  # fmt: skip
def test_a_nonce_in_any_other_spelling_is_refused(text: str) -> None:
    with pytest.raises(RefusedError):
        Nonce.parse(text)


def test_a_nonce_survives_the_wire() -> None:
    for nonce in (NONCE, Nonce("f" * 32, 0), Nonce("0" * 32, 2**63 - 1)):
        assert Nonce.parse(str(nonce)) == nonce


def test_the_key_is_not_in_its_repr_nor_in_its_id() -> None:
    key = Key(b"a secret that must not be seen")

    assert repr(key) == "Key()"
    assert key.id == hmac.new(key.secret, b"ossensor key id v1", "sha256").hexdigest()[:16]


TEXT = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=80)


@given(
    name=st.sampled_from(["Signature", "Signature-Input", "Content-Digest", "Content-Type", "ossensor-floor", "x"]),
    value=TEXT,
    cut=st.integers(0, 400),
    url=st.one_of(st.just(URL), TEXT, TEXT.map(lambda t: URL + t)),
    method=st.one_of(st.just("PUT"), TEXT),
)
def test_whatever_arrives_is_verified_or_refused_and_nothing_else_is_raised(
    name: str, value: str, cut: int, url: str, method: str
) -> None:
    request = plain_request()
    genuine = dict(request.headers)
    old = request.headers.get(name, "")
    request.headers[name] = old[:cut] + value + old[cut + 1 :]
    request.url, request.method = url, method
    try:
        verify_request(request, keys={KEY.id: KEY}, tag=TAG)
    except RefusedError:
        return

    # The second oracle: what passed says what was signed. Fragments, an empty query and spaces around a value are not
    # part of it (RFC 9421 sections 2.1 and 2.2.7).
    said = (method, url.partition("#")[0].removesuffix("?"), *(request.headers[n].strip(" \t") for n in SIGNED))
    assert said == ("PUT", URL, *(genuine[n] for n in SIGNED))
    assert "ossensor-floor" not in request.headers


SIGNED = ("Content-Digest", "Content-Type")
