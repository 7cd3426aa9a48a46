"""A wall clock for some programs of a test, which the test sets: harness/clock has the programs' side."""

from __future__ import annotations

import struct
from pathlib import Path

_HOOK = Path(__file__).parent / "clock"


class WallClock:
    """The wall clock of the programs that are started with `variables` in their environment, and of their children."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.set(0)
        self.variables = {"PYTHONPATH": str(_HOOK), "CLOCK_OFF": str(path), "PYTHONDONTWRITEBYTECODE": "1"}

    def set(self, off_s: int) -> None:
        with self._path.open("r+b" if self._path.exists() else "wb") as file:  # never cut: it is mapped
            file.write(struct.pack("d", off_s))
