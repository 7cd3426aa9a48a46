"""How long a packet takes: from the kernel's timestamp until it is stored, flushed and committed at the vSensor.

Beside it, `tcpdump -U | socat` over TLS, where it ends when a receiver on the other side has read the packet: nothing
is flushed there, or acknowledged. Idle is a packet now and then; under load, what `bench/forward.py` measures at. The
sensor collects for OSSENSOR_BATCH_MS, a quarter of a second, which is most of its delay when idle; that is by intent.
"""

from __future__ import annotations

import bisect
import os
import sqlite3
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

from forward import FRAMES, TLS, TLS_LISTENER, certificate, piped, sensor
from load import PROFILES, Link, link, write_pcap
from results import Spread, markdown, say
from usage import Group, group

from ossensor import pcapng

_LOOK_S: Final = 0.005
_SETTLE_S: Final = 1.5
LOADS: Final = {"idle, 20 packets/s": 20, "load, 200,000 packets/s": 200_000}


class _Stored:
    """Looks at the vSensor's index every few milliseconds, and notes when a batch is there first."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._seen: dict[int, tuple[int, str, int, int]] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        with closing(sqlite3.connect(f"file:{self._store}/index.sqlite?mode=ro", uri=True)) as index:
            while not self._over.wait(_LOOK_S):
                after = max(self._seen, default=-1)
                found = index.execute(
                    "SELECT sequence, file, offset, length FROM batches WHERE sequence > ?", (after,)
                ).fetchall()
                now_ns = time.time_ns()
                self._seen |= {sequence: (now_ns, *where) for sequence, *where in found}

    def delays_s(self) -> Iterator[float]:
        self._over.set()
        self._thread.join()
        for seen_ns, file, offset, length in self._seen.values():
            with (self._store / file).open("rb") as opened:
                opened.seek(offset)
                for packet in pcapng.packets(opened.read(length)):
                    yield (seen_ns - packet.ts_ns) / 1e9


class _Read:
    """Reads what socat hands on, and notes when each byte was there."""

    def __init__(self, folder: Path) -> None:
        self._fifo, self._kept = folder / "arrivals", folder / "kept.pcap"
        os.mkfifo(self._fifo)
        self._ends: list[int] = []
        self._times_ns: list[int] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with self._fifo.open("rb", buffering=0) as fifo, self._kept.open("wb") as kept:
            while piece := fifo.read(1 << 20):
                kept.write(piece)
                self._times_ns.append(time.time_ns())
                self._ends.append(kept.tell())

    def delays_s(self) -> Iterator[float]:
        self._thread.join()
        data, at = memoryview(self._kept.read_bytes()), 24
        while at + 16 <= len(data):
            seconds, micros, captured, _ = struct.unpack_from("<IIII", data, at)
            at += 16 + captured
            if at <= len(data):
                arrived_ns = self._times_ns[bisect.bisect_left(self._ends, at)]
                yield (arrived_ns - seconds * 10**9 - micros * 1000) / 1e9


@contextmanager
def _ours(on: Link, into: Group, folder: Path) -> Iterator[Callable[[], Iterator[float]]]:
    with sensor(on, into, folder, "off") as run:
        stored = _Stored(folder / "store")

        def delays_s() -> Iterator[float]:
            run.counts()
            return stored.delays_s()

        yield delays_s


@contextmanager
def _peer(on: Link, into: Group, folder: Path) -> Iterator[Callable[[], Iterator[float]]]:
    read = _Read(folder)
    with piped(on, into, folder, f"{TLS_LISTENER} OPEN:arrivals", TLS, options="-U") as run:

        def delays_s() -> Iterator[float]:
            run.counts()
            return read.delays_s()

        yield delays_s


PROGRAMS: Final = {"ossensor": _ours, "tcpdump -U | socat TLS": _peer}


def measure(on: Link, name: str, pcap: Path, *, per_s: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ossensor-bench-") as there, group() as into:
        folder = Path(there)
        certificate(folder)
        with PROGRAMS[name](on, into, folder) as delays_s:
            time.sleep(_SETTLE_S)
            packets = int(per_s * seconds)
            on.replay(pcap, packets=packets, per_s=per_s, frames=min(FRAMES, packets))
            time.sleep(_SETTLE_S)
            found = sorted(delays_s())
    if len(found) < packets // 2:
        raise RuntimeError(f"{name}: of {packets} packets, {len(found)} arrived")
    return {"median_ms": found[len(found) // 2] * 1e3, "p99_ms": found[len(found) * 99 // 100] * 1e3}


def compare(on: Link, folder: Path, *, rounds: int, seconds: float) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """By load and program, the runs."""
    (profile,) = [profile for profile in PROFILES if profile.name.endswith("(mix)")]
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for load, per_s in LOADS.items():
        pcap = folder / "delay.pcap"
        write_pcap(pcap, profile, min(FRAMES, int(per_s * seconds)))
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
        for turn in range(rounds):
            for name, of in runs.items():
                say(f"delay, {load}, round {turn + 1} of {rounds}: {name}")
                of.append(measure(on, name, pcap, per_s=per_s, seconds=seconds))
        found[load] = runs
    return found


def table(found: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    rows = [
        (load, name, *(Spread.of(run[figure] for run in of).text(1) for figure in ("median_ms", "p99_ms")))
        for load, runs in found.items()
        for name, of in runs.items()
    ]
    return markdown(("load", "program", "median, ms (least to most)", "99th percentile, ms"), rows)


def run(rounds: int, seconds: float) -> dict[str, dict[str, list[dict[str, Any]]]]:
    with link() as on, tempfile.TemporaryDirectory() as folder:
        subprocess.run(["ip", "-n", on.reader, "link", "set", "lo", "up"], check=True)
        return compare(on, Path(folder), rounds=rounds, seconds=seconds)


if __name__ == "__main__":
    results = run(1, 2.0)
    say("")
    print(table(results))
