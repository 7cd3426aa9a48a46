"""What more of everything costs: idle interfaces, one to two hundred. Sensors are in collector.py, sizes in capture.py.

Of each number: processor time of all the sensor's processes while nothing comes in, in percent of a core, and the
memory that is theirs alone (Private_* in smaps_rollup), rings and slots included, which OSSENSOR_MEMORY_MB bounds.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from forward import certificate, sensor
from load import Link, link
from results import Spread, markdown, say
from usage import Group, group

NUMBERS: Final = (1, 10, 50, 200)
_QUIET_S: Final = 4.0
# The default of OSSENSOR_MEMORY_MB has room for 85, and fewer get more each; here all get the same.
_EACH_MB: Final = {"OSSENSOR_RING_MB": "1", "OSSENSOR_BUFFER_MB": "4"}


def _add(on: Link, number: int) -> list[str]:
    """So many interfaces at the reader's end, up, with nobody who sends."""
    names = [f"idle{n}" for n in range(number)]
    # veth and not dummy: kernels of small virtual machines often have no other.
    _batch(on.reader, [f"link add {name} type veth peer name {name} netns {on.sender}" for name in names])
    for namespace in on:
        _batch(namespace, [f"link set {name} arp off up" for name in names])
    return names


def _remove(on: Link, names: list[str]) -> None:
    _batch(on.reader, [f"link delete {name}" for name in names])


def _batch(namespace: str, lines: list[str]) -> None:
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input="\n".join(lines), text=True, check=True)


def _private_bytes(into: Group) -> int:
    found = 0
    for pid in into.pids():
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Private_"):
                found += int(line.split()[1]) << 10
    return found


def measure(on: Link, number: int, seconds: float) -> dict[str, Any]:
    names = _add(on, number)
    try:
        with tempfile.TemporaryDirectory(prefix="ossensor-bench-") as there, group() as into:
            folder = Path(there)
            certificate(folder)
            settings = _EACH_MB | {"OSSENSOR_MEMORY_MB": str(5 * number)}
            with sensor(on, into, folder, "off", names, settings=settings) as run:
                time.sleep(_QUIET_S)  # what starts settles
                began_s, before_s = time.monotonic(), into.cpu_s
                time.sleep(seconds)
                share = (into.cpu_s - before_s) / (time.monotonic() - began_s)
                private_bytes = _private_bytes(into)
                run.counts()
    finally:
        _remove(on, names)
    return {"percent_of_a_core": share * 100, "private_mib": private_bytes / (1 << 20)}


def interfaces(rounds: int, seconds: float, numbers: tuple[int, ...] = NUMBERS) -> dict[int, list[dict[str, Any]]]:
    """By number of idle interfaces, the runs."""
    found: dict[int, list[dict[str, Any]]] = {number: [] for number in numbers}
    with link() as on:
        subprocess.run(["ip", "-n", on.reader, "link", "set", "lo", "up"], check=True)
        for turn in range(rounds):
            for number, of in found.items():
                say(f"{number} idle interfaces, round {turn + 1} of {rounds}")
                of.append(measure(on, number, seconds))
    return found


def table(found: dict[int, list[dict[str, Any]]]) -> str:
    rows = [
        (number, *(Spread.of(run[figure] for run in of).text(2) for figure in ("percent_of_a_core", "private_mib")))
        for number, of in found.items()
    ]
    return markdown(("idle interfaces", "percent of a core (least to most)", "private MiB"), rows)


if __name__ == "__main__":
    results = interfaces(1, 3.0)
    say("")
    print(table(results))
