"""Everything in one run, and the page about it: docs/performance.md.

    .venv/bin/python bench/run.py [--quick] [--rounds N] [--only capture,forward,collector,...] [--json FILE]

The page is written anew after each part, from what there is by then, so a run that is broken off leaves something.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import capture
import collector
import delay
import forward
import page
import scale

_ROOT: Final = Path(__file__).resolve().parent.parent


class Effort(NamedTuple):
    """How much of everything."""

    rounds: int
    seconds: float
    lossless: bool
    traffic: str


_QUICK: Final = Effort(1, 1.0, lossless=False, traffic="mix,64")
_WHOLE: Final = Effort(5, 3.0, lossless=True, traffic="mix,text,64")


def _collector(effort: Effort) -> dict[str, Any]:
    seconds = effort.seconds + 2  # of batches, as many as of packets elsewhere
    return {
        "ingest": collector.ingest(effort.rounds, seconds),
        "crowds": collector.crowds([1, 10, 100, 500] if effort.lossless else [1, 100, 500], seconds),
    }


_PARTS: Final[dict[str, Callable[[Effort], dict[str, Any]]]] = {
    "capture": lambda of: {"capture": capture.run(rounds=of.rounds, seconds=of.seconds, lossless_too=of.lossless)},
    "forward": lambda of: {
        "forward": forward.run(rounds=of.rounds, seconds=of.seconds + 1, lossless_too=of.lossless, only=of.traffic)
    },
    "collector": _collector,
    "delay": lambda of: {"delay": delay.run(of.rounds, of.seconds + 1)},
    "interfaces": lambda of: {"interfaces": scale.interfaces(of.rounds, of.seconds + 2)},
}


def _said(*argv: str) -> str:
    return subprocess.run(argv, check=False, capture_output=True, text=True, cwd=_ROOT).stdout.strip()


def _about(effort: Effort) -> dict[str, str]:
    cpu = [
        line.split(":", 1)[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    memory_kib = int(Path("/proc/meminfo").read_text().split()[1])
    changed = " and changes" if _said("git", "status", "--porcelain", "--", "ossensor", "bench") else ""
    return {
        "when": f"{dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        "commit": (_said("git", "rev-parse", "--short", "HEAD") or "unknown") + changed,
        "machine": f"{len(cpu)} x {''.join(cpu[:1])}, {memory_kib >> 20} GiB, Linux {platform.release()}",
        "Python": platform.python_version(),
        "effort": f"{effort.rounds} rounds of {effort.seconds:g} s and a little more",
        "load average before": " ".join(f"{load:.1f}" for load in os.getloadavg()),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="All measurements, and docs/performance.md from them.")
    parser.add_argument("--quick", action="store_true", help="one short round of each: some five minutes")
    parser.add_argument("--rounds", type=int, help="of each measurement, instead of what this effort has")
    parser.add_argument("--only", default=",".join(_PARTS), help="parts, separated by commas: " + ", ".join(_PARTS))
    parser.add_argument("--docs", type=Path, default=_ROOT / "docs", help="where the page is written")
    parser.add_argument("--json", metavar="FILE", type=Path, help="results for programs")
    parser.add_argument(
        "--beside", metavar="FILE", type=Path, help="such a file: what --only leaves out is taken from it"
    )
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if unknown := [part for part in parts if part not in _PARTS]:
        parser.error(f"no such part: {', '.join(unknown)}")
    if os.geteuid() != 0 or (os.cpu_count() or 1) < 2:
        sys.stderr.write("bench: needs root, for network namespaces, and two processors\n")
        return 77
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or namespaces and groups would stay
    effort = _QUICK if arguments.quick else _WHOLE
    effort = effort._replace(rounds=arguments.rounds or effort.rounds)
    results: dict[str, Any] = {"about": _about(effort)}
    if arguments.beside:
        earlier = json.loads(arguments.beside.read_text())
        about = earlier.pop("about")
        results |= earlier
        results["about"][f"not of this run: {', '.join(earlier)}"] = f"{about['when']}, commit {about['commit']}"
    for part in parts:
        began_s = time.monotonic()
        results |= _PARTS[part](effort)
        page.write(results, arguments.docs)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2))
        print(f"{part}: {time.monotonic() - began_s:.0f} s, {arguments.docs / 'performance.md'}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
