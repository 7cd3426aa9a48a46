"""A process that compresses closed files of a store, out of the writer's way: `python -m ossensor.vsensor.janitor`.

Invariant: at any moment, whoever reads `F`, and where that is gone `F.zst`, gets all of it. `F.zst` has its name only
once it is whole and flushed; `F` goes only once that name is durable. There is nothing to repair after a kill:

| killed, or the power went, after | what is there | what the next one does |
|---|---|---|
| 1. writing `F.zst.part` | `F`, and a part that nobody reads | writes it again |
| 2. its fsync | the same | the same |
| 3. the rename | `F`; `F.zst`, whole, or no name yet | if it is there and as long: goes on with 4 |
| 4. the folder's fsync | both, whole | removes `F` |
| 5. the unlink | `F.zst`; `F` too, if the power went | removes `F` |

It is told by its parent which files are closed, on its standard input, and says on its standard output what it did; of
the index it knows nothing. It holds a lock on the file that it works on, which the kernel takes away when it dies;
retention removes no file that is locked (tidying.py), so no `F.zst` appears beside a file that was just removed.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

from ossensor.durable import sync_folder

from .claim import claimed
from .keeper import die_with
from .layout import FILE_MODE, PACKED, PART
from .packed import Frames, PackedError, pack


def compress(path: Path) -> int | None:
    """Puts `path.zst` in the place of `path`; its size. None when there is nothing to do. OSError, PackedError."""
    target, part = path.with_name(path.name + PACKED), path.with_name(path.name + PART)
    with claimed(path) as source:
        if source is None:
            return None
        if not _whole(target, os.fstat(source).st_size):
            fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            try:
                pack(source, fd)  # 1
                os.fsync(fd)  # 2
            except BaseException:
                part.unlink()  # a disk that is full needs the room
                raise
            finally:
                os.close(fd)
            part.rename(target)  # 3
        sync_folder(path.parent)  # 4: also with --no-fsync, as what it replaces may be durable by now
        size = target.stat().st_size  # under the lock: after it, retention may remove both
        path.unlink()  # 5
        # What was read once will not be read again soon; what the vSensor writes will.
        os.posix_fadvise(source, 0, 0, os.POSIX_FADV_DONTNEED)
    return size


def _whole(target: Path, length: int) -> bool:
    """True when a predecessor was killed after its rename."""
    try:
        fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return Frames.of(fd).length == length
    except PackedError:
        return False
    finally:
        os.close(fd)


def step_back() -> None:
    """Runs when nobody else wants the processor, nor the disk: SCHED_IDLE makes a task's requests idle (ioprio.c)."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))


def main(arguments: list[str]) -> int:
    """Compresses the files that standard input names, one JSON string a line; relative to the root, the first argument.

    The second argument is the parent's process id, with which it dies.
    """
    root, parent = Path(arguments[0]), int(arguments[1])
    die_with(parent)
    step_back()
    for line in sys.stdin:
        file = json.loads(line)
        told = {"file": file}
        try:
            told["packed_bytes"] = compress(root / file)
        except (OSError, PackedError) as e:
            told["error"] = str(e)
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
