"""`ossensor systemd install`: the unit, and from an INI file of an earlier sensor its settings and its key.

Invariants: repeated, it changes nothing; settings and key that are there are never touched; the key is in a file of
0600 from its first moment, and on no terminal.

It starts nothing: whether this host captures from now on is decided by `systemctl enable --now`, which it names.
"""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

from ossensor import configfile
from ossensor.durable import sync_folder
from ossensor.errors import ConfigurationError, Exit
from ossensor.settings import describe, load
from ossensor.variables import CONFIG_PATH, KEY, KEY_FILE, KEY_NEXT, KEY_NEXT_FILE

from .ini import Migrated, migrated

_UNIT: Final = "etc/systemd/system/ossensor.service"
_CONFIG: Final = "etc/darktrace/ossensor.cfg"
_KEY: Final = "etc/ossensor/hmac.key"
_TEMPLATES_PROGRAM: Final = "/usr/local/bin/ossensor"
_MAX_INI_BYTES: Final = 1 << 20
# What ProtectHome= and PrivateTmp= of the unit take away from its service (systemd.exec(5)).
_HIDDEN: Final = frozenset(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108  none is used
_FAILED: Final = 1


class File(NamedTuple):
    """One file as it should be. `ours`: what is there otherwise is replaced."""

    path: Path
    content: str
    mode: int
    ours: bool


def unit(program: str) -> str:
    """The unit's text for a sensor that is run by this command."""
    template = resources.files(__package__).joinpath("ossensor.service").read_text("utf-8")
    # systemd.unit(5): % begins a specifier, white space ends an argument.
    escaped = program.replace("%", "%%").replace("\\", "\\\\").replace('"', '\\"')
    return template.replace(_TEMPLATES_PROGRAM, f'"{escaped}"' if " " in program else escaped)


def files(root: Path, program: str, old: Migrated | None) -> Iterator[File]:
    """What is to be there, in an order that leaves no unit without its settings."""
    if old is not None:
        yield File(root / _KEY, old.key + "\n", 0o600, ours=False)
        yield File(root / _CONFIG, _config(old), 0o644, ours=False)
    yield File(root / _UNIT, unit(program), 0o644, ours=True)


def _config(old: Migrated) -> str:
    hidden = {KEY, KEY_FILE, KEY_NEXT, KEY_NEXT_FILE, CONFIG_PATH}
    rows = [row for row in describe() if row.name not in hidden]
    return configfile.render(
        configfile.Line(row.name, old.settings.get(row.name, row.default), row.name in old.settings, row.meaning)
        for row in rows
    )


def install(*, root: Path, ini: Path | None, dry_run: bool, program: str | None = None) -> int:
    """Says of each file what it did, or would do. 0; 78 for faults of the INI file; 1 when a file cannot be written."""
    try:
        old = None if ini is None else migrated(_read(ini), load)
    except ConfigurationError as e:
        for fault in e.faults:
            sys.stderr.write(f"ossensor: {fault}\n")
        return Exit.CONFIGURATION
    for remark in () if old is None else old.remarks:
        sys.stderr.write(f"ossensor: warning: {ini}: {remark}\n")
    if ini is not None and ini.stat().st_mode & stat.S_IROTH:
        sys.stderr.write(f"ossensor: warning: {ini} holds the key, and everybody can read it\n")
    program = program or str(Path(sys.executable).with_name("ossensor"))
    for why in _out_of_reach(program):
        sys.stderr.write(f"ossensor: warning: {why}: it will not start; install ossensor elsewhere, as in /opt\n")
    for file in files(root, program, old):
        try:
            said = _put(file, dry_run=dry_run)
        except OSError as e:
            sys.stderr.write(f"ossensor: {file.path}: {e.strerror}\n")
            return _FAILED
        sys.stdout.write(f"{file.path}: {said}\n")
    sys.stdout.writelines(f"{line}\n" for line in _next_steps(root))
    return Exit.DRAINED


def _read(ini: Path) -> str:
    try:
        with ini.open("rb") as file:
            return file.read(_MAX_INI_BYTES).decode("utf-8-sig", "strict")
    except OSError as e:
        raise ConfigurationError([f"{ini}: {e.strerror}"]) from None
    except UnicodeDecodeError:
        raise ConfigurationError([f"{ini}: not UTF-8"]) from None


def _put(file: File, *, dry_run: bool) -> str:
    """Makes the file what it should be; returns what that took, in words. Raises OSError."""
    there = None
    with suppress(FileNotFoundError):
        there = file.path.read_bytes()
    if there == file.content.encode():
        return "is as it should be"
    if there is not None and not file.ours:
        return "is there and differs; it is left as it is"
    what = "replaced" if there is not None else f"written, mode {file.mode:04o}"
    if dry_run:
        return f"would be {what}"
    _make_open(file.path.parent)
    # mkstemp makes it 0600, so that nobody reads a key before its mode is set.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{file.path.name}.", dir=file.path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(file.content)
            out.flush()
            os.fchmod(descriptor, file.mode)
            os.fsync(descriptor)
        os.replace(temporary, file.path)  # noqa: PTH105  mkstemp gives a string
    except BaseException:
        os.unlink(temporary)  # noqa: PTH108  likewise
        raise
    sync_folder(file.path.parent)
    return what


def _make_open(folder: Path) -> None:
    """With its parents, and for all to enter, whatever the umask: the service's user reads its settings there."""
    if not folder.is_dir():
        _make_open(folder.parent)
        folder.mkdir()
        folder.chmod(0o755)


def _out_of_reach(program: str) -> Iterator[str]:
    """The folders of the program that the unit's user, who is none of this machine's, does not see or may not enter."""
    used = (Path(program), Path(sys.executable), Path(__file__))
    for folder in dict.fromkeys(parent for path in used for parent in path.resolve().parents):
        if folder in _HIDDEN:
            yield f"{folder} holds the program, and is hidden from the service (ProtectHome=, PrivateTmp=)"
        elif folder.exists() and not folder.stat().st_mode & stat.S_IXOTH:
            yield f"{folder} holds the program, and is not open to the service's user"


def _next_steps(root: Path) -> Iterator[str]:
    config, key = root / _CONFIG, root / _KEY
    if not key.exists():
        yield f"next: the key shared with the vSensor, one line, into {key}, readable by root alone (mode 0600)"
    if not config.exists():
        yield f"next: the settings into {config}, readable by all; VSENSOR_HOSTNAME=... at least"
    yield "next: systemctl daemon-reload && systemctl enable --now ossensor"
    yield "then: ossensor status"
