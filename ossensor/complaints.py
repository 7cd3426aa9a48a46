"""Lines about what will pass, or will not, but may be said again and again: each at most once in a while."""

from __future__ import annotations

import logging
import time
from typing import Any

from .logs import fields
from .ratelimit import Sparse


class Complaints:
    """One process's. What was left out is counted, and told with the next line that says the same."""

    def __init__(self, log: logging.Logger, level: int = logging.WARNING) -> None:
        self._log = log
        self._level = level
        self._sparse = Sparse()

    def say(self, what: str, **values: Any) -> None:
        """Logs `what`; another interface's is another complaint."""
        omitted = self._sparse.due(f"{what} {values.get('interface', '')}", time.monotonic())
        if omitted is not None:
            left_out = {"since_the_last_line": omitted} if omitted else {}
            self._log.log(self._level, what, extra=fields(**values, **left_out))
