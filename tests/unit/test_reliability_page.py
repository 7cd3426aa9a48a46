"""docs/reliability.md names tests that exist, and has every row of the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text()
ROWS = {"A": 12, "B": 6, "C": 5, "D": 5, "E": 9, "F": 8, "G": 3, "H": 3}


def _tests() -> set[str]:
    defined = re.compile(r"^ *def (test_\w+)", re.MULTILINE)
    return {name for path in (ROOT / "tests").rglob("test_*.py") for name in defined.findall(path.read_text())}


def test_every_row_of_the_catalogue_has_its_line() -> None:
    ids = re.findall(r"^\| ([A-H]\d+) \|", PAGE, re.MULTILINE)

    assert ids == [f"{letter}{number}" for letter, count in ROWS.items() for number in range(1, count + 1)]


def test_a_row_names_a_test_or_says_that_it_is_open() -> None:
    cells = {line.split(" | ")[0]: line.split(" | ")[-1] for line in PAGE.splitlines() if re.match(r"\| [A-H]\d", line)}

    assert [row for row, cell in cells.items() if "`test_" not in cell and "*Open" not in cell] == []


def test_every_test_that_is_named_exists() -> None:
    named = set(re.findall(r"`(test_\w+)`", PAGE))

    assert sorted(named - _tests()) == []
