"""How a command reaches a vSensor as its operator: the options that all have, and the words for what is refused."""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ossensor.antigena.token import Token, load_token
from ossensor.errors import ConfigurationError, Exit

PATIENCE_S: Final = 1.0
_ERASE_REST: Final = "\x1b[K"  # of the terminal's line (ECMA-48, EL)


def add_arguments(parser: argparse.ArgumentParser, *, whose: str) -> None:
    parser.add_argument("--url", metavar="URL", help="the vSensor: https://HOST[:PORT]")
    parser.add_argument("--token-file", metavar="FILE", help=whose)
    parser.add_argument(
        "--ca-file", metavar="FILE", help="whom its certificate is verified by, instead of the system's CAs"
    )


def read_token(args: argparse.Namespace, faults: list[str]) -> Token | None:
    """The token in the file that was named; None with a fault. That there is a URL is judged here, too."""
    token = None
    if args.token_file is None:
        faults.append("--token-file: not given")
    else:
        try:
            token = load_token(Path(args.token_file), "--token-file")
        except ConfigurationError as e:
            faults += e.faults
    if args.url is None:
        faults.append("--url: not given")
    return token


def ca_file(args: argparse.Namespace) -> Path | None:
    return None if args.ca_file is None else Path(args.ca_file)


@contextmanager
def waiting(url: str) -> Iterator[None]:
    """Says on a terminal for whom it waits, when that takes long."""
    if not sys.stderr.isatty():
        yield
        return
    timer = threading.Timer(PATIENCE_S, _write_over, [f"waiting for {url}"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        _write_over("")


def _write_over(text: str) -> None:
    sys.stderr.write(f"\r{text}{_ERASE_REST}")
    sys.stderr.flush()


def failed(command: str, faults: list[str], code: Exit) -> int:
    """The code, when the faults are told."""
    for fault in faults:
        sys.stderr.write(f"{command}: {fault}\n")
    return code


def refusal(
    status: int, body: Mapping[str, Any], retry_after: str, renamed: Callable[[str], str] = str
) -> tuple[list[str], Exit]:
    """What to say of an answer that is none of success, and the exit code."""
    if isinstance(faults := body.get("faults"), list) and faults:
        # 507: the store's disk. What it does not take now it may take later; all else is wrong for good.
        return [renamed(str(fault)) for fault in faults], Exit.GAVE_UP if status >= 500 else Exit.CONFIGURATION
    match status:
        case 401:
            return ["--token-file: the vSensor does not take this token"], Exit.CONFIGURATION
        case 404:
            return ["--url: no operator is let in there (ossensor vsensor --operator-token-file)"], Exit.CONFIGURATION
        case 429:
            return [f"too many wrong tokens from this address; again in {retry_after or '?'} s"], Exit.GAVE_UP
        case 503:
            return [f"the vSensor has enough to do; again in {retry_after or '?'} s"], Exit.GAVE_UP
    return [f"the vSensor answered with status {status}"], Exit.GAVE_UP
