"""A wheel of pypcap for this Python, 3.12 and later: pypcap.py WHEEL_FOLDER. For 3.11 it makes none, and needs none.

pypcap's sdist brings C that Cython 0.29 made, which CPython 3.12 and later refuse to compile (ob_digit and
_PyLong_AsByteArray went), and its setup.py compiles that C and nothing else, so no option of pip can help. The C is
made anew here from the pcap.pyx beside it, by Cython 3.0.12 or later: 3.0.12 is the first whose output 3.13 compiles.
--3str: strings are strings, as 0.29 had it under Python 3; Cython 3's default makes names of devices bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import tomllib
from pathlib import Path
from typing import Final

_TOOLS: Final = ("cython>=3.0.12,<4", "setuptools>=74.1", "wheel")
_PROJECT: Final = Path(__file__).parents[2] / "pyproject.toml"


def main() -> None:
    if sys.version_info < (3, 12):
        return
    wheels = Path(sys.argv[1]).absolute()
    dependencies = tomllib.loads(_PROJECT.read_text())["project"]["dependencies"]
    (pypcap,) = [text for text in dependencies if text.startswith("pypcap==")]
    with tempfile.TemporaryDirectory(prefix="ossensor-pypcap-") as name:
        folder = Path(name)
        run(sys.executable, "-m", "venv", folder / "tools")
        python = folder / "tools/bin/python"
        pip = (python, "-m", "pip", "-q", "--disable-pip-version-check")
        run(*pip, "install", *_TOOLS)
        run(*pip, "download", "--no-deps", "--no-binary", "pypcap", "--no-build-isolation", "-d", folder, pypcap)
        (archive,) = folder.glob("pypcap-*.tar.gz")
        with tarfile.open(archive) as files:
            files.extractall(folder / "source", filter="data")
        (source,) = (folder / "source").iterdir()
        run(python, "-m", "cython", "--3str", source / "pcap.pyx")
        run(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", wheels, source)


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
