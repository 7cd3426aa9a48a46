"""What a command line loads before its command begins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

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


_OPENS = """
import os
from ossensor import cli
cli._COMMANDS["run"] = lambda _: os.write(9, b"%d" % os.open("/", os.O_RDONLY))
cli.main(["run"])
"""
SETTINGS = {"VSENSOR_HOSTNAME": "x", "VSENSOR_HMAC_KEY": "k" * 32, "OSSENSOR_CONFIG_PATH": "/dev/null/none"}


def shell(line: str, **environ: str) -> subprocess.CompletedProcess[bytes]:
    argv = ["bash", "-c", line.replace("ossensor", f"{sys.executable} -m ossensor")]
    return subprocess.run(argv, capture_output=True, check=False, env={**os.environ, **SETTINGS, **environ})


@pytest.mark.parametrize("command", ["check", "check --json", "interfaces", "health", "antigena list", "audit /none"])
@pytest.mark.parametrize("closed", [">&-", "0<&- >&- 2>&-"])
def test_standard_streams_that_are_not_there_change_no_exit_code(command: str, closed: str) -> None:
    as_ever = shell(f"ossensor {command} </dev/null", OSSENSOR_STATUS_SOCKET="@nobody-listens-here")
    done = shell(f"ossensor {command} {closed}", OSSENSOR_STATUS_SOCKET="@nobody-listens-here")

    assert done.returncode == as_ever.returncode
    assert done.stdout in {as_ever.stdout, b""}
    assert done.stderr in {as_ever.stderr, b""}


def test_no_file_or_socket_of_ours_has_the_number_of_a_standard_stream(tmp_path: Path) -> None:
    """The lock of a store had 1, and got the vSensor's lines."""
    script = tmp_path / "script.py"
    script.write_text(_OPENS)
    done = shell(f"{sys.executable} {script} 9>&1 0<&- >&- 2>&-")

    assert done.stdout == b"3"


_PIPE = 128 + signal.SIGPIPE


@pytest.mark.parametrize(
    "command,at_its_end,amid",
    [("check", 0, _PIPE), ("check --json", 0, _PIPE), ("interfaces", 0, _PIPE), ("health", 1, 1)],
)
def test_whoever_reads_may_have_enough(command: str, at_its_end: int, amid: int) -> None:
    """`amid`: where each line is written at once, and the command has not come to its end."""
    for unbuffered, code in (("", at_its_end), ("1", amid)):
        environ = {"OSSENSOR_STATUS_SOCKET": "@nobody-listens-here", "PYTHONUNBUFFERED": unbuffered}
        done = shell(f"exec 3> >(:); wait $!; ossensor {command} >&3", **environ)
        assert (done.returncode, done.stderr) == (code, b"")


def test_faults_that_nobody_reads_are_no_success() -> None:
    done = shell("exec 3> >(:); wait $!; ossensor check 2>&3", VSENSOR_PORT="none")

    assert done.returncode == _PIPE


def test_a_letter_that_the_terminal_has_not_is_shown_by_its_number() -> None:
    environ = {"PYTHONIOENCODING": "ascii", "OSSENSOR_SPOOL_DIR": "/var/spööl", "PYTHONUTF8": "1"}
    done = shell("ossensor check", **environ)

    assert (done.returncode, done.stderr) == (0, b"")
    assert b"/var/sp\\xf6\\xf6l " in done.stdout


_WAITS = """
import time
from ossensor import cli
cli._COMMANDS["audit"] = lambda _: print("waits", flush=True) or time.sleep(600)
raise SystemExit(cli.main(["audit", "store"]))
"""


def test_ctrl_c_ends_what_takes_long_without_a_traceback() -> None:
    with subprocess.Popen([sys.executable, "-c", _WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as waiting:
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == b"waits\n"
        waiting.send_signal(signal.SIGINT)
        _, told = waiting.communicate(timeout=120)

    assert (waiting.returncode, told) == (130, b"")


@pytest.mark.parametrize("address", ["off", "relative/path", "@" + "x" * 108])
def test_status_as_json_is_json_also_where_the_address_is_wrong(address: str) -> None:
    done = shell("ossensor status --json", OSSENSOR_STATUS_SOCKET=address)
    told = json.loads(done.stdout)

    assert done.returncode == 78
    assert done.stderr.decode() == "".join(f"ossensor: {fault}\n" for fault in told["faults"])
