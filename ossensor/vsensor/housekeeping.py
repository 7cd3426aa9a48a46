"""Keeps the store within its limits while the server runs.

It asks the writer for a turn every few seconds, says what that did, and has a janitor compress what was closed, in a
process of its own. A janitor lives for one pass, so there is nothing that it could leak, and nothing to restart when it
was killed but the next pass. It gets no environment, which may hold the key.

What is said is for people to read: of what was done and not yet said when this process ends, only index and disk tell.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Final, Protocol

import ossensor
from ossensor.backoff import Backoff

from .retention import Doomed
from .store import Store

# A file is closed at most so much too late. What the limits are held against is looked at less often (tidying.py).
TURN_S: Final = 5.0
# A pass's file names fit into the pipe to the janitor, which holds 64 KiB; so nobody waits for anybody.
_PASS_FILES: Final = 128


class Told(Protocol):
    """Who hears of it."""

    def removed(self, doomed: Doomed) -> None: ...
    def packed(self, file: str, packed_bytes: int) -> None: ...
    def trouble(self, what: str) -> None: ...


class Housekeeping:
    """For one event loop; `run` until it is cancelled."""

    def __init__(
        self,
        store: Store,
        root: Path,
        told: Told,
        *,
        compress: bool,
        turn_s: float = TURN_S,
        backoff: Backoff | None = None,
    ) -> None:
        self._store = store
        self._root = root
        self._told = told
        self._compress = compress
        self._turn_s = turn_s
        self._backoff = backoff or Backoff()
        self._packable: list[str] = []
        self._found = asyncio.Event()
        self._struck: set[str] = set()  # what a janitor was at when it died: the others come first
        self._failed: set[str] = set()  # told already
        self._trouble = ""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            if self._compress:
                tasks.create_task(self._pack())
            while True:
                await self._turn()
                await asyncio.sleep(self._turn_s)

    async def _turn(self) -> None:
        """One, and those that have to follow it: batches get in between."""
        more = True
        while more:
            tidied = await asyncio.wrap_future(self._store.tidy())
            for doomed in tidied.removed:
                self._told.removed(doomed)
            if tidied.packable is not None:
                self._packable = tidied.packable
                self._found.set()
            if tidied.trouble != self._trouble:  # once for each, not once for each turn
                self._trouble = tidied.trouble
                self._told.trouble(self._trouble or "is over")
            more = tidied.more

    async def _pack(self) -> None:
        while True:
            await self._found.wait()
            self._found.clear()
            while self._packable:
                self._packable.sort(key=lambda file: file in self._struck)
                files, self._packable = self._packable[:_PASS_FILES], self._packable[_PASS_FILES:]
                started_s = time.monotonic()
                if not await self._pass(files):
                    await asyncio.sleep(self._backoff.failed(time.monotonic(), started_s))

    async def _pass(self, files: list[str]) -> bool:
        """False when the janitor did not come to its end."""
        try:
            janitor = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "ossensor.vsensor.janitor", self._root, str(os.getpid())),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={"PYTHONPATH": str(Path(ossensor.__file__).parent.parent)},
            )
        except (OSError, RuntimeError) as e:  # no process to be had, no memory, or no thread to wait for it (3.11)
            self._packable = files + self._packable
            self._told.trouble(f"no janitor can be started: {e}")
            return False
        if janitor.stdin is None or janitor.stdout is None:
            raise AssertionError("asked for pipes")
        left = list(files)
        try:
            janitor.stdin.write(b"".join(json.dumps(file).encode() + b"\n" for file in files))
            janitor.stdin.close()
            async for line in janitor.stdout:
                self._take(json.loads(line))
                left.pop(0)
            code = await janitor.wait()
        finally:
            if janitor.returncode is None:
                janitor.kill()
                await janitor.wait()
        if code:
            self._struck.update(left[:1])
            self._packable = left + self._packable
            self._told.trouble(f"the janitor ended with {code} at {left[0] if left else 'its end'}")
        else:
            self._struck.difference_update(files)
        return code == 0

    def _take(self, said: dict[str, str | int | None]) -> None:
        file = str(said["file"])
        if "error" in said:
            if file not in self._failed:  # it is tried again whenever the files are looked at
                self._failed.add(file)
                self._told.trouble(f"cannot compress {file}: {said['error']}")
        elif said["packed_bytes"] is not None:
            self._failed.discard(file)
            self._told.packed(file, int(said["packed_bytes"]))
