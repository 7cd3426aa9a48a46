"""G2: the kernel counts in 32 bits, and begins anew at each reading; the books count in 64 for as long as it takes."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from ossensor.budget import Share
from ossensor.capture import bpf
from ossensor.capture.bpf import Statistics
from ossensor.interfaces import Interface
from ossensor.port import Port
from ossensor.recipe import Recipe
from ossensor.systemd.fdstore import Store

MOST = 2**32 - 1
READINGS = 5


@pytest.fixture
def port() -> Iterator[Port]:
    recipe = Recipe("ring", 100, 262_144, complete_checksums=False, application="test")
    made = Port(
        Interface("eth0", 1, loopback=False, up=True), 1, recipe, Share(1 << 20, 8 << 20), lambda _: b"", Store({})
    )
    yield made
    made._engine = None
    made.close()


def test_as_much_as_the_kernel_can_count_is_read_as_it_is() -> None:
    full = SimpleNamespace(getsockopt=lambda *_: struct.pack("=III", MOST, MOST - 1, 0))

    assert bpf.statistics(full) == Statistics(MOST, MOST - 1)  # type: ignore[arg-type]  as much of a socket as is used


def test_counts_go_on_beyond_what_the_kernel_can_count_and_never_fall(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bpf, "statistics", lambda _: Statistics(MOST, MOST // 2))
    port._engine = SimpleNamespace(socket=None)  # type: ignore[assignment]  as much of an engine as is used
    seen = []
    for _ in range(READINGS):
        port.read_statistics()
        seen.append((port.region.totals()[:2], port.region.kernel_counts()))

    expected = [(MOST * n, MOST // 2 * n) for n in range(1, READINGS + 1)]
    assert seen == [(one, one) for one in expected]
