"""`make fuzz`: each target by atheris, which sees what lines an input reaches, for some time.

    run.py [--seconds N] [TARGET ...]     all of them, 60 seconds each
    run.py --keep [TARGET ...]            takes what was found into tests/fuzz/corpora: inputs that reach new lines

What is found lies below build/fuzz/ and is where the next run begins. An input at which a target raised is told, kept
there, and ends the run with 1: mend it, and put it beside the corpus under a name that begins with `found-`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from catalogue import CORPORA, NAMES, load  # noqa: E402  lies beside this script

FOUND = HERE.parents[1] / "build" / "fuzz"
_LONGEST_BYTES = 16 << 10  # room for an index of SQLite's, whose seeds would be cut
_SLOWEST_S = 10
_KEPT_BYTES = 1024  # in the repository, of one input that no one has named


def one(name: str, options: list[str]) -> None:
    """Fuzzes one target in this process; libFuzzer ends it."""
    import atheris  # noqa: PLC0415  not there where `make fuzz` was never called

    with atheris.instrument_imports(include=["ossensor", "http_sf", "http_message_signatures", "dotenv"]):
        target = load(name)

    def run(data: bytes) -> None:
        target.run(data)

    atheris.Setup([sys.argv[0], *options], run)
    atheris.Fuzz()


def folders(name: str) -> tuple[Path, Path]:
    """Where a target's inputs are: what fuzzing found, and what is in the repository, with the seeds beside it."""
    found, seeds = FOUND / name, FOUND / "seeds" / name
    found.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(seeds, ignore_errors=True)
    seeds.mkdir(parents=True)
    for number, data in enumerate(load(name).corpus):
        (seeds / f"{number:04d}").write_bytes(data)
    return found, seeds


def started(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, __file__, "--one", name, *options]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def fuzz(name: str, seconds: int) -> bool:
    """False when something was found."""
    found, seeds = folders(name)
    options = (f"-max_total_time={seconds}", f"-max_len={_LONGEST_BYTES}", f"-timeout={_SLOWEST_S}")
    done = started(name, *options, f"-artifact_prefix={FOUND / name}-", "-print_final_stats=1", str(found), str(seeds))
    executions = re.search(r"number_of_executed_units: (\d+)", done.stderr)
    covered = re.findall(r"cov: (\d+)", done.stderr)
    figures = int(executions[1]) if executions else 0, covered[-1] if covered else "?", len(list(found.iterdir()))
    print("{:<16} {:>9,} executions, {:>5} edges, {:>4} inputs kept".format(name, *figures), flush=True)
    if done.returncode == 0:
        return True
    told = (done.stdout + done.stderr).splitlines()  # the traceback, and what libFuzzer says
    print("\n".join(line for line in told if not line.startswith(("#", "INFO", "WARNING"))), flush=True)
    return False


def arcs(run: Callable[[bytes], object], data: bytes) -> set[tuple[str, int, int]]:
    """From which line to which our code went. libFuzzer has a merge, but it starts itself anew, as no program here."""
    seen: set[tuple[str, int, int]] = set()
    last: dict[FrameType, int] = {}

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if "/ossensor/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            seen.add((frame.f_code.co_filename, last.get(frame, 0), frame.f_lineno))
            last[frame] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        run(data)
    finally:
        sys.settrace(None)
    return seen


def keep(name: str) -> None:
    """Into the repository, the smallest inputs first, each that goes a way that those before it do not."""
    target = load(name)
    known = set[tuple[str, int, int]]().union(*(arcs(target.run, data) for data in target.corpus))
    inputs = sorted((FOUND / name).iterdir(), key=lambda path: (path.stat().st_size, path.name))
    kept = 0
    for path in inputs:
        data = path.read_bytes()
        if len(data) <= _KEPT_BYTES and (new := arcs(target.run, data) - known):
            known |= new
            (CORPORA / name).mkdir(parents=True, exist_ok=True)
            (CORPORA / name / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
            kept += 1
    print(f"{name:<16} {kept} of {len(inputs)} inputs taken into the repository")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each (default: 60)")
    parser.add_argument("--keep", action="store_true", help="take what was found into tests/fuzz/corpora")
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(NAMES):
        parser.error(f"no targets: {', '.join(sorted(unknown))}")
    names = arguments.targets or NAMES
    if arguments.keep:
        for name in names:
            keep(name)
        return 0
    return min(1, sum(not fuzz(name, arguments.seconds) for name in names))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(sys.argv[2], sys.argv[3:])
    sys.exit(main())
