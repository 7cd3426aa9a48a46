"""Notices turned into sections, read from the store's files one at a time.

Invariant: each packet of a notice that was added is counted once, as passed on, or under the reason why not; what
waits is at most BEHIND_BYTES of files and is read by nobody else, so letting go of it costs nothing.
"""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, NamedTuple

from ossensor.transport.protocol import MAX_SECTION_BYTES

from .books import Books, Count
from .notices import Notice

# What the page cache is likely to hold still, and some seconds of a sensor at full speed: an output that lags by more
# shows the past, and shows it ever later.
BEHIND_BYTES: Final = 256 << 20

_SHB: Final = struct.Struct("<IIIHHq")  # type, total length, magic, major, minor, length of what follows


class Section(NamedTuple):
    """One section as it was stored, and whose it is."""

    sensor: str
    data: bytes


class Feed:
    """The notices that wait, and the one that is being read."""

    def __init__(
        self,
        root: Path,
        books: Books,
        sensors: Collection[str],
        complain: Callable[[str, str], None],
        behind_bytes: int = BEHIND_BYTES,
    ) -> None:
        self._root = root
        self._books = books
        self._sensors = sensors  # empty: all of them
        self._complain = complain
        self._behind_bytes = behind_bytes
        self._waiting: deque[Notice] = deque()
        self._waiting_bytes = 0
        self._fd = -1
        self._at = 0
        self._left = 0  # packets of the first notice that nothing was counted for yet

    def __bool__(self) -> bool:
        """True when there is something to read."""
        return bool(self._waiting)

    def add(self, notice: Notice) -> None:
        if self._sensors and notice.file.partition("/")[0] not in self._sensors:
            self._books.add(Count.NOT_CHOSEN, notice.packets)
            return
        self._waiting.append(notice)
        self._waiting_bytes += notice.end - notice.start
        while self._waiting_bytes > self._behind_bytes and len(self._waiting) > 1:
            self._complain("behind", "streams: too far behind; the oldest packets are passed over")
            self._finish(Count.BEHIND)

    def let_go(self, why: Count) -> None:
        """Nothing of what waits will be read."""
        while self._waiting:
            self._finish(why)

    def next(self) -> Section | None:
        """The next section; None when the file gives no more, and then another call may."""
        notice = self._waiting[0]
        try:
            if self._fd < 0:
                self._fd = os.open(self._root / notice.file, os.O_RDONLY | os.O_CLOEXEC)
                self._at, self._left = notice.start, notice.packets
            if self._at < notice.end:
                data = self._read(notice)
                self._at += len(data)
                return Section(notice.file.partition("/")[0], data)
        except (OSError, ValueError) as e:
            self._complain("unreadable", f"streams: {notice.file} at byte {self._at}: {e}")
        self._finish(Count.UNREADABLE)
        return None

    def passed_on(self, packets: int) -> None:
        """The section that `next` gave last had so many packets, and every output has been given them."""
        packets = min(packets, self._left)  # who says how many is the sensor, and no count may become negative
        self._left -= packets
        self._books.add(Count.PASSED_ON, packets)

    def _read(self, notice: Notice) -> bytes:
        """The section at the present place. Raises OSError, or ValueError when there is none."""
        head = os.pread(self._fd, _SHB.size, self._at)
        if len(head) < _SHB.size:
            raise ValueError("the file ends here")
        _, header_bytes, _, _, _, section_bytes = _SHB.unpack(head)
        # The collector held both against the body's length (section.check): they are wrong only on a broken disk.
        length = header_bytes + section_bytes
        if not _SHB.size < length <= min(MAX_SECTION_BYTES, notice.end - self._at):
            raise ValueError("no section")
        data = os.pread(self._fd, length, self._at)
        if len(data) < length:
            raise ValueError("the file ends in a section")
        return data

    def _finish(self, rest: Count) -> None:
        """The first notice is done with; packets that were not passed on are counted as `rest`."""
        notice = self._waiting.popleft()
        self._waiting_bytes -= notice.end - notice.start
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            self._books.add(rest, self._left)
        else:
            self._books.add(rest, notice.packets)
