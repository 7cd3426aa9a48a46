"""Runs pytest as a busy machine does: its processes stand still, one after the other, for up to some seconds each.

    python tests/stalls.py [--seed N] [--most-s 2.0] PYTEST_ARGUMENT...

SIGSTOP keeps a process from everything at any instruction, as a scheduler with something better to do may, and costs no
processor. A test that fails here and not without has a time limit that something else than a hang reaches, or a moment
in which it believes that nothing happens. What it says of the product: that it is right however long each step takes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path


def descendants(pid: int) -> list[int]:
    """The process and all below it, as far as they can be found while they come and go."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{one}/task").iterdir():
                with contextlib.suppress(OSError):
                    found += map(int, (task / "children").read_text().split())
    return found


def stall(pid: int, stands_s: float) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(stands_s)
        finally:
            os.kill(pid, signal.SIGCONT)


def main(arguments: list[str]) -> int:
    """pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.randrange(2**32))
    parser.add_argument("--most-s", type=float, default=2.0, help="how long a process stands still at the most")
    given, words = parser.parse_known_args(arguments)
    rng, stalls = random.Random(given.seed), 0
    print(f"seed {given.seed}", flush=True)
    with subprocess.Popen([sys.executable, "-m", "pytest", *words]) as tests:
        while tests.poll() is None:
            # Short ones mostly: they fall between more instructions.
            stall(rng.choice(descendants(tests.pid)), given.most_s * rng.random() ** 3)
            stalls += 1
            time.sleep(0.3 * rng.random() ** 2)
    print(f"seed {given.seed}: {stalls} stalls")
    return tests.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
