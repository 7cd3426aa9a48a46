"""`ossensor check` and `ossensor interfaces`: what the sensor would do, without doing any of it.

Both read settings and ask the kernel for names; neither opens a capture, writes a file or needs a privilege. What was
asked for goes to stdout, what is wrong to stderr. The key is never read from here: texts come masked.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .errors import ConfigurationError, Exit
from .interfaces import Rules, default_route_interfaces, enumerate_interfaces
from .settings import describe, load, load_interface_settings


def check(environ: Mapping[str, str], *, as_json: bool = False) -> int:
    """Shows the effective settings and where each comes from. 0, or 78 after showing every fault."""
    try:
        loaded = load(environ)
    except ConfigurationError as e:
        return _refuse(e, as_json=as_json)
    rows = [(row.name, loaded.texts[row.name], loaded.sources[row.name]) for row in describe()]
    if as_json:
        settings = [{"name": name, "value": value, "source": source} for name, value, source in rows]
        _print_json({"settings": settings, "warnings": loaded.warnings, "faults": []})
        return Exit.DRAINED
    _print_table(("variable", "value", "from"), rows)
    _complain("warning", loaded.warnings)
    return Exit.DRAINED


def interfaces(environ: Mapping[str, str], *, as_json: bool = False) -> int:
    """Shows every interface, whether it would be captured, and why. 0, or 78 for faults of the interface variables.

    Other variables need not be right, nor given: what is wrong with them goes to stderr as warnings.
    """
    try:
        settings = load_interface_settings(environ)
    except ConfigurationError as e:
        return _refuse(e, as_json=as_json)
    rules = Rules.from_settings(settings)
    routes = default_route_interfaces()
    decided = [(interface, rules.decide(interface, routes)) for interface in enumerate_interfaces()]
    if as_json:
        listed = [
            {"name": i.name, "index": i.index, "up": i.up, "captured": decision.captured, "why": decision.why}
            for i, decision in decided
        ]
        _print_json({"interfaces": listed, "warnings": settings.remarks, "faults": []})
        return Exit.DRAINED
    rows = [
        (i.name, "captured" if decision.captured else "not captured", decision.why + ("" if i.up else " (is down)"))
        for i, decision in decided
    ]
    _print_table(("interface", "", "why"), rows)
    _complain("warning", settings.remarks)
    return Exit.DRAINED


def _refuse(error: ConfigurationError, *, as_json: bool) -> int:
    warnings = getattr(error, "__notes__", [])
    if as_json:
        _print_json({"warnings": warnings, "faults": error.faults})
    _complain("fault", error.faults)
    _complain("warning", warnings)
    return Exit.CONFIGURATION


def _complain(what: str, lines: Iterable[str]) -> None:
    for line in lines:
        sys.stderr.write(f"ossensor: {what}: {_printable(line)}\n")


def _print_json(document: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, indent=2) + "\n")


def _print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    cells = [head, *([_printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        sys.stdout.write("  ".join(map(str.ljust, row, widths)).rstrip() + "\n")


def _printable(text: str) -> str:
    """`text` with what a terminal would obey, or could not show, escaped: whoever names an interface is not trusted."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
