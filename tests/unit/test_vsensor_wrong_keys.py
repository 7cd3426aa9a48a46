"""E2: whoever has not exactly the key is told nothing, and nobody can tell which of his mistakes it was."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from pathlib import Path

import pytest
from called_collector import BARE_401, called, signed_by_hand
from test_vsensor_kit import KEY, RUN, Running, Signer, rows

from ossensor.transport.signing import Key

COUNT = 10_000

# Never the key with NULs behind it: HMAC fills a short key up with zeros (RFC 2104 section 2), so that *is* the key.
_KINDS = {
    "another": lambda rng: rng.randbytes(len(KEY.secret)),
    "of another length": lambda rng: rng.randbytes(rng.randrange(1, 200)),
    "cut": lambda rng: KEY.secret[: rng.randrange(len(KEY.secret))],
    "cut in front": lambda rng: KEY.secret[rng.randrange(1, len(KEY.secret)) :],
    "empty": lambda _: b"",
    "a line break behind": lambda rng: KEY.secret + rng.choice([b"\n", b"\r\n", b"\n\n", b"\r"]),
    "a line break in front": lambda rng: rng.choice([b"\n", b"\r\n", b"\n\n", b"\r"]) + KEY.secret,
    "a line break within": lambda rng: KEY.secret[: (at := rng.randrange(1, 31))] + b"\n" + KEY.secret[at:],
    "more behind": lambda rng: KEY.secret + bytes([rng.randrange(1, 256)]) + rng.randbytes(rng.randrange(40)),
    "one bit": lambda rng: (int.from_bytes(KEY.secret, "big") ^ 1 << rng.randrange(256)).to_bytes(32, "big"),
    "two bytes exchanged": lambda rng: _exchanged(*rng.sample(range(32), 2)),
    "in hex": lambda rng: rng.choice([str.lower, str.upper])(KEY.secret.hex()).encode(),
}


def _exchanged(one: int, other: int) -> bytes:
    secret = bytearray(KEY.secret)
    secret[one], secret[other] = secret[other], secret[one]
    return bytes(secret)


@pytest.mark.slow
def test_e2_ten_thousand_wrong_keys_get_one_and_the_same_unsigned_401(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    tried: Counter[str] = Counter()
    replies = Counter()
    with called(tmp_path) as vsensor:
        plain = Signer("vsensor.test").message()
        for number in range(COUNT):
            kind = rng.choice(list(_KINDS))
            key = Key(_KINDS[kind](rng))
            own_id = rng.random() < 0.25  # a key that is not known, else one that says it is the real one
            tried[kind] += 1
            key_id = key.id if own_id else KEY.id
            replies[vsensor.ask(signed_by_hand(plain, key, key_id=key_id, nonce=f"{RUN}-{number}"))] += 1
        tally = dict(vsensor.collector.tally)
        right = vsensor.ask(signed_by_hand(plain, KEY, key_id=KEY.id, nonce=f"{RUN}-{COUNT}"))

    print(f"seed {seed}: {dict(tried)}")
    assert replies == {BARE_401: COUNT}
    assert tally == {"unauthentic": COUNT}
    # The same request under the right key: it was the key, and nothing else, that was wrong.
    assert (right.status, len(rows(tmp_path))) == (201, 1)


def test_e2_on_the_wire_the_refusals_of_every_kind_of_wrong_key_are_the_same_bytes(tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    answers = set()
    with Running(tmp_path) as running:
        for kind, make in _KINDS.items():
            for key_id in (None, KEY.id):
                key = Key(make(rng))
                message = running.signer.message()
                wrong = signed_by_hand(message, key, key_id=key_id or key.id, nonce=f"{RUN}-{running.signer.count}")
                with running.wire.connect() as connection:
                    connection.sendall(running.wire.head(wrong.set("Connection", "close")) + wrong.body)
                    with connection.makefile("rb") as stream:
                        answers.add(stream.read())
                assert running.collector.tally["unauthentic"] > 0, kind

    print(f"seed {seed}")
    assert answers == {b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nConnection: close\r\n\r\n"}
    assert dict(running.collector.tally) == {"unauthentic": 2 * len(_KINDS)}
    assert rows(tmp_path) == []
