"""What the README says that a program can check: the variables and the commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ossensor.cli import main
from ossensor.settings import describe

README = (Path(__file__).parents[2] / "README.md").read_text()


def _row(cells: tuple[str, ...]) -> str:
    return re.sub(r"  +", " ", "| " + " | ".join(cells) + " |")


def test_the_table_of_variables_is_the_one_that_the_settings_are_made_from() -> None:
    stated = [line for line in README.splitlines() if re.match(r"\| `[A-Z_]+` \|", line)]
    defined = [_row((f"`{r.name}`", f"`{r.default}`" if r.default else "", r.meaning, r.allowed)) for r in describe()]

    assert stated == defined


@pytest.mark.parametrize("command", re.findall(r"^\| `ossensor (\w+)", README, flags=re.MULTILINE))
def test_a_command_of_the_readme_exists(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])

    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: ossensor {command}")
