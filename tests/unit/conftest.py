"""What several unit tests are given."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from ossensor.region import Region


@pytest.fixture
def region() -> Iterator[Region]:
    """Four slots of 4096 bytes, all free."""
    memory = Region.create(4, 4096)
    yield memory
    memory.close()
    os.close(memory.fd)
