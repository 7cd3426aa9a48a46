"""What holds for every test: it leaves the process as it found it. Files share one, in no order of their own.

And of hypothesis: a busy machine is no finding, and `make test` tries the same examples each time, so that a commit is
not refused for what another one brought. What is new is for `make fuzz` to find: `OSSENSOR_EXAMPLES=2000`, each time
others.

The files that take longest come first. A file goes to one of the processes that run at the same time, as a whole; two
of three would wait at the end for who took a long one last.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

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

# More than half a minute each, or a test of a quarter of one. A name that is missing costs seconds, and nothing else.
_LONGEST: Final = """
outages direct_address scale_out kills vsensor_lost_replies status_live antigena retries replay stop
documented_commands vsensor_fresh engines reset_neighbours handover slow_vsensor failing_calls soak edges page_live
limits bad_input rotation resets streams
""".split()  # noqa: SIM905  a name a line would be a page of them


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only with --no-loadscope-reorder does xdist keep it: by itself it begins with the files of most tests."""
    rank = {f"test_{name}": place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def _state() -> tuple[int, Path]:
    umask = os.umask(0o077)  # can only be read by setting it
    os.umask(umask)
    return umask, Path.cwd()


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = _state()
    yield
    assert _state() == before, "umask or working directory"
