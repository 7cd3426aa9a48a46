"""docs/operations.md explains each message of the code, and quotes none that is not there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = " ".join((ROOT / "docs" / "operations.md").read_text().split())
SAYING = {"warning", "error", "critical", "say"}
SOURCES = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "ossensor").rglob("*.py"))}
# A module's own sentences, kept where they are given a meaning and said elsewhere.
SENTENCES = re.compile(r'(?:return |trouble = |_UNSENDABLE: Final = )"((?:the|an|VSENSOR|nobody)[^"]{12,})"')


def _parts(argument: ast.expr) -> Iterator[str]:
    """What is always there of a text: a constant, or what an f-string has between its values."""
    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
        yield from (part.strip(" :;") for part in re.split(r"%\w", argument.value))
    elif isinstance(argument, ast.JoinedStr):
        for value in argument.values:
            yield from _parts(value)
    elif isinstance(argument, ast.IfExp):
        yield from (*_parts(argument.body), *_parts(argument.orelse))


def _said(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SAYING:
            for argument in node.args[:1]:
                yield from (part for part in _parts(argument) if len(part) > 8)


MESSAGES = sorted(
    {part for name, text in SOURCES.items() if "/streams/" not in name for part in _said(text)}
    | {
        text
        for name in ("transport/client", "workers/route")
        for text in SENTENCES.findall(SOURCES[f"ossensor/{name}.py"])
    }
)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_of_the_code_is_explained(message: str) -> None:
    assert message in PAGE


def test_what_the_page_quotes_as_said_is_in_the_code() -> None:
    text = "\n".join(SOURCES.values())
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)
    # What a metric has before and after its name is added elsewhere.
    parts = {
        row: [part.strip(" :;").removesuffix("_total").removeprefix("ossensor_") for part in row.split("...")]
        for row in rows
    }

    assert len(rows) > 20
    assert {row: part for row, found in parts.items() for part in found if part not in text} == {}


def test_the_messages_were_found() -> None:
    assert {"worker died", "hangs: SIGABRT", "the vSensor cannot be reached", "cannot capture"} <= set(MESSAGES)
