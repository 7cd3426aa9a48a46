"""`ossensor run`: from the command line to the supervisor's loop, as a numbered list of one-way doors."""

from __future__ import annotations

import logging
import multiprocessing
import os
import ssl
import sys
from collections.abc import Mapping

from . import __version__, logs
from .configfile import generate
from .errors import ConfigurationError, Exit, PrivilegeError
from .settings import Loaded, Settings, load
from .workers import privileges

log = logging.getLogger(__name__)


def run(environ: Mapping[str, str]) -> Exit:
    """Runs the sensor until it is told to stop.

    1. Settings: every fault at once, before anything is opened. Exit 78.
    2. Privilege: without CAP_NET_RAW nothing else is worth doing. Exit 77.
    3. Logging, so that what follows can be told.
    4. The config file, while this process may still write it.
    5. Whom to trust: CA files are read once, while this process may still read them; children inherit the result.
    6. Working directory "/": libpcap looks for a *file* of an interface's name first, and a folder that we stand in
       could not be unmounted.
    7. The supervisor.
    """
    try:
        loaded = load(environ)
        context = _tls_context(loaded.settings)
        _require_net_raw()
    except ConfigurationError as e:
        for fault in e.faults:
            print(f"ossensor: {fault}", file=sys.stderr)  # noqa: T201  logging is a setting, and settings failed
        return Exit.CONFIGURATION
    except PrivilegeError as e:
        print(f"ossensor: {e}", file=sys.stderr)  # noqa: T201  likewise
        return Exit.PRIVILEGE
    settings = loaded.settings
    multiprocessing.current_process().name = "supervisor"  # what log records and ps call this process
    privileges.set_name("ossensor-sup")
    logs.configure(settings.debug, settings.log_format)
    log.info("ossensor %s", __version__, extra=logs.fields(sensor=settings.sensor_name))
    for warning in loaded.warnings:
        log.warning(warning)
    _write_config(loaded)
    started_in = os.getcwd()  # noqa: PTH109  a string for chdir
    os.chdir("/")
    from .supervisor import Supervisor  # noqa: PLC0415  loads pypcap and requests, which a refusal need not wait for

    return Supervisor(settings, context, lambda: _load_from(started_in, environ)).run()


def _load_from(folder: str, environ: Mapping[str, str]) -> Settings:
    """The settings as they were read at the start: relative paths mean the folder that the sensor was started in."""
    os.chdir(folder)
    try:
        return load(environ).settings
    finally:
        os.chdir("/")


def _require_net_raw() -> None:
    if privileges.CAP_NET_RAW not in privileges.effective():
        raise PrivilegeError(
            "CAP_NET_RAW is missing: capturing needs it (run as root, or give it: AmbientCapabilities=CAP_NET_RAW in a"
            " systemd unit; Fargate tasks have it by default)"
        )


def _tls_context(settings: Settings) -> ssl.SSLContext:
    from .transport.client import tls_context  # noqa: PLC0415  see run()

    path = settings.ca_file
    try:
        return tls_context(str(path) if path else None)
    except (OSError, ssl.SSLError) as e:
        raise ConfigurationError([f"VSENSOR_CA_FILE: {path}: no usable PEM certificates: {e}"]) from e


def _write_config(loaded: Loaded) -> None:
    refusal = generate(loaded.settings.config_path, loaded)
    if refusal:
        log.info(refusal)
    else:
        log.info("wrote the settings in effect", extra=logs.fields(path=loaded.settings.config_path))
