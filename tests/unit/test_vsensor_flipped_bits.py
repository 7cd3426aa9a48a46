"""D1: each bit of a batch, flipped on its way: the body's at the collector, the head's from the HTTP parser on.

The head is flipped as bytes of a connection because it is h11 that says what they mean; uvicorn drives it the same way.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from pathlib import Path

import h11
import pytest
import zstandard
from called_collector import Whole, called, head_of
from test_vsensor_kit import KEY, NOW_S, Message, Signer, payload, rows, section

from ossensor.transport.protocol import Outcome
from ossensor.transport.signing import RefusedError, body_matches
from ossensor.vsensor import verify
from ossensor.vsensor.body import Body

PLAIN = section([payload(0, 4096 - len(section([b""])))])
BODIES = {"section": (PLAIN, None), "frame": (zstandard.compress(PLAIN), {"Content-Encoding": "zstd"})}


def flipped(data: bytes, bit: int) -> bytes:
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.slow
@pytest.mark.parametrize("what", BODIES)
def test_d1_each_bit_of_a_body_makes_it_altered_and_nothing_of_it_is_stored(tmp_path: Path, what: str) -> None:
    body, fields = BODIES[what]
    message = Signer("vsensor.test").message(0, body, fields=fields)
    with called(tmp_path) as vsensor:
        collector = vsensor.collector
        # The head is whole each time, so it is judged once: a second time its nonce would be used.
        authentic = verify.authenticate(head_of(message), {KEY.id: KEY})
        upload = verify.Gate(NOW_S - 3600).judge(head_of(message), authentic, NOW_S)
        assert isinstance(upload, verify.Upload)

        async def received(data: bytes) -> Outcome:
            return await collector._receive(upload, Body(Whole(data), upload.content_bytes))

        async def each_bit() -> Counter[Outcome]:
            return Counter([await received(flipped(body, bit)) for bit in range(len(body) * 8)])

        outcomes = asyncio.run(each_bit())
        assert collector.budget.lent_bytes == 0
        assert rows(tmp_path) == []
        whole = asyncio.run(received(body))

    print(f"{what} of {len(body)} bytes: {outcomes}")
    assert len(PLAIN) * 8 == 32_768
    assert outcomes == {Outcome.ALTERED: len(body) * 8}
    # It was the bit: as it was signed, it is stored.
    assert (whole, len(rows(tmp_path))) == (Outcome.STORED, 1)


def parsed(data: bytes) -> Message | None:
    """The request in these bytes; None when they are no HTTP, or their body does not come."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16 << 10)
    connection.receive_data(data)
    head, body = None, b""
    try:
        while True:
            event = connection.next_event()
            match event:
                case h11.Request():
                    head = event
                case h11.Data():
                    body += bytes(event.data)
                case h11.EndOfMessage() if head is not None:
                    fields = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in head.headers]
                    return Message(head.method.decode(), head.target.decode("latin-1"), fields, body, None)
                case _:
                    return None
    except h11.RemoteProtocolError:
        return None


def judged(data: bytes) -> str:
    """What a vSensor makes of these bytes before it looks into the body."""
    message = parsed(data)
    if message is None:
        return "no request"
    head = head_of(message)
    try:
        if verify.content_bytes(head) is None:
            return "no length"
        authentic = verify.authenticate(head, {KEY.id: KEY})
    except RefusedError:
        return "refused"
    verdict = verify.Gate(NOW_S - 3600).judge(head, authentic, NOW_S)
    if isinstance(verdict, Outcome):
        return verdict.value
    matches = body_matches(verdict.content_digest, hashlib.sha256(message.body).digest())
    return "accepted" if matches else Outcome.ALTERED.value


def meaningless(head: bytes) -> set[int]:
    """The bits of a head that say nothing of what is asked for, by HTTP's own rules; none of them is in a signed value.

    Field names have no case (RFC 9110 section 5.1), nor has a host's name (section 4.2.3). CR, less one bit, is a tab:
    then the line ends with LF alone and a space before it (RFC 9112 sections 2.2 and 5). The version says how to frame
    an answer; the message is read as one of the version that the reader knows (RFC 9110 section 6.2).
    """
    version = head.index(b"\r\n") - 3
    bits = {at * 8 + bit for at in (version, version + 2) for bit in range(4) if chr(head[at] ^ 1 << bit).isdigit()}
    start = version + 5
    for line in head[start : -len(b"\r\n\r\n")].split(b"\r\n"):
        name, _, _ = line.partition(b": ")
        without_case = line if name == b"Host" else name
        bits |= {(start + at) * 8 + 5 for at, letter in enumerate(without_case) if chr(letter).isalpha()}
        bits.add((start + len(line)) * 8 + 2)
        start += len(line) + 2
    return bits


@pytest.mark.slow
def test_d1_each_bit_of_a_head_is_refused_unless_http_gives_it_no_meaning() -> None:
    message = Signer("vsensor.test").message(0, section([payload(0)]))
    lines = [f"{message.method} {message.target} HTTP/1.1", *(f"{n}: {v}" for n, v in message.fields), "", ""]
    head = "\r\n".join(lines).encode()
    data = head + message.body
    judgements: Counter[str] = Counter()
    accepted = set()
    for bit in range(len(head) * 8):
        judgement = judged(flipped(data, bit))
        judgements[judgement] += 1
        if judgement == "accepted":
            accepted.add(bit)

    print(f"{len(head)} bytes of head: {judgements}")
    assert judged(data) == "accepted"
    assert accepted == meaningless(head)
    assert judgements.total() == len(head) * 8
