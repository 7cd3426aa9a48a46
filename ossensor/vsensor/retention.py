"""Which stored files have to go, so that what is kept stays within an age and a size. Pure.

Whole files, oldest first. A file is as old as the newest batch in it, by this machine's clock, since a sensor's may say
anything. What is being written to is never among them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Limits(NamedTuple):
    """How much is kept; None: without limit."""

    keep_ns: int | None = None
    keep_bytes: int | None = None


class Keeping(NamedTuple):
    """How a store's files are kept."""

    rotate_bytes: int
    rotate_s: float
    limits: Limits
    compress: bool


class Kept(NamedTuple):
    """A file of the store: what it takes on disk, when its newest batch came, and whether it is being written to."""

    file: str
    disk_bytes: int
    received_ns: int
    is_open: bool


class Doomed(NamedTuple):
    """A file that has to go, and the limit that it is over."""

    file: str
    disk_bytes: int
    why: str


def doomed(files: Iterable[Kept], limits: Limits, now_ns: int) -> list[Doomed]:
    """The files to remove, in the order of removal."""
    going = []
    kept_bytes = 0
    left = []
    for kept in sorted(files, key=lambda kept: (kept.received_ns, kept.file)):
        kept_bytes += kept.disk_bytes
        if kept.is_open:
            continue
        if limits.keep_ns is not None and kept.received_ns < now_ns - limits.keep_ns:
            going.append(Doomed(kept.file, kept.disk_bytes, "age"))
            kept_bytes -= kept.disk_bytes
        else:
            left.append(kept)
    for kept in left:
        if limits.keep_bytes is None or kept_bytes <= limits.keep_bytes:
            break
        going.append(Doomed(kept.file, kept.disk_bytes, "size"))
        kept_bytes -= kept.disk_bytes
    return going
