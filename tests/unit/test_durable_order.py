"""In which order the disk is asked for things, told by the kernel: what is acknowledged must survive a power cut."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from filled_store import fill, opened
from test_retention import files

_TRACED = "mkdir,openat,fsync,fdatasync,rename,unlink,pwrite64"
_CALL = re.compile(r"(?:\[pid +\d+\] |\d+ +)?(\w+)\((.*)\) += +\d")
_PATH = re.compile(r'<([^>]*)>|"([^"]*)"')

_STORES = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from filled_store import fill, opened
store = opened(Path(sys.argv[1]), durable=True)
fill(store, "a", "eth0", 2)
print("answered", flush=True)
"""
_COMPRESSES = """
import sys
from pathlib import Path
from ossensor.vsensor import janitor
janitor.compress(Path(sys.argv[1]))
"""


def traced(script: str, root: Path, *arguments: str) -> list[str]:
    """Calls on what lies under the root, as `name path`, in their order; `write 1` is the answer."""
    command = ["strace", "-f", "-y", "-e", f"trace={_TRACED},write", "-s", "0", "-o", str(root.with_suffix(".trace"))]
    subprocess.run([*command, sys.executable, "-c", script, *arguments], check=True, capture_output=True, timeout=120)
    calls = []
    for line in root.with_suffix(".trace").read_text().splitlines():
        if not (match := _CALL.match(line)):
            continue
        name, rest = match.groups()
        if name == "write" and rest.startswith("1<"):
            calls.append("answer")
        paths = [a or b for a, b in _PATH.findall(rest) if (a or b).startswith(str(root))]
        if paths and (name != "openat" or "O_CREAT" in rest):
            calls.append(f"{name} {paths[-1].removeprefix(str(root)) or '/'}")
    return calls


def in_order(calls: list[str], *wanted: str) -> None:
    """Each wanted call comes after the one before it."""
    at = -1
    for call in wanted:
        assert call in calls[at + 1 :], (call, calls[at + 1 :], calls)
        at = calls.index(call, at + 1)


def test_folders_file_bytes_and_index_are_durable_in_this_order_before_the_answer(tmp_path: Path) -> None:
    root = tmp_path / "s"
    calls = traced(_STORES, root, str(root), str(Path(__file__).parent))

    (file,) = files(root)
    in_order(
        calls,
        "mkdir /a",
        "fsync /",
        "mkdir /a/eth0",
        "fsync /a",
        "fdatasync /index.sqlite-wal",  # the row that announces the file
        f"openat /{file}",
        "fsync /a/eth0",
        f"pwrite64 /{file}",
        f"fdatasync /{file}",
        "pwrite64 /index.sqlite-wal",
        "fdatasync /index.sqlite-wal",
        f"pwrite64 /{file}",  # the second batch
        f"fdatasync /{file}",
        "pwrite64 /index.sqlite-wal",
        "fdatasync /index.sqlite-wal",
        "answer",
    )


def test_folders_that_a_killed_predecessor_made_are_flushed_too(tmp_path: Path) -> None:
    root = tmp_path / "s"
    (root / "a" / "eth0").mkdir(parents=True)

    calls = traced(_STORES, root, str(root), str(Path(__file__).parent))

    in_order(calls, "fsync /", "fsync /a", "fsync /a/eth0", "answer")


def test_a_file_goes_only_after_its_compressed_self_is_there_for_good(tmp_path: Path) -> None:
    root = tmp_path / "s"
    with closing(opened(root)) as store:
        fill(store, "a", "eth0", 2)
    (file,) = files(root)

    calls = traced(_COMPRESSES, root, str(root / file))

    assert calls == [
        f"openat /{file}.zst.part",
        *[call for call in calls if call.startswith("write ")],
        f"fsync /{file}.zst.part",
        f"rename /{file}.zst",
        "fsync /a/eth0",
        f"unlink /{file}",
    ]
