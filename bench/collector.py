"""What receiving costs: the vSensor's processor time and memory under sensors that send as fast as it takes them.

    .venv/bin/python bench/collector.py [--rounds 3] [--seconds 5] [--sensors 500] [--json FILE]

Ingest: two sensors with batches of 1 MiB over TLS, each signed, verified, hashed, written, flushed and committed; MB
(10^6 bytes) per processor second of all the vSensor's processes, by their control group, beside the physical floor of
the same run. A crowd: many sensors registered and sending at once, with all the connections that a sensor may have.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import floor
import parts
from crowd import Crowd, gather
from results import Spread, markdown, say, spread
from usage import Group, as_one, group

_OSSENSOR: Final = str(Path(sys.executable).parent / "ossensor")
_KEY: Final = "a key that guards nothing but a measurement"
_MIB: Final = 1 << 20
# A sensor has four deliveries of an interface on their way, and another connection for what it says besides.
CONNECTIONS: Final = 5
_CROWD_SECTION_BYTES: Final = 64 << 10  # what a quiet interface makes of a quarter of a second


@contextmanager
def vsensor(into: Group, folder: Path) -> Iterator[int]:
    """A vSensor with a store in the folder, all its processes in the group; the port it listens on."""
    argv = [*into.joining, _OSSENSOR, "vsensor", "--listen", "127.0.0.1:0", "--store", str(folder / "store"), "--json"]
    environ = {"PATH": "/usr/bin:/bin", "VSENSOR_HMAC_KEY": _KEY}
    with (folder / "said").open("wb") as stderr:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr, env=environ, text=True)
    lines = process.stdout or ()
    try:
        events = (json.loads(line) for line in lines)
        (address,) = [event["address"] for event in [next(events)] if event["event"] == "listening"]
        if next(events)["event"] != "serving":
            raise RuntimeError((folder / "said").read_text())
        yield int(address.rpartition(":")[2])
    finally:
        process.terminate()
        process.communicate(timeout=60)


def memory_bytes(into: Group) -> int:
    """The most that the group's processes have had in memory, each counted with what it shares."""
    found = 0
    for pid in into.pids():
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        found += int(lines["VmHWM"].split()[0]) << 10
    return found


def connections(into: Group) -> int:
    """Sockets that the group's processes have open, but for those they listen on and talk among themselves with."""
    found = 0
    for pid in into.pids():
        table = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
        established = {f"socket:[{fields[9]}]" for fields in table if fields[3] == "01"}  # net/tcp_states.h
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                found += str(fd.readlink()) in established
    return found


def measure(crowd: Crowd, seconds: float) -> dict[str, Any]:
    """One crowd at a new vSensor."""
    with tempfile.TemporaryDirectory(prefix="ossensor-bench-") as there, group() as into:
        folder = Path(there)
        with (
            vsensor(into, folder) as port,
            as_one() as step_back,
            gather(port, _KEY, crowd, step_back) as gathered,
        ):
            before_s = into.cpu_s
            tally = gathered.send(seconds)
            used_s = into.cpu_s - before_s
            held_bytes, open_connections = memory_bytes(into), connections(into)
        is_ingest = crowd.section_bytes == _MIB
        stages, alone_ms = (floor.measure(folder), parts.measure(folder)) if is_ingest else ({}, {})
    delays_s = sorted(tally.delays_s)
    return {
        "registered": gathered.registered,
        "outcomes": tally.outcomes,
        "mb_per_cpu_s": tally.stored_bytes / 1e6 / used_s,
        "mb_per_s": tally.stored_bytes / 1e6 / tally.elapsed_s,
        "batches_per_s": sum(tally.outcomes.values()) / tally.elapsed_s,
        "cpu_ms_per_batch": used_s / max(1, sum(tally.outcomes.values())) * 1e3,
        "median_ms": delays_s[len(delays_s) // 2] * 1e3,
        "p99_ms": delays_s[len(delays_s) * 99 // 100] * 1e3,
        "memory_mib": held_bytes / _MIB,
        "connections": open_connections,
        "floor": stages,
        "parts_ms": alone_ms,
    }


def ingest(rounds: int, seconds: float) -> list[dict[str, Any]]:
    runs = []
    for turn in range(rounds):
        say(f"collector, 1 MiB batches, round {turn + 1} of {rounds}")
        runs.append(measure(Crowd(2, 4, _MIB), seconds))
    return runs


def crowds(numbers: list[int], seconds: float) -> dict[int, dict[str, Any]]:
    """By number of sensors, each with its batch of 64 KiB a second or so."""
    found = {}
    for number in numbers:
        say(f"collector, {number} sensors")
        found[number] = measure(Crowd(number, CONNECTIONS, _CROWD_SECTION_BYTES, pause_s=5.0), seconds)
    return found


def ingest_table(runs: list[dict[str, Any]]) -> str:
    """Processor time per GB: the floor's stages, and the vSensor."""
    stages = {name: Spread.of(run["floor"][name] for run in runs) for name in runs[0]["floor"]}
    ours = Spread.of(1e3 / run["mb_per_cpu_s"] for run in runs)
    ratio = Spread.of(1e3 / run["mb_per_cpu_s"] / sum(run["floor"].values()) for run in runs)
    rows = [(name, figure.text(2)) for name, figure in stages.items()]
    rows.append(("all of these: the floor", Spread.of(sum(run["floor"].values()) for run in runs).text(2)))
    rows.append(("the vSensor", ours.text(2)))
    table = markdown(("stage", "CPU s per GB"), rows)
    alone = [(name, Spread.of(run["parts_ms"][name] for run in runs).text(2)) for name in runs[0]["parts_ms"]]
    alone.append(("all of these", Spread.of(sum(run["parts_ms"].values()) for run in runs).text(2)))
    alone.append(("the vSensor", Spread.of(run["cpu_ms_per_batch"] for run in runs).text(2)))
    by_part = markdown(("part, by itself", "CPU ms per batch of 1 MiB"), alone)
    return (
        f"{table}\n\n{by_part}\n\n"
        f"MB per CPU second: {spread(runs, 'mb_per_cpu_s').text()}; of the floor: {ratio.text(2)};"
        f" MB/s by the clock: {spread(runs, 'mb_per_s').text()}; memory {spread(runs, 'memory_mib').text()} MiB"
    )


def crowd_table(found: dict[int, dict[str, Any]]) -> str:
    head = (
        "sensors",
        "connections",
        "registered",
        "stored",
        "not stored",
        "CPU ms per batch",
        "median, p99 ms",
        "MiB",
    )
    return markdown(
        head,
        (
            (
                *(number, run["connections"], run["registered"].get("registered", 0), run["outcomes"].get("stored", 0)),
                sum(run["outcomes"].values()) - run["outcomes"].get("stored", 0),
                f"{run['cpu_ms_per_batch']:.2f}",
                f"{run['median_ms']:.0f}, {run['p99_ms']:.0f}",
                f"{run['memory_mib']:.0f}",
            )
            for number, run in found.items()
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="The vSensor's processor time and memory, beside the physical floor.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of sending in each run")
    parser.add_argument("--sensors", default="1,100,500", help="numbers of sensors, separated by commas; empty: none")
    parser.add_argument("--json", metavar="FILE", help="results for programs")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"ingest": ingest(arguments.rounds, arguments.seconds)}
    results["crowds"] = crowds([int(number) for number in arguments.sensors.split(",") if number], arguments.seconds)
    say("")
    print(ingest_table(results["ingest"]))
    print(crowd_table(results["crowds"]))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
