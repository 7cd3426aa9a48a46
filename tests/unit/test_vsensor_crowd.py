"""Many sensors at once, each with all the connections that it may have, in the same instant: bench/crowd.py, bounded.

The long run, 500 sensors with 2,500 connections, is bench/collector.py's; docs/performance.md has its figures.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_vsensor_kit import KEY, rows, split
from test_vsensor_kit_process import Process

BENCH = Path(__file__).resolve().parents[2] / "bench"
SENSORS, CONNECTIONS = 30, 5
# What a connection that is sending may hold besides its body's place in the budget; see DESIGN.md, section 8.
CONNECTION_BYTES = 200 << 10


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(BENCH))
    import crowd as made  # noqa: PLC0415

    yield made
    del sys.modules["crowd"]


def peak_bytes(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def test_a_crowd_that_comes_in_one_instant_is_served_whole_within_bounded_memory(tmp_path: Path, crowd: Any) -> None:
    coming = crowd.Crowd(SENSORS, CONNECTIONS, section_bytes=64 << 10)
    with Process(tmp_path) as vsensor:
        port = int(vsensor.wait_for("listening")["address"].rpartition(":")[2])
        serving = vsensor.wait_for("serving")["pid"]
        with crowd.gather(port, KEY.secret.decode("ascii"), coming) as gathered:
            before_bytes = peak_bytes(serving)
            tally = gathered.send(0)
            grown_bytes = peak_bytes(serving) - before_bytes

    assert gathered.registered == Counter(registered=SENSORS)
    assert tally.outcomes == Counter(stored=SENSORS * CONNECTIONS)
    assert len(rows(tmp_path)) == SENSORS * CONNECTIONS
    assert len([s for p in tmp_path.glob("bench-*/eth0/*.pcapng") for s in split(p.read_bytes())]) == len(
        rows(tmp_path)
    )
    print(f"{grown_bytes / SENSORS / CONNECTIONS / 1024:.0f} KiB for each connection")
    assert grown_bytes <= SENSORS * CONNECTIONS * (CONNECTION_BYTES + coming.section_bytes)
