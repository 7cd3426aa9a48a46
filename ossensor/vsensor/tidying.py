"""What the writer does between batches: closes old files, removes what is over the limits, finds what may be packed.

Invariant: a file is in one of these states, and at each commit the index and the disk agree on it:

| state | the index | the disk | a crash right after it |
|---|---|---|---|
| kept | a row, `removed` 0, and the rows of its batches | the file | nothing to do |
| 1. doomed | `removed` 1: THE COMMIT POINT of "removed by retention" | the file | the next look removes it |
| 2. gone | the same | nothing, or it again after a power cut | the same |
| 3. folded | its batches are runs in `removals` | the same | the same; the next turn goes on with the rest |
| 4. forgotten | no row of the file | nothing | nothing to do |

In the writer's thread, so that the index has one writer: a second one would hold its lock while the first has batches
to answer. A turn is some milliseconds, but for unlinking, which takes what the file system takes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from .claim import claimed
from .files import Files
from .index import Index
from .layout import PACKED, PART, Layout
from .retention import Doomed, Kept, Limits, doomed

# Looking at the sizes of ten thousand files takes the writer tens of milliseconds.
_LOOK_EVERY_S: Final = 60.0


@dataclass(slots=True)
class Tidied:
    """What a turn did, and what may be done by others."""

    removed: list[Doomed] = field(default_factory=list)
    packable: list[str] | None = None  # closed and not compressed, oldest first; None when this turn did not look
    trouble: str = ""
    more: bool = False  # there is work left: turn again soon


class Tidying:
    """The housekeeping of one store. For the writer's thread; raises nothing but bugs."""

    def __init__(self, layout: Layout, index: Index, files: Files, limits: Limits, clock_ns: Callable[[], int]) -> None:
        self._layout = layout
        self._index = index
        self._files = files
        self._limits = limits
        self._clock_ns = clock_ns
        self._looked_s = -_LOOK_EVERY_S
        self._closed = 0

    def turn(self, now_s: float) -> Tidied:
        """One turn; `now_s` is monotonic."""
        tidied = Tidied()
        try:
            self._files.close_old(now_s)
            if self._files.closed != self._closed or now_s - self._looked_s >= _LOOK_EVERY_S:
                self._closed, self._looked_s = self._files.closed, now_s
                self._look(tidied)
            tidied.more = self._fold()
        except (OSError, sqlite3.Error) as e:
            tidied.trouble = str(e)
        return tidied

    def _look(self, tidied: Tidied) -> None:
        for file in self._index.removed_files():
            self._unlink(file)  # what an earlier turn could not
        kept = list(self._kept())
        going = doomed(kept, self._limits, self._clock_ns())
        for each in going:
            if self._remove(each.file):
                tidied.removed.append(each)
        # One that the janitor is at stays among these: it is told again, and finds nothing to do.
        stays = {each.file for each in kept if not each.is_open} - {each.file for each in tidied.removed}
        tidied.packable = [
            file for file, length, _ in self._index.kept_files() if file in stays and self._is_whole(file, length)
        ]

    def _kept(self) -> Iterator[Kept]:
        open_files, now_ns = self._files.open_files(), self._clock_ns()
        for file, _, received_ns in self._index.kept_files():
            if size := self._disk_bytes(file):
                yield Kept(file, size, now_ns if received_ns is None else received_ns, file in open_files)

    def _is_whole(self, file: str, length: int) -> bool:
        """Not compressed yet, and without a tail that could not be cut: recovery does that, at the next start."""
        with contextlib.suppress(FileNotFoundError):
            return (self._layout.root / file).stat().st_size == length
        return False

    def _disk_bytes(self, file: str) -> int:
        size = 0
        for suffix in ("", PACKED):
            with contextlib.suppress(FileNotFoundError):
                size += (self._layout.root / (file + suffix)).stat().st_size
        return size

    def _remove(self, file: str) -> bool:
        """False when the janitor is at it: its turn comes again."""
        path = self._layout.root / file
        with claimed(path) as fd:
            if fd is None and path.exists():
                return False
            self._index.remove_file(file)  # 1
            self._unlink(file)  # 2
        return True

    def _unlink(self, file: str) -> None:
        path = self._layout.root / file
        for suffix in (PART, PACKED, ""):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        # Before 4: a name that a power cut brought back would be nobody's once its row is forgotten.
        with contextlib.suppress(FileNotFoundError):  # somebody took the folder away
            self._files.sync_folder(path.parent)

    def _fold(self) -> bool:
        """True when rows are left to fold. One transaction each time, so that batches can get in between."""
        for file in self._index.removed_files():
            if self._disk_bytes(file):
                continue  # it could not be unlinked: its row is what says that it must
            if self._index.fold(file):  # 3
                return True
            self._index.forget_file(file)  # 4
        return False
