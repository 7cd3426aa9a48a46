"""Who works on a closed file: the janitor that compresses it, or the writer that removes it; never both.

The kernel holds the lock, and takes it away from whoever dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[int | None]:
    """The open file under an exclusive lock; None when it is gone, or somebody else's."""
    try:
        # For writing, though nobody writes: over NFS an exclusive lock needs it (flock(2)).
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        # It may have been removed between the two calls; then the lock is on something without a name.
        yield fd if os.fstat(fd).st_nlink else None
    finally:
        os.close(fd)
