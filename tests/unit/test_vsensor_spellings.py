"""E6: a request that is spelled otherwise than it was signed is refused, except where HTTP itself hears no difference.

Each spelling goes over TLS to a real server as the bytes that it is: what h11 and uvicorn make of it counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest
from spellings import HOST, REFUSED, SAME, Change, Spelling
from test_vsensor_kit import RUN, Answer, Message, Running, Signer, Wire, payload, rows, section

from ossensor.transport.protocol import FIELD_BOOKS, Account, Outcome
from ossensor.transport.signing import Nonce


@dataclass
class Speller(Wire):
    """Sends the head that it was given in place of the message's."""

    spelling: Spelling = field(default_factory=lambda: Spelling("", []))

    def head(self, _: Message) -> bytes:
        return self.spelling.head

    def say(self, message: Message, change: Change) -> Answer:
        fields = [f"{name}: {text}" for name, text in message.fields]
        self.spelling = Spelling(f"{message.method} {message.target} HTTP/1.1", fields)
        change(self.spelling)
        return self.send(message)


@pytest.fixture
def speller(tmp_path: Path) -> Iterator[Speller]:
    with Running(tmp_path) as running:
        made = Speller(running.port, running.pair.certificate)
        yield made
        made.close()


def genuine(sequence: int = 0) -> Message:
    """A request whose base64 has characters that are others in the URL alphabet."""
    fields = {FIELD_BOOKS: Account(received=1).text}
    for attempt in count():
        body = section([payload(attempt)])
        message = Signer(HOST).message(sequence, body, fields=fields, nonce=Nonce(RUN, sequence))
        if all(set("+/") & set(message.get(name)[10:]) for name in ("Content-Digest", "Signature")):
            return message
    raise AssertionError


@pytest.mark.slow
def test_e6_no_spelling_but_those_of_http_is_accepted(speller: Speller, tmp_path: Path) -> None:
    message = genuine()
    statuses: Counter[int] = Counter()
    wrong = {}
    for name, change in REFUSED.items():
        answer = speller.say(message, change)
        statuses[answer.status] += 1
        if answer.outcome is not None or answer.status not in {400, 401, 404, 405}:
            wrong[name] = (answer.status, answer.outcome)

    print(f"{len(REFUSED)} spellings: {statuses}")
    assert wrong == {}
    assert rows(tmp_path) == []
    # It was the spelling: as it was signed, it is stored, and its nonce has been free until now.
    assert speller.say(message, SAME["as it was signed"]).outcome == Outcome.STORED


def test_e6_what_http_calls_the_same_is_accepted_once_in_whatever_spelling(speller: Speller, tmp_path: Path) -> None:
    """Were it another request, a thief could replay it by writing a field's name in capitals."""
    outcomes = {}
    for number, (name, first) in enumerate(SAME.items()):
        message = genuine(sequence=number)
        outcomes[name] = [speller.say(message, change).outcome for change in (first, *SAME.values())]

    assert outcomes == {name: [Outcome.STORED] + [Outcome.REPLAYED] * len(SAME) for name in SAME}
    assert len(rows(tmp_path)) == len(SAME)
