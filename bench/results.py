"""What every measurement does with its runs: median and spread, a table in Markdown, a line of progress."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """Several runs of one figure. Medians are what is compared; the ends say how far to trust them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        runs = list(values)
        return cls(statistics.median(runs), min(runs), max(runs))

    def text(self, digits: int = 0) -> str:
        """`36 (34 to 40)`."""
        return f"{self.median:,.{digits}f} ({self.least:,.{digits}f} to {self.most:,.{digits}f})"


def spread(runs: Sequence[Mapping[str, Any]], figure: str) -> Spread:
    return Spread.of(run[figure] for run in runs)


def of_rates(runs: Sequence[Mapping[str, Any]], *summed: str) -> dict[str, Any]:
    """What programs are compared by: processor time per packet with its spread, and totals of counts."""
    ns = spread(runs, "ns")
    found: dict[str, Any] = {"ns": ns.median, "least_ns": ns.least, "most_ns": ns.most}
    return found | {name: sum(run[name] for run in runs) for name in summed}


def spread_ns(of: Mapping[str, Any]) -> str:
    """As `Spread.text`, of what `of_rates` made."""
    return Spread(of["ns"], of["least_ns"], of["most_ns"]).text()


def markdown(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table. A bar in a cell would be another column."""
    lines = [list(map(str, head)), ["---"] * len(head), *(list(map(str, row)) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def say(what: str) -> None:
    """Progress, for people who wait."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{what}")
