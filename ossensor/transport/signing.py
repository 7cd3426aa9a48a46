"""RFC 9421 signatures and RFC 9530 digests, for requests and for replies. Pure: bytes, values and a clock in and out.

Invariant: nothing of a message is believed that its signature does not cover. A request's signature covers method,
authority, path, query, digest, content type, content encoding where there is one, and every `ossensor-*` field; a
reply's covers its status, digest and `ossensor-*` fields *and the signature of the request it answers* (RFC 9421
section 2.4, `;req`), so a reply fits one request only. The tag keeps channels apart.

The library makes and checks the structured fields; policy (coverage, clock window, nonces) is here, because the
library's defaults are not ours: it would take a signature one day old, and any coverage the sender chose.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureKeyResolver,
    InvalidSignature,
    MappingKeyResolver,
)
from http_message_signatures.algorithms import HMAC_SHA256
from http_message_signatures.exceptions import HTTPMessageSignaturesException
from http_message_signatures.structures import CaseInsensitiveDict

from .protocol import FIELD_PREFIX, WINDOW_S

LABEL: Final = "ossensor"
_REQUEST_COMPONENTS: Final = ("@method", "@authority", "@path", "@query", "content-digest", "content-type")
_REPLY_COMPONENTS: Final = ("@status", "content-digest", '"@method";req', '"@path";req', '"signature";req')
# The one spelling of a MAC: base64 has 43 digits for 32 bytes, and the last two bits of the 43rd say nothing.
_SIGNATURE: Final = re.compile(rf"{LABEL}=:[A-Za-z0-9+/]{{42}}[AEIMQUYcgkosw048]=:")
_NONCE = re.compile(r"([0-9a-f]{32})-(0|[1-9][0-9]{0,18})")


class RefusedError(Exception):
    """The message is not from a holder of the key, or not for us. The text is for our log, never for the peer."""


@dataclass(frozen=True, slots=True)
class Key:
    """The shared secret. Its repr never shows it."""

    secret: bytes = field(repr=False)
    # Names the key without telling of it: a truncated HMAC under the key itself.
    id: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", hmac.digest(self.secret, b"ossensor key id v1", "sha256")[:8].hex())


@dataclass(slots=True)
class Request:
    """What of an HTTP request is signed. `url` is absolute, with the authority as the Host field gives it."""

    method: str
    url: str
    headers: MutableMapping[str, str] = field(default_factory=CaseInsensitiveDict)


@dataclass(slots=True)
class Reply:
    """What of an HTTP response is signed, with the request that it answers."""

    status_code: int
    request: Request
    headers: MutableMapping[str, str] = field(default_factory=CaseInsensitiveDict)


@dataclass(frozen=True, slots=True)
class Nonce:
    """A number never used twice: a random run (one uploader's life) and a counter within it.

    Counting instead of drawing keeps the verifier's memory constant: a sliding window per run (RFC 4303 section
    3.4.3) in place of a set of everything seen.
    """

    run: str
    count: int

    def __str__(self) -> str:
        return f"{self.run}-{self.count}"

    @classmethod
    def parse(cls, text: str) -> Nonce:
        match = _NONCE.fullmatch(text)
        if match is None:
            raise RefusedError("the nonce is not of this protocol")
        return cls(match[1], int(match[2]))


@dataclass(frozen=True, slots=True)
class Verified:
    """What a good signature proves. `created_s` has *not* been held against the clock: see `in_window`."""

    key_id: str
    created_s: int
    nonce: Nonce
    content_digest: str


def digest_field(sha256: bytes) -> str:
    """The Content-Digest value of a body with this SHA-256 (RFC 9530 section 2)."""
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"


def body_matches(digest: str, sha256: bytes) -> bool:
    """True when the signed Content-Digest is exactly that of a body with this SHA-256; in constant time.

    Only our own spelling matches: a second algorithm beside sha-256 would be a digest that nobody checked.
    """
    return hmac.compare_digest(digest.encode(), digest_field(sha256).encode())


def in_window(created_s: int, now_s: float) -> bool:
    """True when a signature made at `created_s` may still be believed at `now_s`."""
    return abs(now_s - created_s) <= WINDOW_S


class _Verifier(HTTPMessageVerifier):
    """The library reads the wall clock here; ours is handed in, and applied by the caller after the MAC.

    Time is judged last so that a peer with the key and a wrong clock can be told the time in a signed reply, while
    one without the key learns nothing.
    """

    signature_metadata_parameters: ClassVar = {"created", "keyid", "alg", "nonce", "tag"}  # no `expires`

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:  # noqa: ARG002
        if type(sig_input.params.get("created")) is not int:
            raise InvalidSignature('Parameter "created" must be an integer')


def _resolver(keys: Mapping[str, Key]) -> HTTPSignatureKeyResolver:
    secrets: dict[str, Any] = {key_id: key.secret for key_id, key in keys.items()}
    return MappingKeyResolver(public_keys=secrets, private_keys=secrets)


def _ours(headers: Mapping[str, str]) -> list[str]:
    """The fields beyond the fixed ones that a signature must cover whenever they are there."""
    names = {name.lower() for name in headers}
    return sorted(n for n in names if n.startswith(FIELD_PREFIX) or n == "content-encoding")


def _sign(message: Any, components: list[str], *, key: Key, tag: str, created_s: int, nonce: str | None) -> None:
    # The library's sign() is prepare(), the MAC and apply(), which builds the signature base a second time in case
    # somebody changed the message meanwhile; nobody does here, and it is as long as the rest.
    prepared = HTTPMessageSigner(signature_algorithm=HMAC_SHA256).prepare(
        message,
        key_id=key.id,
        created=dt.datetime.fromtimestamp(created_s, tz=dt.UTC),
        nonce=nonce,
        label=LABEL,
        tag=tag,
        include_alg=True,
        covered_component_ids=components,
        use_existing_digest=True,
    )
    mac = hmac.digest(key.secret, prepared.signature_base, "sha256")
    message.headers["Signature-Input"] = f"{LABEL}={prepared.signature_params}"
    message.headers["Signature"] = f"{LABEL}=:{base64.b64encode(mac).decode()}:"


def sign_request(request: Request, sha256: bytes, *, key: Key, tag: str, created_s: int, nonce: Nonce) -> None:
    """Adds Content-Digest, Signature-Input and Signature to the request, for a body with this SHA-256."""
    request.headers["Content-Digest"] = digest_field(sha256)
    components = [*_REQUEST_COMPONENTS, *_ours(request.headers)]
    _sign(request, components, key=key, tag=tag, created_s=created_s, nonce=str(nonce))


def _verify(message: Any, required: list[str], *, keys: Mapping[str, Key], tag: str) -> Any:
    verifier = _Verifier(signature_algorithm=HMAC_SHA256, key_resolver=_resolver(keys))
    try:
        (result,) = verifier.verify(message, max_age=None, expect_tag=tag, expect_label=LABEL)
    # Version 3.0.0 raises none of the other two: nobody may end this process by what a next one forgets to translate.
    except (HTTPMessageSignaturesException, ValueError, KeyError) as e:
        raise RefusedError(str(e)) from e
    # The library would do this, too, and parse each name of both lists for it: a fifth of the whole [M].
    covered = result.covered_components.keys()
    if missing := [name for name in required if (name if name[0] == '"' else f'"{name}"') not in covered]:
        raise RefusedError(f"the signature does not cover {missing}")
    return result


def _is_spelled_as_made(request: Request, result: Any) -> bool:
    """True when Signature-Input and Signature are, to the byte, what `_sign` makes of what they say.

    The MAC is over a re-serialisation (RFC 9421 section 2.5), so spaces, repeated members and parameters, a second
    signature and loose base64 could be added under a good one: what was seen once would be another request.
    """
    signed = result.covered_components['"@signature-params"']
    return (
        request.headers["signature-input"] == f"{LABEL}={signed}"
        and _SIGNATURE.fullmatch(request.headers["signature"]) is not None
    )


def verify_request(request: Request, *, keys: Mapping[str, Key], tag: str) -> Verified:
    """What the request's signature proves. Raises RefusedError, and nothing else, for anything a peer can send.

    The body has not been seen: hold its SHA-256 against `content_digest` with `body_matches`. The clock and the nonce
    are the caller's too.
    """
    result = _verify(request, [*_REQUEST_COMPONENTS, *_ours(request.headers)], keys=keys, tag=tag)
    if not _is_spelled_as_made(request, result):
        raise RefusedError("a signature field is not in its canonical spelling")
    if result.nonce is None:
        raise RefusedError("the signature has no nonce")
    return Verified(
        key_id=str(result.parameters["keyid"]),
        created_s=int(result.parameters["created"]),
        nonce=Nonce.parse(result.nonce),
        content_digest=result.covered_components['"content-digest"'],
    )


def sign_reply(reply: Reply, body: bytes, *, key: Key, tag: str, created_s: int) -> None:
    """Adds Content-Digest and a signature that is bound to the request's signature."""
    reply.headers["Content-Digest"] = digest_field(hashlib.sha256(body).digest())
    # The library copies all fields of the request twice, of which one is signed.
    request = Request(reply.request.method, reply.request.url)
    request.headers["Signature"] = reply.request.headers["Signature"]
    _sign(
        Reply(reply.status_code, request, reply.headers),
        [*_REPLY_COMPONENTS, *_ours(reply.headers)],
        key=key,
        tag=tag,
        created_s=created_s,
        nonce=None,
    )


def verify_reply(reply: Reply, body: bytes, *, keys: Mapping[str, Key], tag: str) -> int:
    """The `created` time of a reply that answers exactly this request. Raises RefusedError otherwise.

    No clock is consulted: the binding to our own fresh request already proves the reply's age, and a sensor whose
    clock is wrong must be able to learn the time from it.
    """
    result = _verify(reply, [*_REPLY_COMPONENTS, *_ours(reply.headers)], keys=keys, tag=tag)
    if not body_matches(result.covered_components['"content-digest"'], hashlib.sha256(body).digest()):
        raise RefusedError("the reply's body does not match its digest")
    return int(result.parameters["created"])


__all__ = [
    "Key",
    "Nonce",
    "RefusedError",
    "Reply",
    "Request",
    "Verified",
    "body_matches",
    "digest_field",
    "in_window",
    "sign_reply",
    "sign_request",
    "verify_reply",
    "verify_request",
]
