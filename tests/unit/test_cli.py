"""What a command line loads before its command begins."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ossensor import cli

_LOADED = """
import sys
from ossensor import cli
cli.make_parser(sys.argv[1:])
print(*sorted(name for name in sys.modules if name.startswith("ossensor.")))
"""


@pytest.mark.parametrize("command", ["run", "health", "status", "check"])
def test_a_sensors_command_loads_nothing_of_the_vsensor(command: str) -> None:
    argv = [sys.executable, "-c", _LOADED, command]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert done.stdout == "ossensor.cli\n"


def test_each_command_has_its_arguments_when_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    everything = cli.make_parser().format_help()
    for command in cli._COMMANDS:
        texts = []
        for parser in (cli.make_parser(), cli.make_parser([command])):
            with pytest.raises(SystemExit):
                parser.parse_args([command, "--help"])
            texts.append(capsys.readouterr().out)
        assert texts[0] == texts[1]
        assert f"  {command}" in everything
