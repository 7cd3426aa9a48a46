"""What each sensor has told of itself: the latest word, in `introduction.json` in its folder.

Invariant: the file is one sensor's introduction, whole, or not there: it is replaced by a rename. It is a convenience
for people and programs beside the store, not part of what is acknowledged, so it is not flushed to the disk.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Final

from ossensor.transport.introduction import Introduction

from .layout import FILE_MODE, FOLDER_MODE

NAME: Final = "introduction.json"
# Sensors come and go (each Fargate task is one); the file stays, what is remembered here only saves writing it again.
_REMEMBERED: Final = 4096


class Introductions:
    """`changed` is told of each sensor that is new, or says something else than before."""

    def __init__(self, root: Path, changed: Callable[[str, Introduction], None]) -> None:
        self._root = root
        self._changed = changed
        self._latest: OrderedDict[str, Introduction] = OrderedDict()
        self._unwritten: set[str] = set()  # of these, whose file is not there, or says what was said before

    def take(self, sensor: str, introduction: Introduction) -> None:
        """Keeps it. A disk that does not take it is the store's to complain about: it meets the same.

        It is offered again when the sensor next says so, a minute later.
        """
        is_new = self._latest.get(sensor) != introduction
        if not is_new and sensor not in self._unwritten:
            return
        self._latest[sensor] = introduction
        self._latest.move_to_end(sensor)
        if len(self._latest) > _REMEMBERED:
            forgotten, _ = self._latest.popitem(last=False)
            self._unwritten.discard(forgotten)
        try:
            self._write(sensor, introduction)
            self._unwritten.discard(sensor)
        except OSError:
            self._unwritten.add(sensor)
        if is_new:
            self._changed(sensor, introduction)

    def _write(self, sensor: str, introduction: Introduction) -> None:
        folder = self._root / sensor
        folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        new = folder / f".{NAME}.new"
        text = json.dumps(json.loads(introduction.body), indent=1) + "\n"
        new.write_text(text, encoding="utf-8")
        new.chmod(FILE_MODE)
        new.rename(folder / NAME)
