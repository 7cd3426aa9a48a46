"""What a start makes of what nothing but the file system can tell."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from ossensor.errors import ConfigurationError
from ossensor.settings import Settings
from ossensor.start import _make_spool, _working_folder


def settings(folder: Path) -> Settings:
    return cast(Settings, SimpleNamespace(spool_dir=folder, user=str(os.getuid() or 65534)))


def test_the_spools_folder_is_made_for_its_owner_alone_and_one_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    made, there = tmp_path / "made", tmp_path / "there"
    there.mkdir(0o755)
    for folder in (made, there):
        _make_spool(settings(folder))

    assert [stat.S_IMODE(folder.stat().st_mode) for folder in (made, there)] == [0o700, 0o755]


@pytest.mark.parametrize(
    "below, why",
    [
        (("shut", "spool"), "Permission denied"),
        (("x" * 256,), "File name too long"),
        (("file",), "File exists"),
        (("file", "spool"), "Not a directory"),
    ],
)
def test_a_folder_that_cannot_be_looked_for_or_made_is_a_fault_of_its_setting(
    below: tuple[str, ...], why: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "shut").mkdir(0o000)
    folder = tmp_path.joinpath(*below)

    uid = os.geteuid()
    if below[0] == "shut" and not uid:
        os.seteuid(65534)  # root may look into any folder; a sensor with CAP_NET_RAW alone may not
    try:
        with pytest.raises(ConfigurationError) as caught:
            _make_spool(settings(folder))
    finally:
        os.seteuid(uid)

    assert caught.value.faults == [f"OSSENSOR_SPOOL_DIR: {folder}: {why}"]


def test_a_working_folder_that_was_removed_is_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert _working_folder() == str(tmp_path)
    (tmp_path / "gone").mkdir()
    os.chdir("gone")
    (tmp_path / "gone").rmdir()

    assert _working_folder() == "/"
