"""Fixtures of the tests that run the whole sensor in network namespaces that they make themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.namespaces import why_not
from harness.programs import make_certificate
from harness.world import VSENSOR_NAMES, World


@pytest.fixture(scope="session", autouse=True)
def _namespaces() -> None:
    if reason := why_not():
        pytest.skip(reason)


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that any user may enter, as /etc/ssl is: pytest's own are closed to an uploader with no privileges."""
    with tempfile.TemporaryDirectory(prefix="ossensor-netns-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def certificate(open_folder: Path) -> tuple[Path, Path]:
    return make_certificate(open_folder, VSENSOR_NAMES)


@pytest.fixture
def world(tmp_path: Path, certificate: tuple[Path, Path]) -> Iterator[World]:
    with World(tmp_path, certificate) as made:
        yield made
