"""What holds for every test: it leaves the process as it found it. Files share one, in no order of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


def _state() -> tuple[int, Path]:
    umask = os.umask(0o077)  # can only be read by setting it
    os.umask(umask)
    return umask, Path.cwd()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = _state()
    yield
    assert _state() == before, "umask or working directory"
