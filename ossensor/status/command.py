"""`ossensor status` and `ossensor health`: a running sensor, asked over its local socket.

Both need the address alone, which they find as the sensor does; nothing else of the settings need be there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from ossensor.errors import ConfigurationError, Exit
from ossensor.settings import StatusSettings, load_status_settings
from ossensor.variables import STATUS_SOCKET

from . import text
from .asking import NoAnswerError, ask

_WATCH_S: Final = 1.0
_NOBODY: Final = 1
# Where a service's last words are, since a sensor that refused to start is not there to be asked.
_ELSEWHERE: Final = (
    "a sensor that refuses to start says why in its log (systemctl status ossensor, or the container's log),"
    " and exits with 78 for a setting, 77 for a missing CAP_NET_RAW"
)
_CLEAR: Final = "\x1b[H\x1b[2J"


def status(environ: Mapping[str, str], *, watch: bool = False, as_json: bool = False, address: str = "") -> int:
    """Shows how the sensor is. 0; 1 when none answers; 78 when the address itself is wrong."""
    try:
        found = _found(environ, address)
        for document in _documents(found.address, again=watch):
            if as_json:
                sys.stdout.write(json.dumps(document, indent=None if watch else 2) + "\n")
            else:
                sys.stdout.write(
                    (_CLEAR if watch and sys.stdout.isatty() else "") + "\n".join(text.lines(document)) + "\n"
                )
            sys.stdout.flush()
    except ConfigurationError as e:
        return _refused(e, as_json=as_json)
    except NoAnswerError as e:
        return _no_answer(e, found, as_json=as_json)
    except BrokenPipeError:
        # Whoever was reading has enough. Python would try to flush the rest at its end, and complain.
        with suppress(OSError):
            sys.stdout.close()
    except KeyboardInterrupt:
        pass
    return Exit.DRAINED


def health(environ: Mapping[str, str], *, address: str = "") -> int:
    """For a health check: one line, and 0, also for a sensor that is only degraded; 1 where a restart might help."""
    try:
        document = ask(_found(environ, address).address)
    except (ConfigurationError, NoAnswerError) as e:
        _tell(f"unhealthy: {e}")
        return _NOBODY
    _tell(text.verdict(document))
    return _NOBODY if document["health"] == "unhealthy" else Exit.DRAINED


def _tell(line: str) -> None:
    """The exit code is what a health check is for, also where nobody reads."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError):
            sys.stdout.close()


def _found(environ: Mapping[str, str], address: str) -> StatusSettings:
    found = load_status_settings({**environ, STATUS_SOCKET: address} if address else environ)
    if not found.address:
        raise ConfigurationError([f"{STATUS_SOCKET}: it is off, so no sensor can be asked"])
    return found


def _documents(address: str, *, again: bool) -> Iterator[dict[str, Any]]:
    yield ask(address)
    while again:
        time.sleep(_WATCH_S)
        yield ask(address)


def _refused(error: ConfigurationError, *, as_json: bool) -> int:
    if as_json:
        sys.stdout.write(json.dumps({"error": "the settings do not say where to ask", "faults": error.faults}) + "\n")
    for fault in error.faults:
        sys.stderr.write(f"ossensor: {fault}\n")
    return Exit.CONFIGURATION


def _no_answer(error: NoAnswerError, found: StatusSettings, *, as_json: bool) -> int:
    """With the settings that can be seen from here: what is wrong with them is the likeliest reason."""
    faults = found.faults if error.nobody_there else []
    if as_json:
        sys.stdout.write(json.dumps({"error": str(error), "faults": faults}) + "\n")
    sys.stderr.write(f"ossensor: {error}\n")
    if faults:
        sys.stderr.write("ossensor: with the settings given here a sensor would refuse to start:\n")
    for fault in faults:
        sys.stderr.write(f"ossensor: {fault}\n")
    if error.nobody_there and not faults:
        sys.stderr.write(f"ossensor: {_ELSEWHERE}\n")
    return _NOBODY
