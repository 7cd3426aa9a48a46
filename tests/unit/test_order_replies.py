"""E8: orders are believed in the one reply that the vSensor signed for the one request that asked for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from ossensor.transport import inquiry
from ossensor.transport.inquiry import Answer, Inquiry
from ossensor.transport.orders import Orders
from ossensor.transport.protocol import (
    FIELD_OUTCOME,
    FIELD_TIME,
    TAG_CONTROL_REPLY,
    TAG_DATA_REPLY,
    TAG_ORDER,
    TAG_ORDER_REPLY,
    Outcome,
    antigena_path,
)
from ossensor.transport.signing import Key, Nonce, Reply, Request, sign_reply
from ossensor.transport.stamp import Stamp

KEY, OTHER_KEY = Key(b"k" * 32), Key(b"o" * 32)
ORDERS = Orders("a" * 32, 7, ({"id": "one"},)).body


def asked(sensor: str = "s", nonce: int = 1, created_s: int = 1000) -> Inquiry:
    stamp = Stamp("192.0.2.1", 1, created_s, Nonce("f" * 32, nonce), KEY)
    return Inquiry(antigena_path(sensor), b"{}", stamp, TAG_ORDER)


def request_of(question: Inquiry) -> Request:
    return inquiry.request(question, authority="vsensor.test:8443", application="x")


def replied(
    question: Inquiry, body: bytes = ORDERS, key: Key = KEY, tag: str = TAG_ORDER_REPLY, created_s: int = 1000
) -> Reply:
    reply = Reply(200, request_of(question))
    reply.headers.update({FIELD_OUTCOME: Outcome.REGISTERED.value, FIELD_TIME: str(created_s)})
    sign_reply(reply, body, key=key, tag=tag, created_s=created_s)
    return reply


def judged(question: Inquiry, reply: Reply, body: bytes = ORDERS) -> Answer:
    """What the sensor makes of it: whatever came, it came in answer to its own request."""
    seen = Reply(reply.status_code, request_of(question))
    seen.headers.update(reply.headers)
    return inquiry.judge(question, seen, body)


def _unsigned(reply: Reply) -> Reply:
    del reply.headers["Signature"], reply.headers["Signature-Input"]
    return reply


def _another_outcome(reply: Reply) -> Reply:
    reply.headers[FIELD_OUTCOME] = Outcome.STORED.value
    return reply


def _another_time(reply: Reply) -> Reply:
    reply.headers[FIELD_TIME] = "1001"
    return reply


FORGERIES: dict[str, Callable[[Inquiry], Reply]] = {
    "unsigned": lambda question: _unsigned(replied(question)),
    "signed with another key": lambda question: replied(question, key=OTHER_KEY),
    "replayed: the answer to the request before": lambda question: replied(
        replace(question, stamp=asked(nonce=0).stamp)
    ),
    "stale: the answer to a request of an hour ago": lambda _: replied(asked(created_s=1000 - 3600)),
    "for another sensor": lambda _: replied(asked("t")),
    "of the control channel": lambda question: replied(question, tag=TAG_CONTROL_REPLY),
    "of the data channel": lambda question: replied(question, tag=TAG_DATA_REPLY),
    "with its own request's tag": lambda question: replied(question, tag=TAG_ORDER),
    "of another body": lambda question: replied(question, body=ORDERS + b" "),
    "with another outcome": lambda question: _another_outcome(replied(question)),
    "with another time": lambda question: _another_time(replied(question)),
}


def test_e8_the_vsensors_own_reply_is_believed() -> None:
    answer = judged(asked(), replied(asked()))

    assert (answer.outcome, answer.vsensor_time_s, Orders.parse(answer.content).version) == (
        Outcome.REGISTERED,
        1000,
        7,
    )


@pytest.mark.parametrize("forgery", FORGERIES)
def test_e8_orders_in_any_other_reply_are_none(forgery: str) -> None:
    answer = judged(asked(), FORGERIES[forgery](asked()))

    assert (answer.outcome, answer.content, answer.vsensor_time_s) == (None, b"", None)


def test_e8_a_reply_that_arrives_cut_or_longer_is_none() -> None:
    reply = replied(asked())
    others = [ORDERS[:length] for length in range(len(ORDERS))] + [ORDERS + b" "]

    assert [judged(asked(), reply, body).outcome for body in others] == [None] * (len(ORDERS) + 1)
