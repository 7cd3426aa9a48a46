"""`ossensor consume`: its arguments, and what is wrong with them."""

from __future__ import annotations

import argparse
import re
import sqlite3
import sys
from pathlib import Path
from typing import Final

from ossensor.errors import ConfigurationError, Exit
from ossensor.vsensor import storage
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.report import Report, printed

from . import access
from .message import PARTITIONS

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,32}")
_PART: Final = re.compile(r"([1-9][0-9]?)/([1-9][0-9]?)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL[,URL]", help="NATS servers, as nats://HOST:PORT or tls://HOST:PORT")
    parser.add_argument("--store", required=True, metavar="DIR", help="where pcapng files and index are kept")
    parser.add_argument(
        "--part",
        default="1/1",
        metavar="K/N",
        help="be the K-th of N that share the work, each with a store of its own",
    )
    parser.add_argument("--name", default="store", metavar="NAME", help="of the consumers in NATS (default: store)")
    storage.add_arguments(parser)
    access.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of sentences")


def run(args: argparse.Namespace) -> int:
    """The exit code: 0 after a stop, everything in hand stored; 75 when the store cannot be opened; 78 for faults.

    What is wrong goes to stderr.
    """
    try:
        return _run(args)
    except ConfigurationError as e:
        for fault in e.faults:
            sys.stderr.write(f"consume: {fault}\n")
        return Exit.CONFIGURATION
    except (OSError, sqlite3.OperationalError) as e:
        # The disk is full, or broken, and may be well again: whoever starts this may do so again.
        sys.stderr.write(f"consume: --store: {args.store}: {e}\n")
        return Exit.GAVE_UP


def _run(args: argparse.Namespace) -> int:
    faults: list[str] = []
    reached = access.parse("URL", args.url, args, faults)
    keeping = storage.keeping(args, faults)
    partitions = _part(args.part, faults)
    if _NAME.fullmatch(args.name) is None:
        faults.append(f"--name: {args.name!r} is not 1 to 32 letters, digits, `_` or `-`")
    layout = Layout(Path(args.store).absolute())
    with storage.locked(layout, faults):
        # After the checks: it needs nats-py, which may not be there.
        from .consuming import Settings, run  # noqa: PLC0415

        settings = Settings(layout, reached, args.name, partitions, keeping, durable=not args.no_fsync)
        return run(settings, Report(printed, layout.root, as_json=args.json))


def _part(text: str, faults: list[str]) -> range:
    """The partitions of one member; with a fault added, none."""
    match = _PART.fullmatch(text)
    if match and int(match[1]) <= int(match[2]) <= PARTITIONS:
        return range(int(match[1]) - 1, PARTITIONS, int(match[2]))
    faults.append(f"--part: {text!r} is not K/N with K from 1 to N and N up to {PARTITIONS}")
    return range(0)
