"""The operator's token: what a file of it has to be, and that it is shown to nobody."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ossensor.antigena.token import Token, load_token
from ossensor.errors import ConfigurationError

SECRET = b"0123456789abcdefghijklmnopqrstuvwxyz"


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("content", [SECRET, SECRET + b"\n", SECRET + b"\r\n"])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
def test_a_token_is_read_less_its_line_break(tmp_path: Path, content: bytes, mode: int) -> None:
    token = load_token(written(tmp_path / "token", content, mode), "--token-file")

    assert token == Token(SECRET)
    assert token.opens(token.header.encode())
    assert token.id == Token(SECRET).id != Token(SECRET + b"=").id


@pytest.mark.parametrize("mode", [0o604, 0o601, 0o602, 0o620, 0o644, 0o660])
def test_a_file_that_others_may_read_or_change_is_a_fault(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "token", SECRET, mode)

    with pytest.raises(ConfigurationError) as refused:
        load_token(path, "--token-file")

    assert refused.value.faults == [
        f"--token-file: {path}: its mode is {mode:04o}, others may read or change it (chmod 600)"
    ]


@pytest.mark.parametrize(
    "content",
    [b"", b"short", SECRET[:31], SECRET + b" ", SECRET + b"\nsecond line", SECRET + b"\n\n", b"\xff" * 40, b"a" * 1025],
)
def test_what_is_no_token_is_a_fault_that_does_not_show_it(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_token(written(tmp_path / "token", content), "--token-file")

    assert str(refused.value).endswith(
        "token: a token is one line of 32 to 1024 letters, digits and '._~+/-', with '=' at its end at most"
    )


def test_what_is_no_file_is_a_fault_and_keeps_nobody_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    faults = []
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigurationError) as refused:
            load_token(path, "--token-file")
        faults += refused.value.faults

    assert faults == [
        f"--token-file: {tmp_path}/missing: No such file or directory",
        f"--token-file: {tmp_path}: not a file",
        f"--token-file: {tmp_path}/pipe: not a file",
    ]


def test_a_token_is_printed_without_its_secret() -> None:
    assert SECRET.decode() not in repr(Token(SECRET)) + Token(SECRET).id
