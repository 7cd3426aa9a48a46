"""The C library keeps the memory of bodies for the next ones.

By itself glibc gives the end of the heap back to the kernel when a body of a mebibyte is freed there, and takes it
back, page by page and cleared, for the next: [M] 0.07 to 0.18 ms of processor time for each. Left: buffers of our own,
used again; one that is handed on while the store's thread still writes from it would put other bytes into a file than
those that were verified, and no check would find it.

One heap for all threads, of which each would have its own otherwise, and keep as much: six that inflate bodies held on
to 145 MiB between them [M].
"""

from __future__ import annotations

import ctypes
from typing import Final

# mallopt(3), malloc.h
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
# Bodies of the usual 1 MiB from eight sensors with their whole window; idle, the process may hold so much more.
KEPT_BYTES: Final = 32 << 20


def keep() -> None:
    """For the whole process, from now on, before it has threads. Without effect under another C library than glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, KEPT_BYTES)  # else each body would have a mapping of its own, new each time
