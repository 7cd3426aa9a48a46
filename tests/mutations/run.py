"""Injects each fault of mutations.py into a copy of the tree, runs its tests there, and says which noticed.

    python tests/mutations/run.py [WORD...]     only subjects and faults that contain a word

It ends with 1 if a fault was noticed by no test, could not be injected, or broke the program so that no test ran; and
at once if the tests fail without any. Nothing but the copy is changed. The native loop is compiled anew for each.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

from mutations import MUTATIONS, TESTS, Mutation

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "build", "dist", "*.egg-info", "screenshots")
# A fault can make a loop endless. The slowest tests here take a few seconds.
LIMIT_S = 120
TESTS_FAILED = 1  # pytest's exit code; 2 and above: it came to no test


class Run(NamedTuple):
    """What the tests said: `by` is the one that failed first, or what else ended them; None when nothing did."""

    by: str | None
    broken: bool = False


def main(words: list[str]) -> int:
    chosen = [m for m in MUTATIONS if not words or any(word in f"{m.subject} {m.fault}" for word in words)]
    with tempfile.TemporaryDirectory(prefix="ossensor-mutations-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        for subject in dict.fromkeys(m.subject for m in chosen):
            if subject == "native":
                compile_native(tree)
            sound = run_tests(tree, subject)
            if sound.by is not None:
                print(f"{subject}: without any fault, {sound.by} fails")
                return 1
        missed = [m for m in chosen if not noticed(tree, m)]
    print(f"{len(chosen) - len(missed)} of {len(chosen)} faults noticed")
    return 1 if missed else 0


def noticed(tree: Path, mutation: Mutation) -> bool:
    """Injects the fault, tells what became of it, and takes it out again."""
    file = tree / mutation.file
    sound = file.read_text()
    started = time.monotonic()
    if sound.count(mutation.old) != 1:
        run = Run("its text is not there exactly once", broken=True)
    else:
        file.write_text(sound.replace(mutation.old, mutation.new))
        try:
            if mutation.subject == "native":
                compile_native(tree)
            run = run_tests(tree, mutation.subject)
        except subprocess.CalledProcessError as e:
            run = Run(f"it does not compile:\n{e.stderr}", broken=True)
        finally:
            file.write_text(sound)
    verdict = "BROKEN" if run.broken else "SURVIVED" if run.by is None else "noticed"
    took_s = time.monotonic() - started
    print(f"{verdict:8} {took_s:5.1f} s  {mutation.subject}: {mutation.fault}  [{run.by or 'no test'}]", flush=True)
    return verdict == "noticed"


def compile_native(tree: Path) -> None:
    """As an install would, by the flags of pyproject.toml, and without its second or two for each."""
    project = tomllib.loads((tree / "pyproject.toml").read_text())
    (module,) = (m for m in project["tool"]["setuptools"]["ext-modules"] if m["name"] == "ossensor.capture._native")
    target = "ossensor/capture/_native" + sysconfig.get_config_var("EXT_SUFFIX")
    include = "-I" + sysconfig.get_path("include")
    command = ["gcc", "-shared", "-fPIC", include, *module["extra-compile-args"], *module["sources"], "-o", target]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)


def run_tests(tree: Path, subject: str) -> Run:
    # Neither the old byte code of a file that was changed twice in a second, nor the installed tree beside the copy.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": f"{tree}:{tree}/tests/mutations"}
    options = ["-x", "-q", "--tb=no", "-p", "no:cacheprovider", "-p", "unshrunk", f"--timeout={LIMIT_S // 2}"]
    tests = subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *TESTS[subject]],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = tests.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return Run(f"no end within {LIMIT_S} s")
    finally:
        # Also the children that a failed test has left; the group lives as long as one of them.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(tests.pid, signal.SIGKILL)
    code = tests.wait()
    if code == 0:
        return Run(None)
    if code < 0:
        return Run(f"signal {-code}")
    failed = re.search(r"^(?:FAILED|ERROR) \S+?\.py::(.+?)(?: - .*)?$", said, re.MULTILINE)
    if code != TESTS_FAILED or failed is None:
        return Run(f"pytest ended with {code}:\n{said}", broken=True)
    return Run(failed[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
