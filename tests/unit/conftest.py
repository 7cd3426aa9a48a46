"""What several unit tests are given."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from held_line import held_line

from ossensor.region import Region
from ossensor.workers.lines import Line


@pytest.fixture
def region() -> Iterator[Region]:
    """Four slots of 4096 bytes, all free."""
    memory = Region.create(4, 4096)
    yield memory
    memory.close()
    os.close(memory.fd)


@pytest.fixture
def line() -> Iterator[Line]:
    """See held_line.py."""
    with held_line() as held:
        yield held
