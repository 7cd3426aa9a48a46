"""What capturing costs: the sensor's two engines beside tcpdump and dumpcap, in one run, under the same traffic.

    .venv/bin/python bench/capture.py [--rounds 5] [--seconds 2] [--only 64,1400] [--lossless] [--json FILE]

Processor time per packet is that of the one process that captures, at a rate that none of them loses packets at;
programs take turns, and medians are compared, so that what else the machine does meets all alike. The sensor's figure
includes the packet's pcapng block in a shared-memory slot; tcpdump and dumpcap write to /dev/null. tcpdump as it comes
is the peer; with as large a buffer as the ring's (-B 16384) it stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from load import PROFILES, Link, Profile, link, write_pcap
from programs import PROGRAMS
from results import markdown, of_rates, say, spread_ns

PEER: Final = "tcpdump"
# The last block of a quiet ring is handed over after a tenth of a second.
_SETTLE_S: Final = 0.4
# From what every program manages to what no single core of 2026 sends.
_LADDER: Final = (1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0)


def measure(on: Link, name: str, pcap: Path, *, packets: int, per_s: int | None) -> dict[str, Any]:
    """One program under one load."""
    with PROGRAMS[name](on) as running:
        time.sleep(_SETTLE_S)
        before_s, before = running.cpu_s, on.received()
        rate = on.replay(pcap, packets=packets, per_s=per_s)
        time.sleep(_SETTLE_S)
        used_s, sent = running.cpu_s - before_s, on.received() - before
        captured, dropped = running.finish()
    return {
        "rate": round(rate),
        "sent": sent,
        "captured": captured,
        "dropped": dropped,
        "ns": used_s / max(captured, 1) * 1e9,
    }


def compare(on: Link, profile: Profile, pcap: Path, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Processor time per packet of every program, in turns."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in PROGRAMS}
    for turn in range(rounds):
        for name in PROGRAMS:
            say(f"{profile.name} bytes, round {turn + 1} of {rounds}, {name}")
            packets = int(profile.steady_per_s * seconds)
            runs[name].append(measure(on, name, pcap, packets=packets, per_s=profile.steady_per_s))
    return {name: of_rates(of, "dropped", "sent") for name, of in runs.items()}


def lossless(on: Link, profile: Profile, pcap: Path, *, seconds: float) -> dict[str, int]:
    """The highest rate of the ladder at which a program dropped nothing, as far as the generator came."""
    found = {}
    for name in PROGRAMS:
        best = 0
        for step in (*_LADDER, None):
            say(f"{profile.name} bytes, lossless rate, {name}, {best}/s so far")
            per_s = None if step is None else int(profile.steady_per_s * step)
            run = measure(on, name, pcap, packets=int(profile.steady_per_s * seconds * (step or 3)), per_s=per_s)
            if run["dropped"]:
                break
            best = max(best, run["rate"])
        found[name] = best
    return found


def table(results: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown; ratios are to tcpdump as it comes."""
    rows = []
    for profile, result in results.items():
        for name, of in result["cpu"].items():
            ratio = of["ns"] / result["cpu"][PEER]["ns"]
            rate = result.get("lossless", {}).get(name, "-")
            rows.append((profile, name, spread_ns(of), f"{ratio:.2f}", of["dropped"], rate))
    head = ("frame bytes", "program", "ns per packet (least to most)", "ratio", "dropped", "lossless packets/s")
    return markdown(head, rows)


def run(*, rounds: int, seconds: float, lossless_too: bool, only: str = "") -> dict[str, dict[str, Any]]:
    """By profile: processor time of each program, and where asked its lossless rate."""
    results: dict[str, dict[str, Any]] = {}
    with link() as on, tempfile.TemporaryDirectory() as folder:
        for profile in PROFILES:
            if only and profile.name not in only.split(","):
                continue
            pcap = Path(folder) / "traffic.pcap"
            mean = write_pcap(pcap, profile)
            result: dict[str, Any] = {"cpu": compare(on, profile, pcap, rounds=rounds, seconds=seconds), "mean": mean}
            if lossless_too:
                result["lossless"] = lossless(on, profile, pcap, seconds=seconds)
            results[profile.name] = result
    say("")
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description="Processor time per captured packet, beside tcpdump and dumpcap.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of traffic in each run")
    parser.add_argument("--only", help="profiles, separated by commas: " + ", ".join(p.name for p in PROFILES))
    parser.add_argument("--lossless", action="store_true", help="search each program's lossless rate, too")
    parser.add_argument("--json", metavar="FILE", help="results for programs")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or (os.cpu_count() or 1) < 2:
        sys.stderr.write("bench: needs root, for network namespaces, and two processors\n")
        return 77
    results = run(
        rounds=arguments.rounds, seconds=arguments.seconds, lossless_too=arguments.lossless, only=arguments.only or ""
    )
    print(table(results))
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(results, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
