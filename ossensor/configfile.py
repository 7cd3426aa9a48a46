"""The config file at OSSENSOR_CONFIG_PATH: read when it is there, written once when it is not.

Invariants: what was written is read back as exactly the same text; a file (or link) that is there is never touched;
a reader sees no file or a whole one; the HMAC key is never written.
"""

from __future__ import annotations

import io
import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from dotenv import dotenv_values
from dotenv.parser import parse_stream

from .errors import ConfigurationError

_VARIABLE: Final = "OSSENSOR_CONFIG_PATH"
# Every setting at its longest would fill a few KiB; a log given by mistake should not fill memory.
_MAX_BYTES: Final = 1 << 20

_HEADER: Final = """\
# Written by ossensor at its first start, and not touched since: change it freely.
# A variable in the environment wins over its line here. Lines that begin with # show defaults.
# The HMAC key is left out on purpose: give VSENSOR_HMAC_KEY or VSENSOR_HMAC_KEY_FILE.
"""

# The four characters that would end a double-quoted value, or be taken for something else in it. \\r must not stand
# as itself: reading in text mode would make it \\n.
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


class Line(NamedTuple):
    """One variable of the file. One that was not given explicitly is shown as a comment."""

    name: str
    text: str
    explicit: bool
    meaning: str


class HasLines(Protocol):
    """What `generate` needs of loaded settings."""

    def config_lines(self) -> Iterable[Line]:
        """The variables to write, without the key."""


def quote(text: str) -> str:
    """`text` in double quotes, on one line, as `read` reads it back. NUL and surrogates are the caller's to refuse."""
    return f'"{text.translate(_ESCAPES)}"'


def render(lines: Iterable[Line]) -> str:
    """The whole text of a config file."""
    parts = [_HEADER]
    for line in lines:
        mark = "" if line.explicit else "# "
        parts.append(f"\n# {' '.join(line.meaning.split())}\n{mark}{line.name}={quote(line.text)}\n")
    return "".join(parts)


def read(path: Path) -> dict[str, str]:
    """What the file says; nothing when there is none. ConfigurationError when it is there and cannot be understood.

    A file that cannot be read is a fault, not an absence: without its lists the sensor would capture what its
    operator excluded. Faults give line numbers only, since a mistyped line may hold the key.
    """
    try:
        text = _read_text(path)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as e:
        raise ConfigurationError(
            [f"{_VARIABLE}: {path}: {e.strerror}; allowed: a file that can be read, or none"]
        ) from e
    if text is None:
        raise ConfigurationError([f"{_VARIABLE}: {path}: not a text file of UTF-8 below 1 MiB"])
    wrong = [str(b.original.line) for b in parse_stream(io.StringIO(text)) if b.error]
    if wrong:
        raise ConfigurationError([f"{_VARIABLE}: {path}: not KEY=value in the statement at line {', '.join(wrong)}"])
    # Not interpolated: python-dotenv would replace `${HOME}` inside a key or a pattern.
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def _read_text(path: Path) -> str | None:
    """The file's text; None when it is none. O_NONBLOCK: opening a FIFO must not wait for a writer."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123  needs the flags
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return None
        raw = file.read(_MAX_BYTES + 1)
    # Decoded outside an except clause, so that no exception carries the file's content along.
    with suppress(UnicodeDecodeError):
        return raw.decode() if len(raw) <= _MAX_BYTES else None
    return None


def generate(path: Path, loaded: HasLines) -> str | None:
    """Writes the file when it is absent. None when it was written; otherwise a sentence that says why it was not.

    Never raises for what a file system refuses: a read-only root is normal in a container.
    """
    if os.path.lexists(path):
        return f"config file {path} is there and is left as it is"
    try:
        _make_folder(path.parent)
        _create(path, render(loaded.config_lines()).encode())
    except FileExistsError:
        return f"config file {path} was made by somebody else meanwhile and is left as it is"
    except OSError as e:
        return f"config file {path} was not written: {e.strerror}"
    return None


def _make_folder(folder: Path) -> None:
    """Makes missing folders with 0755 each. Path.mkdir(parents=True) gives the upper ones 0777 less the umask."""
    for missing in reversed([f for f in (folder, *folder.parents) if not f.exists()]):
        missing.mkdir(mode=0o755, exist_ok=True)


def _create(path: Path, content: bytes) -> None:
    """Makes `path` with this content and mode 0600, whole or not at all. FileExistsError when it is there.

    Written under another name first and then linked: link(2) neither overwrites nor follows a link at `path`, where
    rename(2) would replace a file that somebody wrote meanwhile. Crash windows: before the link there is no `path`, and
    the next start writes it; between link and unlink both names lead to the whole file. Either way at most a hidden
    file is left over, and its random name blocks nothing. Where hard links are not to be had (vfat), the error says so.
    """
    # mkstemp: O_CREAT | O_EXCL | O_NOFOLLOW, 0600 from the first moment. A umask can only take bits away; fchmod
    # gives back what an unusual one took.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  a descriptor has no path
            os.fchmod(descriptor, 0o600)
            file.write(content)
            file.flush()
            # Before the name appears: after a power cut a name with empty content would be a file that is there.
            os.fsync(descriptor)
        os.link(temporary, path, follow_symlinks=False)
    finally:
        os.unlink(temporary)  # noqa: PTH108  mkstemp gives a string
