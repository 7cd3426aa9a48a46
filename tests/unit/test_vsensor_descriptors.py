"""As many connections as the descriptors allow, and a file of the store never lacks one."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from ossensor.vsensor import descriptors
from ossensor.vsensor.files import OPEN_MAX


@pytest.fixture
def soft_1024() -> Iterator[int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_limit_is_raised_as_far_as_the_connections_need_and_no_further(soft_1024: int) -> None:
    wanted = descriptors.CONNECTIONS_MAX + OPEN_MAX + 128
    expected = wanted if soft_1024 == resource.RLIM_INFINITY else min(wanted, soft_1024)

    assert expected == descriptors.raise_limit()
    assert (expected, soft_1024) == resource.getrlimit(resource.RLIMIT_NOFILE)
    assert expected == descriptors.raise_limit()  # repeated, it changes nothing


@pytest.mark.parametrize(
    "limit, connections",
    [(1 << 20, 4096), (4096 + 256 + 128, 4096), (4096, 4096 - 256 - 128), (1024, 640), (256, 512)],
)
def test_files_and_the_rest_come_off_before_connections_do(limit: int, connections: int) -> None:
    assert connections == descriptors.connections(limit)
