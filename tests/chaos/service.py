"""What keeps a program running, as systemd's Restart=always does: when all of a life is gone, the next one starts."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from harness import proc
from harness.programs import Program

P = TypeVar("P", bound=Program)
_LOOK_S = 0.03
_LONG_S = 180  # a drain of 25 s on a machine that others use, too


class Service(Generic[P]):
    """A program across its lives. `lives` has them all; each was started by `start` with the settings of its time."""

    def __init__(self, start: Callable[[], P]) -> None:
        self._start = start
        self.lives: list[P] = []
        self.refused: list[str] = []  # starts that did not come to a life: on a full disk, say
        self._wanted = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._wanted.set()
        self._thread.start()
        self.current()

    def _keep(self) -> None:
        while self._wanted.wait() and not self._ended:
            try:
                life = self._start()
            except AssertionError as e:
                self.refused.append(str(e))
                time.sleep(_LOOK_S)
                continue
            self.lives.append(life)
            processes = set[int]()
            while life.running():
                processes.update(proc.tree(life.pid))
                time.sleep(_LOOK_S)
            # What SIGKILL leaves behind holds ports and locks until the kernel has ended it, too.
            proc.eventually("all of it is gone", lambda: not any(map(proc.alive, processes)), _LONG_S)  # noqa: B023

    def current(self) -> P:
        """The present life, or the next."""
        return proc.eventually("it runs", lambda: next((p for p in self.lives[-1:] if p.running()), None), _LONG_S)

    def kill(self) -> bool:
        """SIGKILL of its first process; returns when another life has begun."""
        return self._end(signal.SIGKILL)

    def restart(self) -> bool:
        """SIGTERM, and returns when another life has begun."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> bool:
        life, lives = self.current(), len(self.lives)
        life.signal(number)
        proc.eventually("another life", lambda: len(self.lives) > lives, _LONG_S)
        return True

    def stop(self) -> P:
        """The life that was the last one, which has ended upon SIGTERM."""
        self._wanted.clear()
        life = self.current()
        life.signal(signal.SIGTERM)
        life.wait(_LONG_S)
        return life

    def go_on(self) -> None:
        self._wanted.set()
        self.current()

    def records(self, message: str, **fields: object) -> list[dict[str, Any]]:
        """Of all lives."""
        return [record for life in list(self.lives) for record in life.records(message, **fields)]

    def lines(self, part: str) -> list[str]:
        """Of all lives, those with this part."""
        return [line for life in list(self.lives) for line in list(life.lines) if part in line]

    def write_logs(self, folder: Path, name: str) -> None:
        """All that each life has said."""
        for number, life in enumerate(self.lives):
            (folder / f"{name}-{number}.log").write_text("".join(f"{line}\n" for line in life.lines))

    def close(self) -> None:
        self._ended = True
        self._wanted.set()
        for life in self.lives:
            with suppress(ProcessLookupError):
                life.close()
        self._thread.join(_LONG_S)
