"""How far a long look at a store is, in one line of a terminal: nobody knows what a minute without a word means."""

from __future__ import annotations

import time
from typing import Final, TextIO

PERIOD_S: Final = 1.0
_ERASE_REST: Final = "\x1b[K"  # of the terminal's line (ECMA-48, EL)


class Progress:
    """Counts what was looked at, and shows it once a second; nothing where nobody sits, or nothing takes that long."""

    def __init__(self, errors: TextIO) -> None:
        self._errors = errors
        self._told_s = time.monotonic()
        self._is_shown = False
        self.batches = 0
        self.read_bytes = 0

    def batch(self) -> None:
        self.batches += 1
        self._tell()

    def read(self, count_bytes: int) -> None:
        self.read_bytes += count_bytes
        self._tell()

    def end(self) -> None:
        """Clears the line for what is said next."""
        if self._is_shown:
            self._errors.write(f"\r{_ERASE_REST}")
            self._errors.flush()

    def _tell(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s > PERIOD_S and self._errors.isatty():
            self._told_s = now_s
            self._is_shown = True
            read = f", {self.read_bytes / 1e6:,.0f} MB read" if self.read_bytes else ""
            self._errors.write(f"\r{self.batches:,} batches looked at{read}{_ERASE_REST}")
            self._errors.flush()
