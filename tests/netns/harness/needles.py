"""Looking for a secret in whatever a program shows, also when it shows a part of it or spells it in another way."""

from __future__ import annotations

import base64
from collections.abc import Mapping

_WINDOW_BYTES = 12  # a part this long is found wherever it is cut; of random text none occurs by chance


def _spellings(secret: bytes) -> set[bytes]:
    parts = {secret[at : at + _WINDOW_BYTES] for at in range(len(secret) - _WINDOW_BYTES + 1)}
    found = set(parts)
    for part in parts:
        found |= {part.hex().encode(), part.hex().upper().encode(), part.hex(" ").encode(), part.hex(":").encode()}
        found.add(", ".join(map(str, part)).encode())  # a list of numbers
        # Whole groups of three, so that they are the same in the middle of longer base64.
        found |= {base64.b64encode(part), base64.urlsafe_b64encode(part)}
    return found


def hits(secret: str, shown: Mapping[str, bytes | str]) -> dict[str, int]:
    """How many spellings of the secret, or of a part of it, are in each thing that was shown, where there are any."""
    spellings = _spellings(secret.encode())
    texts = {name: text if isinstance(text, bytes) else text.encode() for name, text in shown.items()}
    counts = {name: sum(spelling in text for spelling in spellings) for name, text in texts.items()}
    return {name: count for name, count in counts.items() if count}
