"""`ossensor top`: what the sensors of a vSensor are doing, again each second, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, Final

from ossensor.backoff import Backoff
from ossensor.errors import ConfigurationError, Exit

from . import access, board

if TYPE_CHECKING:
    from .client import Client

_EVENTS: Final = "/v1/events"
_SENSORS: Final = "/v1/sensors"
# Home, each line to its end, and the rest of the screen: to clear it first would flicker.
_HOME: Final = "\x1b[H"
_END_OF_LINE: Final = "\x1b[K\n"
_END_OF_SCREEN: Final = "\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    access.add_arguments(parser, whose="the vSensor's operator token, or the one that may only look")
    parser.add_argument("--once", action="store_true", help="once, and not again each second")
    parser.add_argument("--json", action="store_true", help="each snapshot as one JSON object in a line")


def run(args: argparse.Namespace) -> int:
    """0 after Ctrl-C; CONFIGURATION when it cannot be, GAVE_UP when it may be later. Faults go to stderr."""
    from .client import Client  # noqa: PLC0415  requests is slow to import, --help needs none

    faults: list[str] = []
    token = access.read_token(args, faults)
    if faults or token is None:
        return access.failed("top", faults, Exit.CONFIGURATION)
    show = _shower(as_json=args.json, again=not args.once)
    try:
        with closing(Client(args.url, token, access.ca_file(args))) as client:
            return _once(client, args.url, show) if args.once else _follow(client, show)
    except ConfigurationError as e:
        return access.failed("top", e.faults, Exit.CONFIGURATION)
    except _NoVsensorError:
        return access.failed("top", [f"{args.url}: the answer is not a vSensor's"], Exit.GAVE_UP)
    except BrokenPipeError:
        # Whoever was reading has enough. Python would try to flush the rest at its end, and complain.
        with suppress(OSError):
            sys.stdout.close()
        return Exit.DRAINED
    except KeyboardInterrupt:
        return Exit.DRAINED


class _NoVsensorError(Exception):
    """What came is no snapshot."""


def _once(client: Client, url: str, show: Callable[[Mapping[str, Any]], None]) -> int:
    from .client import UnreachableError  # noqa: PLC0415  as above

    try:
        with access.waiting(url):
            answer = client.ask("GET", _SENSORS)
    except UnreachableError as e:
        return access.failed("top", [str(e)], Exit.GAVE_UP)
    if answer.status != 200:
        return access.failed("top", *access.refusal(answer.status, answer.body, answer.retry_after))
    show(answer.body)
    return Exit.DRAINED


def _follow(client: Client, show: Callable[[Mapping[str, Any]], None]) -> int:
    """Again when a stream that had begun breaks off: a vSensor may be started anew while somebody looks."""
    from .client import UnreachableError  # noqa: PLC0415  as above

    backoff, begun = Backoff(base_s=0.5), False
    while True:
        started_s = time.monotonic()
        try:
            for answer in client.follow(_EVENTS):
                if answer.status != 200 and not (begun and answer.status == 503):
                    return access.failed("top", *access.refusal(answer.status, answer.body, answer.retry_after))
                if answer.status == 200:
                    show(answer.body)
                    begun = True
        except UnreachableError as e:
            if not begun:
                return access.failed("top", [str(e)], Exit.GAVE_UP)
            sys.stderr.write(f"top: {e}; trying again\n")
        time.sleep(backoff.failed(time.monotonic(), started_s))


def _shower(*, as_json: bool, again: bool) -> Callable[[Mapping[str, Any]], None]:
    """What shows a snapshot, to whoever reads standard output. It raises _NoVsensorError for what is none."""
    on_terminal = sys.stdout.isatty() and not as_json

    def show(snapshot: Mapping[str, Any]) -> None:
        try:
            text = json.dumps(snapshot) + "\n" if as_json else _text(snapshot, redrawn=on_terminal and again)
        except (KeyError, TypeError, ValueError, AttributeError) as e:
            raise _NoVsensorError from e
        sys.stdout.write(text)
        sys.stdout.flush()

    return show


def _text(snapshot: Mapping[str, Any], *, redrawn: bool) -> str:
    if not redrawn:
        return "\n".join([*board.lines(snapshot), "", ""])
    size = os.get_terminal_size(sys.stdout.fileno())  # each time: windows change
    fitting = board.lines(snapshot, size.columns or None, size.lines or None)  # 0: a terminal that does not say
    return _HOME + _END_OF_LINE.join([*fitting, _END_OF_SCREEN])
