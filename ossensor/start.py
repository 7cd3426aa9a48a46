"""`ossensor run`: from the command line to the supervisor's loop, as a numbered list of one-way doors."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import __version__, legacy, logs
from .configfile import generate
from .errors import ConfigurationError, Exit, PrivilegeError
from .settings import Loaded, Settings, load
from .systemd import fdstore
from .systemd.fdstore import Store
from .systemd.notify import Manager
from .variables import CA_FILE, CONFIG_PATH, KEY_FILE, KEY_NEXT_FILE, SENSOR_NAME, TASK_METADATA
from .workers import privileges
from .workers.child import HELD_BACK

if TYPE_CHECKING:
    from .transport.taskmetadata import Task

log = logging.getLogger(__name__)


def run(environ: Mapping[str, str]) -> Exit:
    """Runs the sensor until it is told to stop. Returns only when it refuses to start.

    1. Settings: every fault at once, before anything is opened. Exit 78.
    2. Privilege: without CAP_NET_RAW nothing else is worth doing. Exit 77.
    3. Logging, so that what follows can be told.
    4. The config file, while this process may still write it.
    5. Whom to trust: CA files are read once, while this process may still read them; children inherit the result.
    6. Working directory "/": libpcap looks for a *file* of an interface's name first, and a folder that we stand in
       could not be unmounted.
    7. The supervisor, with whatever code it may need: as it is then, it may not be able to read any.
    """
    # Held back until the loop can hear it: as PID 1, a SIGTERM that finds no handler would be ignored for good.
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    manager = Manager(environ, os.getpid())
    try:
        loaded = load(environ)
        context = _tls_context(loaded.settings)
        _require_net_raw()
        _make_spool(loaded.settings)
        listener = _listener(loaded.settings.metrics_address)
    except ConfigurationError as e:
        for fault in e.faults:
            print(f"ossensor: {fault}", file=sys.stderr)  # noqa: T201  logging is a setting, and settings failed
        for note in getattr(e, "__notes__", []):
            print(f"ossensor: warning: {note}", file=sys.stderr)  # noqa: T201  likewise
        # `systemctl status` shows it also after the end; there is nobody left whom `ossensor status` could ask.
        manager.status(f"refused to start: {'; '.join(e.faults)}")
        return Exit.CONFIGURATION
    except PrivilegeError as e:
        manager.status(f"refused to start: {e}")
        print(f"ossensor: {e}", file=sys.stderr)  # noqa: T201  likewise
        return Exit.PRIVILEGE
    task = _maybe_task(environ)
    loaded = _called(loaded, task)
    settings = loaded.settings
    _allow_descriptors()
    multiprocessing.current_process().name = "supervisor"  # what log records and ps call this process
    privileges.set_name("ossensor-sup")
    privileges.go_first(privileges.OOM_SUPERVISOR)
    logs.configure(settings.debug, settings.log_format)
    log.info("ossensor %s", __version__, extra=logs.fields(sensor=settings.sensor_name))
    for warning in loaded.warnings:
        log.warning(warning)
    from_file = [name for name, source in loaded.sources.items() if source.startswith("file ")]
    if from_file:
        log.info("settings taken from the config file: %s", ", ".join(from_file))
    _write_config(loaded)
    store = Store(environ)
    estate = legacy.understood(fdstore.passed(environ, os.getpid()), store)
    started_in = _working_folder()
    os.chdir("/")
    from .supervisor import Supervisor  # noqa: PLC0415  loads pypcap and requests, which a refusal need not wait for

    try:
        code = Supervisor(
            settings,
            context,
            listener,
            _Reload(_anchored(environ, started_in), loaded, started_in, task),
            {} if task is None else task.details,
            manager,
            store,
            estate,
        ).run()
    except Exception:
        # Not by unwinding: multiprocessing would wait for children that wait for us. They die with this process.
        log.critical("a bug ended the supervisor", exc_info=True)
        code = Exit.INTERNAL
    logs.flush_briefly()
    os._exit(code)


def _working_folder() -> str:
    """What relative paths mean; where it is not there any more, no such path can have been read."""
    try:
        return os.getcwd()  # noqa: PTH109  a string for chdir
    except FileNotFoundError:
        return "/"


def _anchored(environ: Mapping[str, str], folder: str) -> dict[str, str]:
    """The environment with its paths made absolute: SIGHUP reads them again, from "/".

    Only after they were read once: a path that is none may be the key, given under the wrong name, and must not turn
    up in a message.
    """
    names = [name for name in (CONFIG_PATH, KEY_FILE, KEY_NEXT_FILE, CA_FILE) if environ.get(name)]
    return {**environ, **{name: os.path.join(folder, environ[name]) for name in names}}  # noqa: PTH118  text to text


class _Reload:
    """Reads the settings again.

    A config file that was there and is gone is a fault: without its lists the sensor would capture more than before.
    """

    def __init__(self, environ: Mapping[str, str], loaded: Loaded, folder: str, task: Task | None) -> None:
        self._environ = environ
        self._loaded = loaded
        self._folder = folder
        self._task = task

    def __call__(self) -> Settings:
        path = self._loaded.settings.config_path
        try:
            from_file = any(source.startswith("file ") for source in self._loaded.sources.values())
            if from_file and not path.exists():
                raise ConfigurationError([f"{CONFIG_PATH}: {path}: was read at the start and is gone"])
            # Relative paths in the file mean the folder that we were started in, if we may still enter it.
            with contextlib.suppress(OSError):
                os.chdir(self._folder)
            self._loaded = _called(load(self._environ), self._task)
        except OSError as e:
            raise ConfigurationError([f"{CONFIG_PATH}: {path}: {e.strerror}"]) from e
        finally:
            os.chdir("/")
        for warning in self._loaded.warnings:
            log.warning(warning)
        return self._loaded.settings


def _maybe_task(environ: Mapping[str, str]) -> Task | None:
    """The ECS task that this is part of, where there is one and it can be found out in a second."""
    if not environ.get(TASK_METADATA):
        return None
    from .transport.taskmetadata import maybe_task  # noqa: PLC0415  most machines are no tasks

    return maybe_task(environ[TASK_METADATA])


def _called(loaded: Loaded, task: Task | None) -> Loaded:
    """The settings, with the task's id for the sensor's name unless a name was given."""
    if task is None or loaded.sources[SENSOR_NAME] != "default":
        return loaded
    return dataclasses.replace(loaded, settings=dataclasses.replace(loaded.settings, sensor_name=task.name))


def _allow_descriptors() -> None:
    """As many descriptors as the limit may be raised to: an interface needs a dozen, and 1,024 is the usual start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _require_net_raw() -> None:
    if privileges.CAP_NET_RAW not in privileges.effective():
        raise PrivilegeError(
            "CAP_NET_RAW is missing: capturing needs it (run as root, or give it: AmbientCapabilities=CAP_NET_RAW in a"
            " systemd unit; Fargate tasks have it by default)"
        )


def _make_spool(settings: Settings) -> None:
    """The spool's folder, for the uploader alone, if it is not there. One that is there is its owner's affair."""
    if settings.spool_dir is None:
        return
    try:
        if settings.spool_dir.is_dir():  # EACCES, where a folder above it is not ours to look into
            return
        settings.spool_dir.mkdir(0o700, parents=True)
        with contextlib.suppress(PermissionError):  # in a user namespace there may be no such user
            os.chown(settings.spool_dir, *privileges.user_ids(settings.user))
    except OSError as e:
        raise ConfigurationError([f"OSSENSOR_SPOOL_DIR: {settings.spool_dir}: {e.strerror}"]) from e


def _listener(address: tuple[str, int] | None) -> socket.socket | None:
    """Opened once, here, where a port that is taken is still a setting that is wrong."""
    if address is None:
        return None
    try:
        return socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    except OSError as e:
        raise ConfigurationError([f"OSSENSOR_METRICS_ADDRESS: cannot listen there: {os.strerror(e.errno or 0)}"]) from e


def _tls_context(settings: Settings) -> ssl.SSLContext:
    from .transport.connection import tls_context  # noqa: PLC0415  see run()

    return tls_context(settings.tls, str(settings.ca_file) if settings.ca_file else None)


def _write_config(loaded: Loaded) -> None:
    refusal = generate(loaded.settings.config_path, loaded)
    if refusal:
        log.info(refusal)
    else:
        log.info("wrote the settings in effect", extra=logs.fields(path=loaded.settings.config_path))
