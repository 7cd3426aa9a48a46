"""What holds for every test: it leaves the process as it found it. Files share one, in no order of their own.

And of hypothesis: a busy machine is no finding, and `make test` tries the same examples each time, so that a commit is
not refused for what another one brought. What is new is for `make fuzz` to find: `OSSENSOR_EXAMPLES=2000`, each time
others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_EXAMPLES = os.environ.get("OSSENSOR_EXAMPLES")
settings.register_profile(
    "ossensor",
    deadline=None,  # a fifth of a second otherwise, for which a process may well stand still
    suppress_health_check=[HealthCheck.too_slow],  # it measures time, too
    derandomize=_EXAMPLES is None,
    database=None,
    max_examples=int(_EXAMPLES or 100),
    print_blob=True,
)
settings.load_profile("ossensor")


def _state() -> tuple[int, Path]:
    umask = os.umask(0o077)  # can only be read by setting it
    os.umask(umask)
    return umask, Path.cwd()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = _state()
    yield
    assert _state() == before, "umask or working directory"
