"""How many times a program forked: exact, from the interpreter's own audit events (see hook/sitecustomize.py)."""

from __future__ import annotations

from pathlib import Path

_HOOK = Path(__file__).parent / "hook"


class ForkLog:
    """A count of one program's forks, wherever they happen; give the program `variables`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.variables = {"PYTHONPATH": str(_HOOK), "FORK_LOG": str(path), "PYTHONDONTWRITEBYTECODE": "1"}

    def count(self) -> int:
        """Forks so far. Fails when the program does not report them."""
        first, *events = self._path.read_text().splitlines()
        assert first == "started"
        return len(events)
