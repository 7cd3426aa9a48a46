"""What the uploader tells the supervisor of itself. Pure.

The supervisor believes none of it but shows it: what is no such message is left out, and a text is cut and made
printable, since whoever has taken over the uploader would like to write on an operator's terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

_LONGEST_TEXT: Final = 300
_COUNTS: Final = ("waiting_batches", "batches", "attempts", "wire_bytes", "spool_bytes")


@dataclass(frozen=True)
class Upload:
    """One uploader's view. Counts began with it; `trouble` says why the vSensor is not reachable, if it is known."""

    reachable: bool = False
    trouble: str = ""
    waiting_batches: int = 0
    batches: int = 0
    attempts: int = 0
    wire_bytes: int = 0
    spool_bytes: int = 0
    spool_trouble: str = ""

    @property
    def troubles(self) -> tuple[bool, str, str]:
        """What an operator waits for; it changes as often as attempts fail, which back-off sees to."""
        return self.reachable, self.trouble, self.spool_trouble

    @classmethod
    def maybe(cls, message: Mapping[str, Any]) -> Self | None:
        """The view that a message carries; None when it is none."""
        counts = {name: message.get(name) for name in _COUNTS}
        texts = {name: message.get(name) for name in ("trouble", "spool_trouble")}
        reachable = message.get("reachable")
        if not isinstance(reachable, bool) or not all(type(n) is int and n >= 0 for n in counts.values()):
            return None
        if not all(isinstance(text, str) for text in texts.values()):
            return None
        return cls(reachable=reachable, **counts, **{name: legible(str(text)) for name, text in texts.items()})  # type: ignore[arg-type]


def legible(text: str) -> str:
    """`text` without what a terminal would obey, and not too long."""
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text[: _LONGEST_TEXT + 1])
    return shown if len(shown) <= _LONGEST_TEXT else shown[:_LONGEST_TEXT] + "..."
