"""Inputs that are changed at random, the same for the same seed. What `make test` fuzzes with, which has no atheris.

Blind to coverage, so it is no fuzzer by itself: it walks around what the corpus holds, and the corpus is what a fuzzer
that sees coverage has found (run.py).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

# Borders of fields of 8, 16, 32 and 64 bits, signed or not, and what stands just beside them.
_NUMBERS = (0, 1, 3, 4, 7, 8, 11, 12, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 1 << 20, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF)
_DECIMALS = (
    b"0",
    b"-1",
    b"00",
    b"1e3",
    b"0.5",
    b"65536",
    b"4294967296",
    b"9223372036854775808",
    b"9" * 20,
    b"9" * 5000,
)
_PIECES = (
    *(b"\0", b"\n", b"\r\n", b" ", b"\t", b'"', b"'", b"\\", b"%", b"%00", b"%2F", b"/", b"..", b"#", b"=", b":", b";"),
    *(b"{}", b"[]", b"null", b"true", b"NaN", b"[" * 2000, b'{"a":' * 2000, b",", b"\\u0000", b"\\ud800", b"${HOME}"),
    # Latin, a digit of Arabic, one that is a digit to isdigit() alone, a line end to splitlines(), and no UTF-8.
    *(b"\xc3\xa9", b"\xd9\xa1", b"\xc2\xb2", b"\xe2\x80\xa8", b"\x7f", b"\xff", b"\xed\xa0\x80"),
)
_DIGITS = re.compile(rb"[0-9]+")
MAX_BYTES = 64 << 10


def _changed(rng: random.Random, data: bytes, others: Sequence[bytes]) -> bytes:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 1, 2, 4, 8, rng.randrange(64))))
    width = rng.choice((1, 2, 4, 8))
    new = b""
    match rng.randrange(9):
        case 0:
            new, end = bytes(byte ^ 1 << rng.randrange(8) for byte in data[at : at + 1]), at + 1
        case 1:
            new, end = rng.randbytes(rng.randrange(5)), at
        case 2:
            new = data[at:end] * rng.randrange(2, 5)
        case 3:
            number = rng.choice(_NUMBERS) & (1 << 8 * width) - 1
            new, end = number.to_bytes(width, rng.choice(("little", "big"))), at + width
        case 4:
            # A length that is a little off, wherever one may be.
            number = int.from_bytes(data[at : at + width], "little") + rng.randrange(-8, 9)
            new, end = (number & (1 << 8 * width) - 1).to_bytes(width, "little"), at + width
        case 5 if runs := list(_DIGITS.finditer(data)):
            run = rng.choice(runs)
            new, at, end = rng.choice(_DECIMALS), run.start(), run.end()
        case 6:
            new, end = rng.choice(_PIECES), rng.choice((at, end))
        case 7:
            other = rng.choice(others)
            new, end = other[rng.randrange(len(other) + 1) :], len(data)
    return data[:at] + new + data[end:]


def mutants(rng: random.Random, corpus: Sequence[bytes], count: int) -> Iterator[bytes]:
    """So many inputs, each some inputs of the corpus with one to four changes."""
    for _ in range(count):
        data = rng.choice(corpus)
        for _ in range(rng.choice((1, 1, 2, 4))):
            data = _changed(rng, data, corpus)[:MAX_BYTES]
        yield data
