"""A control request to a vSensor that has proved itself, and the reply as far as it can be believed. Pure.

Unlike a registration it goes over a connection to the proven certificate, and says whatever it has to say.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from . import protocol
from .protocol import MalformedError, Outcome
from .signing import Key, RefusedError, Reply, Request, sign_request, verify_reply
from .stamp import Stamp


@dataclass(frozen=True, slots=True)
class Inquiry:
    """What is to be said, where, by whom."""

    path: str
    body: bytes
    stamp: Stamp


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of it. Without an outcome, nothing came back that bears the vSensor's signature."""

    inquiry: Inquiry
    detail: str
    outcome: Outcome | None = None
    content: bytes = b""
    status: int = 0


def request(inquiry: Inquiry, *, authority: str, application: str) -> Request:
    """Signed."""
    made = Request("POST", f"https://{authority}{inquiry.path}")
    made.headers["Host"] = authority
    made.headers["User-Agent"] = application
    made.headers["Accept-Encoding"] = "identity"
    made.headers["Content-Type"] = protocol.CONTROL_TYPE
    stamp = inquiry.stamp
    sign_request(
        made,
        hashlib.sha256(inquiry.body).digest(),
        key=stamp.key,
        tag=protocol.TAG_CONTROL,
        created_s=stamp.created_s,
        nonce=stamp.nonce,
    )
    return made


def judge(inquiry: Inquiry, reply: Reply, content: bytes) -> Answer:
    """The answer in a reply. Never raises for what a peer can send."""
    key: Key = inquiry.stamp.key
    try:
        verify_reply(reply, content, keys={key.id: key}, tag=protocol.TAG_CONTROL_REPLY)
        outcome = Outcome(reply.headers[protocol.FIELD_OUTCOME])
    except (RefusedError, MalformedError, KeyError, ValueError) as e:
        return Answer(inquiry, f"status {reply.status_code}: {e}", status=reply.status_code)
    detail = f"{reply.status_code} {outcome.value}"
    return Answer(inquiry, detail, outcome, content, reply.status_code)
