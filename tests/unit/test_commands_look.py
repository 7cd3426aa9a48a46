from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ossensor import commands_look
from ossensor.commands_look import check, interfaces
from ossensor.interfaces import Interface
from ossensor.settings import describe

SECRET = "the-key-of-all-keys-0123456789"
MACHINE = [
    Interface("lo", 1, loopback=True, up=True),
    Interface("eth0", 2, loopback=False, up=True),
    Interface("veth1", 3, loopback=False, up=False),
]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "VSENSOR_HOSTNAME": "v.example",
        "VSENSOR_HMAC_KEY": SECRET,
        "OSSENSOR_CONFIG_PATH": str(tmp_path / "ossensor.cfg"),
    }


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands_look, "enumerate_interfaces", lambda: MACHINE)
    monkeypatch.setattr(commands_look, "default_route_interfaces", lambda: {"eth0"})


def documented(output: str) -> Any:
    return json.loads(output)


def test_check_shows_every_variable_with_value_and_source_and_masks_the_key(
    environ: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "ossensor.cfg"
    config.write_text("OSSENSOR_DEBUG=3\n")

    assert check(environ) == 0

    out, err = capsys.readouterr()
    rows = [line.split("  ") for line in out.splitlines()]
    shown = {row[0]: [cell.strip() for cell in row[1:] if cell] for row in rows}
    assert ["variable", *[row.name for row in describe()]] == [row[0] for row in rows]
    assert shown["VSENSOR_HOSTNAME"] == ["v.example", "environment"]
    assert shown["VSENSOR_HMAC_KEY"] == ["********", "environment"]
    assert shown["OSSENSOR_DEBUG"] == ["3", f"file {config}"]
    assert shown["VSENSOR_PORT"] == ["443", "default"]
    assert shown["BPF"] == ["default"]
    assert SECRET not in out + err
    assert err == ""


def test_the_columns_of_check_are_aligned(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    check(environ)

    head, *lines = capsys.readouterr().out.splitlines()
    column = head.index("from")
    assert {"environment", "default"} == {line[column:] for line in lines}


def test_check_as_json_says_the_same(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert check({**environ, "OSSENSOR_DEBUGG": "1"}, as_json=True) == 0

    out, err = capsys.readouterr()
    document = documented(out)
    assert [row.name for row in describe()] == [setting["name"] for setting in document["settings"]]
    assert {"name": "VSENSOR_HMAC_KEY", "value": "********", "source": "environment"} in document["settings"]
    assert len(document["warnings"]) == 1
    assert document["faults"] == []
    assert SECRET not in out + err


def test_check_tells_warnings_after_the_table(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert check({**environ, "VSENSOR_PROT": "1"}) == 0

    assert capsys.readouterr().err == (
        "ossensor: warning: 'VSENSOR_PROT' in the environment is no variable of ossensor; did you mean VSENSOR_PORT?\n"
    )


@pytest.mark.parametrize("options", [{}, {"as_json": True}], ids=["text", "json"])
def test_check_tells_every_fault_and_returns_78(
    options: dict[str, bool], environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {
        "VSENSOR_HOSTNAME": "a:b",
        "VSENSOR_PORT": "70000",
        "OSSENSOR_NETWORK_DEVICE": "nosuch0",
        "OSSENSOR_DEBUG": "6",
        "ANTIGENA_ENABLED": "maybe",
        "NETWORK_DEVICE_INCLUDELIST": "[",
        "BPF": "tcp prot 80",
    }

    assert check({**environ, **wrong, "VSENSOR_HMAC_KEY_FILE": "/nosuch"}, **options) == 78

    out, err = capsys.readouterr()
    named = [line.split(": ")[2] for line in err.splitlines()]
    assert named == ["VSENSOR_HOSTNAME", "VSENSOR_HMAC_KEY", "VSENSOR_HMAC_KEY_FILE", *list(wrong)[1:]]
    assert SECRET not in out + err
    assert len(documented(out)["faults"]) == 9 if options else out == ""


@pytest.mark.usefixtures("machine")
def test_interfaces_lists_each_with_the_reason(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert interfaces({**environ, "NETWORK_DEVICE_EXCLUDELIST": "^lo$"}) == 0

    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "interface                why",
        'lo         not captured  matches NETWORK_DEVICE_EXCLUDELIST pattern "^lo$"',
        "eth0       captured      no rule leaves it out",
        "veth1      captured      no rule leaves it out (is down)",
    ]
    assert err == ""


@pytest.mark.usefixtures("machine")
def test_interfaces_as_json_says_the_same(environ: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert interfaces({**environ, "NETWORK_DEVICE_INCLUDELIST": "^eth"}, as_json=True) == 0

    none, by = "matches no NETWORK_DEVICE_INCLUDELIST pattern", 'matches NETWORK_DEVICE_INCLUDELIST pattern "^eth"'
    assert documented(capsys.readouterr().out) == {
        "interfaces": [
            {"name": "lo", "index": 1, "up": True, "captured": False, "why": none},
            {"name": "eth0", "index": 2, "up": True, "captured": True, "why": by},
            {"name": "veth1", "index": 3, "up": False, "captured": False, "why": none},
        ],
        "warnings": [],
        "faults": [],
    }


@pytest.mark.usefixtures("machine")
def test_faults_of_other_variables_are_warnings_to_interfaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert interfaces({"OSSENSOR_CONFIG_PATH": str(tmp_path / "none"), "VSENSOR_PORT": "0", "BPF": "tcp prot"}) == 0

    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 + len(MACHINE)
    named = [line.split(": ")[1:3] for line in err.splitlines()]
    assert named == [["warning", name] for name in ("VSENSOR_HOSTNAME", "VSENSOR_HMAC_KEY", "VSENSOR_PORT")]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    "variable, text",
    [
        ("NETWORK_DEVICE_INCLUDELIST", "["),
        ("NETWORK_DEVICE_EXCLUDELIST", "("),
        ("OSSENSOR_NETWORK_DEVICE", "nosuch0"),
        ("OSSENSOR_CONFIG_PATH", "/"),
    ],
)
def test_faults_of_the_interface_variables_end_interfaces_with_78(
    variable: str, text: str, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert interfaces({**environ, variable: text}) == 78

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ossensor: fault: {variable}: ")
    assert len(err.splitlines()) == 1


@pytest.mark.usefixtures("machine")
def test_the_name_of_an_interface_cannot_speak_to_the_terminal(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rude = Interface(os.fsdecode(b"\x1b[2J\xff"), 9, loopback=False, up=True)
    monkeypatch.setattr(commands_look, "enumerate_interfaces", lambda: [rude])

    assert interfaces(environ) == 0

    assert capsys.readouterr().out.splitlines()[1].split()[0] == r"\x1b[2J\udcff"


@pytest.mark.usefixtures("machine")
def test_neither_command_writes_the_config_file(environ: dict[str, str], tmp_path: Path) -> None:
    check(environ)
    interfaces(environ)

    assert list(tmp_path.iterdir()) == []
