"""From the head of a request to what may be done with its body. Pure: fields, keys and a clock reading come in.

Invariant: nothing about a request that the key did not sign is told to anyone, and nothing but its signature is
judged before the signature is good. Whatever fails there raises RefusedError, and the peer gets one reply for all.

Order: syntax, known key, MAC, meaning, time window, replay. Syntax comes before the MAC because the library
joins repeated fields into one value: two spellings of a request must not verify as the same request (those of the
signature's own fields are seen with the MAC, signing.py). Meaning comes
after it because the answer is signed and permanent, which only a holder of the key may learn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ossensor.transport.protocol import (
    CONTENT_TYPE,
    CONTROL_TYPE,
    FIELD_BOOKS,
    FIELD_FLOOR,
    FIELD_PACKETS,
    FIELD_PREFIX,
    TAG_DATA,
    Account,
    BatchId,
    MalformedError,
    Outcome,
    control_sensor,
    parse_number,
)
from ossensor.transport.signing import Key, RefusedError, Request, Verified, in_window, verify_request

from .layout import RESERVED_SENSORS
from .replay import Replay

# A field given twice means what the reader of it happens to take; these are read here or by the signature library.
_ONCE: Final = frozenset(
    {
        "host",
        "content-length",
        "transfer-encoding",
        "content-type",
        "content-encoding",
        "content-digest",
        "signature",
        "signature-input",
    }
)
# The signature library accepts `user@host`, `host/path` and fragments in the URL made from this and drops them from
# the authority, so an altered Host would verify. Underscores are not host names, but container networks use them.
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Head:
    """What of a request has arrived before its body. `path` and `query` are as sent; field names are in lower case."""

    method: str
    path: str
    query: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Authentic:
    """A request whose signature is good, and nothing else is known to be."""

    request: Request
    key: Key
    verified: Verified
    content_bytes: int


@dataclass(frozen=True, slots=True)
class Upload:
    """A fresh, authentic, well-formed announcement of a body that is still to be read and held against its digest."""

    batch: BatchId
    floor: int
    packets: int
    books: Account
    compressed: bool
    content_bytes: int
    content_digest: str


def content_bytes(head: Head) -> int | None:
    """The body's length; None when the request does not say, or not in one canonical number."""
    lengths = [value for name, value in head.fields if name in {"content-length", "transfer-encoding"}]
    try:
        (length,) = lengths
        return parse_number(length)
    except ValueError:  # none, two, or not a number
        return None


def _request(head: Head) -> Request:
    """The request as the signature library reads it. Raises RefusedError for anything with two readings."""
    seen: set[str] = set()
    url = f"{head.path}?{head.query}" if head.query else head.path
    if "#" in url:
        # No target has a fragment (RFC 9112 section 3.2), and the library drops one: `batches/0#` would verify, and get
        # a signed "malformed", which has the sensor give the batch up.
        raise RefusedError("a fragment in the target")
    request = Request(head.method, "")
    for name, value in head.fields:
        if name in seen and (name in _ONCE or name.startswith(FIELD_PREFIX)):
            raise RefusedError(f"repeated field {name}")
        seen.add(name)
        request.headers[name] = value
    host = request.headers.get("host", "")
    if _HOST.fullmatch(host) is None:
        raise RefusedError("no usable Host field")
    request.url = f"https://{host}{url}"
    return request


def authenticate(head: Head, keys: Mapping[str, Key], tag: str = TAG_DATA) -> Authentic:
    """The request, once a holder of one of `keys` has been shown to have signed it. Raises RefusedError otherwise."""
    request = _request(head)
    length = content_bytes(head)
    if length is None:
        raise RefusedError("no usable Content-Length")
    verified = verify_request(request, keys=keys, tag=tag)
    return Authentic(request, keys[verified.key_id], verified, length)


def _meaning(head: Head, authentic: Authentic) -> Upload:
    """What the signer asks for. Raises MalformedError when this protocol has no such request."""
    headers = authentic.request.headers
    batch = BatchId.from_path(head.path)
    if batch.stream.sensor in RESERVED_SENSORS:
        raise MalformedError("a sensor's name that the store uses itself")
    if head.query:
        raise MalformedError("a batch has no query")
    encoding = headers.get("content-encoding")
    if headers.get("content-type") != CONTENT_TYPE or encoding not in {None, "zstd"}:
        raise MalformedError("content type or encoding is not of this protocol")
    return Upload(
        batch=batch,
        floor=parse_number(headers.get(FIELD_FLOOR, "")),
        packets=parse_number(headers.get(FIELD_PACKETS, "")),
        books=Account.parse(headers.get(FIELD_BOOKS, "")),
        compressed=encoding is not None,
        content_bytes=authentic.content_bytes,
        content_digest=authentic.verified.content_digest,
    )


class Gate:
    """Judges authentic requests by meaning, time and nonce."""

    def __init__(self, started_s: float, replay: Replay | None = None) -> None:
        # The memory of nonces is empty after a restart, so whatever was signed before it is refused. Whole seconds:
        # a request of the starting second may have been seen by our predecessor, and its sensor tries again in one.
        # A sensor whose clock runs ahead may have signed "after" our start a request that our predecessor stored; a
        # replay of that is admitted here and then found in the index: nothing is stored twice.
        self._stale_to_s = int(started_s)
        self._replay = Replay() if replay is None else replay  # an empty one is false

    def judge(self, head: Head, authentic: Authentic, now_s: float) -> Upload | Outcome:
        """What to receive, or the outcome to sign. The nonce is used up unless it is the outcome's cause."""
        try:
            upload = _meaning(head, authentic)
        except MalformedError:
            return Outcome.MALFORMED
        return self._refusal(upload.batch.stream.sensor, authentic, now_s) or upload

    def judge_control(self, head: Head, authentic: Authentic, now_s: float) -> Outcome:
        """REGISTERED, or the outcome to sign instead. The body is not judged."""
        try:
            sensor = control_sensor(head.path)
        except MalformedError:
            return Outcome.MALFORMED
        if head.query or authentic.request.headers.get("content-type") != CONTROL_TYPE or sensor in RESERVED_SENSORS:
            return Outcome.MALFORMED
        return self._refusal(sensor, authentic, now_s) or Outcome.REGISTERED

    def _refusal(self, sensor: str, authentic: Authentic, now_s: float) -> Outcome | None:
        created_s = authentic.verified.created_s
        if created_s <= self._stale_to_s or not in_window(created_s, now_s):
            return Outcome.STALE
        return self._replay.check_and_mark(sensor, authentic.verified.nonce, now_s)
