"""The question that comes before any packet: does who answers there hold our key? Pure.

Invariant: an address counts as the vSensor's only by a reply that a holder of our key signed over this very question,
nonce included, and in which it names the certificate that we see. A man in the middle cannot make that reply; and he
cannot pass on the vSensor's, because his connection with us bears another certificate (the channel is bound as RFC 5929
section 4 does it, tls-server-end-point, but always by SHA-256). After that the certificate is pinned, and not asked for
again, while the address is in use.

The question names the sensor and its version and nothing else: it may be read by whoever is there. The reply may ask
for something (protocol.Welcome); its body is covered by the signature, so it is the vSensor's wish or refused.
"""

from __future__ import annotations

import hmac
import json
from dataclasses import dataclass
from typing import Final

from . import protocol
from .inquiry import control_request
from .protocol import MalformedError, Outcome, Welcome, parse_number
from .signing import Key, Nonce, RefusedError, Reply, Request, verify_reply

_PROTOCOL_VERSION: Final = 1


class ImpostorError(Exception):
    """Somebody with our key answered, but not the one at the other end of this connection."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and of whom. Either key may be the vSensor's: they are being changed (VSENSOR_HMAC_KEY_NEXT)."""

    sensor: str
    address: str
    generation: int
    keys: tuple[Key, ...]
    created_s: int
    nonces: tuple[Nonce, ...]  # one for each key
    bound: bool  # False: certificates are verified by CAs, and TLS may end in front of the vSensor
    port: int | None = None  # of the address; None: the configured one
    scout: bool = False  # asked at the direct address, beside the one in use; the generation is Direct's


def ask(question: Question, key: Key, nonce: Nonce, *, authority: str, application: str) -> tuple[Request, bytes]:
    """The signed request and its body."""
    body = json.dumps({"protocol": _PROTOCOL_VERSION, "application": application}).encode()
    path, created_s = protocol.registration_path(question.sensor), question.created_s
    who = {"authority": authority, "application": application}
    return control_request(path, body, **who, key=key, created_s=created_s, nonce=nonce), body


def judge(reply: Reply, content: bytes, key: Key, seen_sha256: str | None) -> tuple[int, Welcome]:
    """The vSensor's time, and what it asks for, from a reply that proves that it is the vSensor's.

    Whatever its outcome: the clock or the nonce may have been refused, and the signature is over this question still.
    `seen_sha256`, in hex, is that of the certificate of this connection; None where that is verified otherwise. Raises
    RefusedError for a reply that is not signed for us, ImpostorError for one that is another connection's.
    """
    verify_reply(reply, content, keys={key.id: key}, tag=protocol.TAG_CONTROL_REPLY)
    try:
        Outcome(reply.headers[protocol.FIELD_OUTCOME])
        named_sha256 = reply.headers[protocol.FIELD_CERTIFICATE]
        vsensor_time_s = parse_number(reply.headers[protocol.FIELD_TIME])
        welcome = Welcome.parse(content)
    except (KeyError, ValueError, MalformedError) as e:
        raise RefusedError(f"a field is missing or unreadable: {e}") from e
    if seen_sha256 is not None and not hmac.compare_digest(named_sha256.encode(), seen_sha256.encode()):
        raise ImpostorError(f"certificate {seen_sha256[:16]}... here, {named_sha256[:16]}... at the vSensor")
    return vsensor_time_s, welcome
