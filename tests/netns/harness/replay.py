"""tcpreplay onto several interfaces at once, at a rate that is checked."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.flood import last_core
from harness.frames import write_pcap
from harness.namespaces import Namespace


def replay(namespace: Namespace, plan: Mapping[str, Sequence[bytes]], *, per_second: int, folder: Path) -> list[float]:
    """Sends each interface its frames, all interfaces at once; the rates reached, in packets per second.

    Fails unless tcpreplay says that every frame was sent and none refused.
    """
    running = []
    for interface, frames in plan.items():
        path = folder / f"replay-{interface}.pcap"
        write_pcap(path, frames)
        options: list[str | Path] = ["--preload-pcap", f"--pps={per_second}", f"--intf1={interface}", path]
        argv = namespace.inside("taskset", "--cpu-list", last_core(), "tcpreplay", *options)
        running.append((interface, subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)))
    rates = []
    for interface, process in running:
        said, _ = process.communicate(timeout=240)
        assert process.returncode == 0, said
        assert _figure(said, r"Successful packets:\s+(\d+)") == len(plan[interface]), said
        assert _figure(said, r"Failed packets:\s+(\d+)") == 0, said
        rates.append(_figure(said, r"([\d.]+) pps"))
    return rates


def _figure(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    assert found is not None, text
    return float(found[1])
