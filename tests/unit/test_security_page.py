"""SECURITY.md and docs/security.md name tests that exist, and limits as they are."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "SECURITY.md", ROOT / "docs" / "security.md"]
UNITS = {"": 1, "s": 1, "min": 60, "h": 3600, "d": 86_400, "KiB": 1 << 10, "MiB": 1 << 20}
LIMITS = re.findall(r"^\| `([\w.]+)` \| ([\d,]+) ?(\w*) \| (.*) \|$", PAGES[1].read_text(), re.MULTILINE)


def test_every_test_that_is_named_exists() -> None:
    named = [name for page in PAGES for name in re.findall(r"`((?:tests/|test_)[^`]+)`", page.read_text())]
    files = {path.name for path in (ROOT / "tests").rglob("test_*.py")}

    assert [n for n in named if not ((ROOT / n).exists() or n in files)] == []
    assert len(named) > 10


@pytest.mark.parametrize("name, number, unit, why", LIMITS, ids=[name for name, *_ in LIMITS])
def test_a_limit_is_what_the_page_says(name: str, number: str, unit: str, why: str) -> None:
    module, _, constant = name.rpartition(".")

    assert (
        getattr(importlib.import_module(f"ossensor.{module}"), constant) == int(number.replace(",", "")) * UNITS[unit]
    )
    assert why


def test_the_limits_were_found() -> None:
    table = PAGES[1].read_text().partition("## Limits")[2].partition("\n## ")[0]

    assert len(LIMITS) == len(re.findall(r"^\| `", table, re.MULTILINE)) > 20
