"""Control requests, and replies to them as far as they can be believed. Pure.

A registration is one that goes to whoever is there (registration.py). An Inquiry goes to a vSensor that has proved
itself, over a connection to the proven certificate, and says whatever it has to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from . import protocol
from .protocol import MalformedError, Outcome
from .signing import Key, Nonce, RefusedError, Reply, Request, sign_request, verify_reply
from .stamp import Stamp


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is to be said, where, by whom."""

    path: str
    body: bytes
    stamp: Stamp
    tag: str = protocol.TAG_CONTROL
    most_reply_bytes: int = 64 << 10  # a longer one is cut, and so is not the one that was signed


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it. Without an outcome, nothing came back that bears the vSensor's signature."""

    inquiry: Inquiry
    detail: str
    outcome: Outcome | None = None
    status: int = 0
    content: bytes = b""
    vsensor_time_s: int | None = None


def control_request(
    path: str,
    body: bytes,
    *,
    authority: str,
    application: str,
    key: Key,
    created_s: int,
    nonce: Nonce,
    tag: str = protocol.TAG_CONTROL,
) -> Request:
    """A signed POST of this body."""
    made = Request("POST", f"https://{authority}{path}")
    made.headers["Host"] = authority
    made.headers["User-Agent"] = application
    made.headers["Accept-Encoding"] = "identity"
    made.headers["Content-Type"] = protocol.CONTROL_TYPE
    digest = hashlib.sha256(body).digest()
    sign_request(made, digest, key=key, tag=tag, created_s=created_s, nonce=nonce)
    return made


def request(inquiry: Inquiry, *, authority: str, application: str) -> Request:
    """The inquiry, signed."""
    stamp = inquiry.stamp
    return control_request(
        inquiry.path,
        inquiry.body,
        authority=authority,
        application=application,
        key=stamp.key,
        created_s=stamp.created_s,
        nonce=stamp.nonce,
        tag=inquiry.tag,
    )


def judge(inquiry: Inquiry, reply: Reply, content: bytes) -> Answer:
    """The answer in a reply. Never raises for what a peer can send."""
    key = inquiry.stamp.key
    try:
        verify_reply(reply, content, keys={key.id: key}, tag=f"{inquiry.tag}-reply")
        outcome = Outcome(reply.headers[protocol.FIELD_OUTCOME])
        vsensor_time_s = protocol.parse_number(reply.headers[protocol.FIELD_TIME])
    except (RefusedError, MalformedError, KeyError, ValueError) as e:
        return Answer(inquiry, f"status {reply.status_code}: {e}", status=reply.status_code)
    return Answer(inquiry, f"{reply.status_code} {outcome.value}", outcome, reply.status_code, content, vsensor_time_s)
