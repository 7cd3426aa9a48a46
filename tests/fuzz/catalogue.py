"""The targets: a module of targets/ each, with `seeds()`, inputs that are good, and `target(data)`.

`target` returns whether the parser took the input. It lets the declared error of its parser pass, and no other; and it
asserts what a second decoder, or the way back to bytes, says of what was taken. So whatever it raises is a find.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
CORPORA = HERE / "corpora"
NAMES = tuple(sorted(path.stem for path in (HERE / "targets").glob("[a-z]*.py")))


class Target(NamedTuple):
    """One parser."""

    name: str
    run: Callable[[bytes], bool]
    seeds: tuple[bytes, ...]

    @property
    def corpus(self) -> list[bytes]:
        """The seeds, and what fuzzers found beyond them, in an order that is always the same."""
        return [*self.seeds, *(path.read_bytes() for path in sorted((CORPORA / self.name).glob("*")))]


def load(name: str) -> Target:
    module = importlib.import_module(f"targets.{name}")
    return Target(name, module.target, tuple(module.seeds()))
