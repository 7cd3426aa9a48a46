"""Standard output, whose reader nobody waits for.

Invariant: lines leave whole and in their order. What a reader that stands still leaves no room for is left out,
counted, and said with the next line that fits. What there is to say of 500 sensors fills a pipe within seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import threading
from collections.abc import Iterator
from typing import Final

from ossensor.logs import wait_briefly

# As the sensor's log: a few seconds' worth for a reader that comes back, some megabytes.
LINES_MAX: Final = 10_000


class Outlet:
    """Until `begin` only what goes out at once is written: the keeper forks, and a thread would not come along."""

    def __init__(self, *, as_json: bool = False, lines_max: int = LINES_MAX, fd: int = 1) -> None:
        self._as_json = as_json
        self._fd = fd
        self._lines: queue.Queue[str] = queue.Queue(lines_max)
        self._begun = False
        self._left_out = 0

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """From here on by a thread, in a process whose children say nothing; at the end it gets a moment to finish."""
        self._begun = True
        threading.Thread(target=self._run, name="output", daemon=True).start()
        try:
            yield
        finally:
            wait_briefly(self._lines, self._fd)

    def write(self, line: str) -> None:
        """Never waits."""
        if self._say(line if not self._left_out else f"{self._gap()}\n{line}"):
            self._left_out = 0
        else:
            self._left_out += 1

    def _gap(self) -> str:
        if self._as_json:
            return json.dumps({"event": "left_out", "lines": self._left_out})
        return f"vsensor: {self._left_out:,} lines left out here: nobody read them"

    def _say(self, text: str) -> bool:
        if not self._begun:
            # A pipe that select(2) calls writable takes 4,096 bytes at once (pipe(7)); a keeper's lines are shorter.
            with contextlib.suppress(OSError):  # it was closed before we came
                if not select.select([], [self._fd], [], 0)[1]:
                    return False
            self._put(text)
            return True
        try:
            self._lines.put_nowait(text)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        while True:
            self._put(self._lines.get())
            self._lines.task_done()

    def _put(self, text: str) -> None:
        rest = (text + "\n").encode("utf-8", "backslashreplace")
        with contextlib.suppress(OSError):  # whoever was reading may have gone; storing goes on
            while rest:
                rest = rest[os.write(self._fd, rest) :]
