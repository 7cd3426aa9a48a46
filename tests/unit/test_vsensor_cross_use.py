"""E5: what was signed for one place, sensor, epoch or channel is nothing in any other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product

import pytest
from called_collector import head_of
from test_vsensor_kit import EPOCH, KEY, Message, Signer

from ossensor.transport.protocol import (
    FIELD_OUTCOME,
    FIELD_TIME,
    TAG_CONTROL,
    TAG_CONTROL_REPLY,
    TAG_DATA,
    TAG_DATA_REPLY,
    Outcome,
    Stream,
)
from ossensor.transport.signing import RefusedError, Reply, sign_reply, verify_reply
from ossensor.vsensor.verify import authenticate

HOSTS = ("vsensor.test:8443", "vsensor.test:8444", "192.0.2.1:8443")
SENSORS = ("sensor-1", "sensor-2")
EPOCHS = (EPOCH, EPOCH[::-1])
CHANNELS = {TAG_DATA: TAG_DATA_REPLY, TAG_CONTROL: TAG_CONTROL_REPLY}


@dataclass(frozen=True)
class Use:
    """One request that a sensor may sign, told from the others by where it goes and what it is for."""

    what: tuple[str, ...]
    message: Message
    tag: str


def uses() -> Iterator[Use]:
    """Batches over every combination of what they are bound to, and registrations; all of one moment and nonce."""
    for host, sensor, epoch, interface, sequence in product(HOSTS, SENSORS, EPOCHS, ("eth0", "eth1"), (0, 1)):
        message = Signer(host).message(sequence, b"body", stream=Stream(sensor, epoch, interface))
        yield Use(("batch", host, sensor, epoch, interface, str(sequence)), message, TAG_DATA)
    for host, sensor in product(HOSTS, SENSORS):
        yield Use(("registration", host, sensor), Signer(host).registration(b"body", sensor=sensor), TAG_CONTROL)


USES = list(uses())


def accepted(message: Message, tag: str) -> bool:
    try:
        authenticate(head_of(message), {KEY.id: KEY}, tag)
    except RefusedError:
        return False
    return True


def with_signature_of(head: Message, other: Message) -> Message:
    """The head as it is, under the signature that was made for the other."""
    made = Message(head.method, head.target, list(head.fields), head.body, head.signed)
    return made.set("Signature-Input", other.get("signature-input")).set("Signature", other.get("signature"))


def test_e5_each_request_is_accepted_where_it_was_signed_for() -> None:
    assert [use.what for use in USES if not accepted(use.message, use.tag)] == []
    assert len({use.message.get("signature") for use in USES}) == len(USES) == 54


@pytest.mark.slow
def test_e5_no_signature_is_accepted_on_any_other_request() -> None:
    """Every pair of them: other host, sensor, epoch, interface, sequence or channel, or several at once."""
    pairs = Counter(
        accepted(with_signature_of(head.message, other.message), head.tag) for head, other in permutations(USES, 2)
    )

    assert pairs == {False: 54 * 53}


@pytest.mark.parametrize(
    "tag", ["", "ossensor", "ossensor-data ", "OSSENSOR-DATA", "ossensor-antigena", *CHANNELS.values()]
)
def test_e5_no_request_of_a_third_channel_is_accepted_on_either(tag: str) -> None:
    batch = Signer(HOSTS[0]).message(tag=tag)
    registration = Signer(HOSTS[0]).registration(tag=tag)

    assert [accepted(batch, TAG_DATA), accepted(registration, TAG_CONTROL)] == [False, False]


def test_e5_what_one_channel_signed_is_refused_by_the_other_word_for_word() -> None:
    """Not a changed request but the very one: a vSensor that minded the path alone would take it."""
    crossed = [accepted(use.message, tag) for use in USES for tag in CHANNELS if tag != use.tag]

    assert crossed == [False] * 54


def reply_to(use: Use) -> Reply:
    reply = Reply(Outcome.BUSY.status, use.message.signed)
    reply.headers.update({FIELD_OUTCOME: Outcome.BUSY.value, FIELD_TIME: "1"})
    sign_reply(reply, b"", key=KEY, tag=CHANNELS[use.tag], created_s=1)
    return reply


def believed(reply: Reply, use: Use, tag: str | None = None) -> bool:
    seen = Reply(reply.status_code, use.message.signed)
    seen.headers.update(reply.headers)
    try:
        verify_reply(seen, b"", keys={KEY.id: KEY}, tag=tag or CHANNELS[use.tag])
    except RefusedError:
        return False
    return True


@pytest.mark.slow
def test_e5_a_reply_is_believed_by_the_request_that_it_answers_and_by_no_other() -> None:
    replies = [(use, reply_to(use)) for use in USES]
    own = Counter(believed(reply, use) for use, reply in replies)
    others = Counter(believed(reply, asker) for (_, reply), (asker, _) in permutations(replies, 2))
    channels = Counter(believed(reply, use, tag=tag) for use, reply in replies for tag in CHANNELS)

    assert own == {True: 54}
    assert others == {False: 54 * 53}
    assert channels == {False: 54 * 2}  # a reply's channel is not its request's
