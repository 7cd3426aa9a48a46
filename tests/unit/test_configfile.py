from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from dotenv import dotenv_values
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ossensor import configfile
from ossensor.configfile import Line, generate, quote, read, render
from ossensor.errors import ConfigurationError
from ossensor.settings import load

LINES = [
    Line("VSENSOR_HOSTNAME", "v.example", explicit=True, meaning="The name."),
    Line("BPF", 'tcp and "x" \\ #y ${HOME}\r\n', explicit=True, meaning="A filter,\nover two lines."),
    Line("VSENSOR_PORT", "443", explicit=False, meaning="The port."),
]


class Some:
    """What generate() needs."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines

    def config_lines(self) -> list[Line]:
        return self._lines


@pytest.fixture
def umask(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[int]:
    assert tmp_path.is_dir()  # made before, with a mode that the test can work in
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- quoting ----------------------------------------------------------------------------------------------------------

# Any text that settings let through: no NUL, no surrogates (category Cs).
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
# The same, mostly of what has a meaning in such files.
NASTY = st.text(st.sampled_from("\"'\\#$={}\n\r\t\x0b\x0c\x85\u2028\ufeff nrtabv`!"))


@settings(derandomize=True, database=None, max_examples=500)
@given(st.lists(TEXT | NASTY, min_size=1, max_size=4))
@example(["\\"])  # read as an escaped quote by python-dotenv below 1.2.3
@example(["\r", "\n", "\r\n", "\\n"])
@example(["${HOME}", "$HOME", "'", '"'])
@example([" # no comment", "export A=b", "\ufeff"])
def test_what_is_written_is_what_is_read(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("round") / "ossensor.cfg"
    expected = {f"V{number}": text for number, text in enumerate(texts)}

    refusal = generate(path, Some([Line(name, text, explicit=True, meaning="m") for name, text in expected.items()]))

    assert refusal is None
    assert expected == read(path)
    assert expected == dotenv_values(path, interpolate=False, encoding="utf-8")


@settings(derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(TEXT | NASTY, TEXT | NASTY)
def test_a_default_is_a_comment_whatever_it_and_its_meaning_hold(text: str, meaning: str) -> None:
    content = render([Line("A", text, explicit=False, meaning=meaning), Line("B", "b", explicit=True, meaning="m")])

    assert dotenv_values(stream=io.StringIO(content), interpolate=False) == {"B": "b"}


def test_a_value_is_one_line_in_double_quotes() -> None:
    assert quote('a"b\\c\nd\re#${f}') == r'"a\"b\\c\nd\re#${f}"'


# -- generating -------------------------------------------------------------------------------------------------------


def test_the_file_says_what_was_given_and_shows_defaults_as_comments_and_leaves_the_key_out(tmp_path: Path) -> None:
    path = tmp_path / "ossensor.cfg"

    assert generate(path, Some(LINES)) is None

    assert {name: text for name, text, explicit, _ in LINES if explicit} == read(path)
    content = path.read_text()
    assert '\n# The port.\n# VSENSOR_PORT="443"\n' in content
    assert "\n# A filter, over two lines.\nBPF=" in content
    assert "The HMAC key is left out on purpose" in content


def test_loaded_settings_come_back_from_the_file_without_the_key(tmp_path: Path) -> None:
    path = tmp_path / "ossensor.cfg"
    environ = {
        "VSENSOR_HOSTNAME": "v.example",
        "VSENSOR_HMAC_KEY": "the-key-of-all-keys",
        "OSSENSOR_CONFIG_PATH": str(path),
        "NETWORK_DEVICE_EXCLUDELIST": '^veth[[:digit:]]$ "\\.',
        "BPF": "tcp\nport 80",
    }
    first = load(environ)

    assert generate(path, first) is None

    assert "the-key-of-all-keys" not in path.read_text()
    required = {name: environ[name] for name in ("VSENSOR_HMAC_KEY", "OSSENSOR_CONFIG_PATH")}
    second = load(required)
    assert first.settings == second.settings
    assert [name for name, source in second.sources.items() if source == f"file {path}"] == [
        "VSENSOR_HOSTNAME",
        "NETWORK_DEVICE_EXCLUDELIST",
        "BPF",
    ]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777], indirect=True)
def test_the_file_is_0600_whatever_the_umask(umask: int, tmp_path: Path) -> None:
    path = tmp_path / "ossensor.cfg"

    assert generate(path, Some(LINES)) is None

    assert mode(path) == 0o600, oct(umask)


@pytest.mark.parametrize("umask, expected", [(0o000, 0o755), (0o022, 0o755), (0o077, 0o700)], indirect=["umask"])
def test_missing_folders_are_made_and_never_writable_for_others(umask: int, expected: int, tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "ossensor.cfg"

    assert generate(path, Some(LINES)) is None

    assert [expected, expected] == [mode(path.parent.parent), mode(path.parent)], oct(umask)


def _plain(path: Path) -> None:
    path.write_text("by hand")


def _empty(path: Path) -> None:
    path.touch(0o644)


def _dangling(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_plain, _empty, _dangling, Path.mkdir])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_is_there_is_never_touched(
    make: object, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ossensor.cfg"
    make(path)  # type: ignore[operator]
    before = path.lstat()
    if when == "meanwhile":  # the race: it was not there when generate() looked
        monkeypatch.setattr(configfile.os.path, "lexists", lambda _: False)

    said = generate(path, Some(LINES))

    assert said is not None
    assert "left as it is" in said
    after = path.lstat()
    assert (before.st_ino, before.st_mode, before.st_size, before.st_mtime_ns) == (
        after.st_ino,
        after.st_mode,
        after.st_size,
        after.st_mtime_ns,
    )
    assert list(tmp_path.iterdir()) == [path]


def test_a_crash_before_the_link_leaves_no_config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ossensor.cfg"
    seen: list[tuple[bool, int, bytes]] = []

    def look(temporary: str, at: Path, **_: object) -> None:
        seen.append((at.exists(), mode(Path(temporary)), Path(temporary).read_bytes()))
        raise PermissionError(1, "as vfat says it")

    monkeypatch.setattr(configfile.os, "link", look)

    said = generate(path, Some(LINES))

    # At the last moment before the file has its name, its content and mode are complete.
    assert seen == [(False, 0o600, render(LINES).encode())]
    assert said == f"config file {path} was not written: as vfat says it"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path, why",
    [
        ("/proc/ossensor.cfg", "No such file or directory"),  # nobody, root neither, makes files there
        ("/proc/ossensor/ossensor.cfg", "No such file or directory"),
        ("/dev/null/ossensor.cfg", "Not a directory"),
    ],
)
def test_where_nothing_can_be_written_the_reason_is_returned(path: str, why: str) -> None:
    assert generate(Path(path), Some(LINES)) == f"config file {path} was not written: {why}"


# -- reading ----------------------------------------------------------------------------------------------------------


def test_no_file_says_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "nosuch") == {}
    assert read(tmp_path / "nosuch" / "ossensor.cfg") == {}
    assert read(Path("/dev/null/ossensor.cfg")) == {}


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"", {}),
        (
            b"# a comment\n\nA=1\r\nexport B = 'two words' # comment\nC=a#b\nD=\nE\n",
            {"A": "1", "B": "two words", "C": "a#b", "D": ""},
        ),
        (b"K='a$b${HOME}c'\nL=$HOME\nM=\"${HOME:-x}\"\n", {"K": "a$b${HOME}c", "L": "$HOME", "M": "${HOME:-x}"}),
        ("A=\u00e4\n".encode(), {"A": "\u00e4"}),
        (b"A=1\nA=2\n", {"A": "2"}),
    ],
)
def test_hand_written_files_are_read_without_expansion(
    content: bytes, expected: dict[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "ossensor.cfg"
    path.write_bytes(content)

    assert expected == read(path)


def test_a_link_is_followed_when_reading(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("A=1\n")
    (tmp_path / "ossensor.cfg").symlink_to("real")

    assert read(tmp_path / "ossensor.cfg") == {"A": "1"}


def test_lines_that_cannot_be_read_are_told_by_number_without_their_text(tmp_path: Path) -> None:
    path = tmp_path / "ossensor.cfg"
    path.write_text("VSENSOR_HMAC_KEY sesame\nA=1\nB='sesame\n")

    with pytest.raises(ConfigurationError) as caught:
        read(path)

    assert caught.value.faults == [
        f"OSSENSOR_CONFIG_PATH: {path}: not KEY=value in the statement at line 1, 3",
    ]


@pytest.mark.parametrize("content", [b"A=\xff\n", b"A=1\n" * (1 << 18) + b"#"])
def test_a_file_that_is_no_text_or_too_large_is_a_fault_and_its_content_is_not_carried_along(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "ossensor.cfg"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError) as caught:
        read(path)

    assert caught.value.faults == [f"OSSENSOR_CONFIG_PATH: {path}: not a text file of UTF-8 below 1 MiB"]
    assert caught.value.__context__ is None


def test_a_pipe_in_its_place_is_a_fault_and_nobody_waits_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "ossensor.cfg"
    os.mkfifo(path)

    with pytest.raises(ConfigurationError, match="not a text file"):
        read(path)


def test_a_file_that_is_there_and_cannot_be_opened_is_a_fault(tmp_path: Path) -> None:
    path = tmp_path / "ossensor.cfg"
    path.symlink_to(path)  # ELOOP: refused to root too, as a missing permission would not be

    with pytest.raises(ConfigurationError, match="Too many levels of symbolic links; allowed: a file that can be read"):
        read(path)
