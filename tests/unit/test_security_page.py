"""SECURITY.md names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"`((?:tests/|test_)[^`]+)`", (ROOT / "SECURITY.md").read_text())
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}

    assert [n for n in named if not ((ROOT / n).exists() or n in files)] == []
    assert len(named) > 10
