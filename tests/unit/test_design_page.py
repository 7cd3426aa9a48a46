"""DESIGN.md names modules and tests that are there, and its layout has every module."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "DESIGN.md").read_text()
LAYOUT = PAGE[PAGE.index("leaves ") :].partition("```")[0]
FEARS = PAGE.partition("## 9. What scares us")[2].partition("\n## ")[0]


def _spelled_out(text: str) -> Iterator[str]:
    """`a/{b,c}` as `a/b` and `a/c`; white space may follow a comma."""
    found = re.search(r"\{([^{}]*)\}", text)
    if found is None:
        yield from re.split(r"[\s,;:()]+", text)
        return
    before, after = text[: found.start()], text[found.end() :]
    stem = re.split(r"[\s,;:()]", before)[-1]
    inner = " ".join(f"{stem}{name.strip()}" for name in found[1].split(","))
    yield from _spelled_out(f"{before.removesuffix(stem)}{inner}{after}")


def _modules() -> set[str]:
    files = {path.relative_to(ROOT / "ossensor").with_suffix("") for path in (ROOT / "ossensor").rglob("*.py")}
    return {str(path) for path in files if path.name not in {"__init__", "__main__"}}


def test_the_layout_has_every_module_and_no_other() -> None:
    named = {word for word in _spelled_out(LAYOUT) if re.fullmatch(r"[a-z_]+(/[a-z_]+)*(/\*)?/?", word)}
    missing = {module for module in _modules() - named if not module.startswith("vsensor/")}

    assert "vsensor/*" in named
    assert missing == set()
    assert {name for name in named if re.search(r"/[a-z]", name)} - _modules() == {"capture/native/"}


def test_every_file_that_is_named_exists() -> None:
    files = [
        str(p.relative_to(ROOT))
        for top in ("ossensor", "tests", "deploy", "bench", "docs")
        for p in (ROOT / top).rglob("*.*")
    ]
    codes = re.findall(r"`([^`\n]+)`", PAGE)
    named = {name for code in codes for name in _spelled_out(code) if re.fullmatch(r"[\w/.*-]+\.(py|c)", name)}

    assert {
        name for name in named if not any(fnmatchcase(file, name) or fnmatchcase(file, f"*/{name}") for file in files)
    } == set()
    assert len(named) > 50


def test_every_fear_has_tests_that_exist() -> None:
    texts = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    defined = set(re.findall(r"^ *def (test_\w+)", texts, re.MULTILINE))
    rows = [row.strip("| ").split(" | ") for row in FEARS.splitlines() if row.startswith("|")][2:]
    named = {fear: re.findall(r"`(test_\w+|tests/[\w/.]+)`", tests) for fear, _, tests in rows}

    assert len(rows) > 15
    assert [fear for fear, tests in named.items() if not any(test in defined for test in tests)] == []
    assert [t for tests in named.values() for t in tests if t not in defined and not (ROOT / t).exists()] == []
