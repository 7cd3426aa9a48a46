"""A store as a command line describes it: what its files are kept like, and the lock on its folder."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import re
from typing import TextIO

from ossensor.durable import sync_folder
from ossensor.errors import ConfigurationError

from .layout import FOLDER_MODE, Layout
from .retention import Keeping, Limits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rotate-mb", default="1024", metavar="N", help="begin a new file when one has N MiB (default: 1024)"
    )
    parser.add_argument(
        "--rotate-minutes", default="60", metavar="N", help="begin a new file when one is N minutes old (default: 60)"
    )
    parser.add_argument(
        "--keep-days", metavar="N", help="remove files whose newest batch came more than N days ago (default: keep all)"
    )
    parser.add_argument(
        "--keep-gb",
        metavar="N",
        help="remove the oldest files while the store's take more than N GiB (default: keep all)",
    )
    parser.add_argument(
        "--compress-closed",
        action="store_true",
        help="compress files that are closed, with zstd, when the machine idles",
    )
    parser.add_argument(
        "--no-fsync", action="store_true", help="acknowledge before the disk has flushed; a power cut may lose batches"
    )


def number(option: str, text: str, most: int, faults: list[str], unit: str = "") -> int:
    """What the text says; 0 with a fault added for anything but a number from 1 to `most`."""
    # Its length first: int() raises for more than 4,300 digits.
    if text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and 1 <= int(text) <= most:
        return int(text)
    faults.append(f"{option}: {text!r} is not a whole number{unit} from 1 to {most}")
    return 0


def keeping(args: argparse.Namespace, faults: list[str]) -> Keeping:
    """How the files are kept; meaningless when faults were added."""
    before = len(faults)
    # Up to a pebibyte, or two thousand years: beyond it SQLite's integers would be next.
    rotate_bytes = number("--rotate-mb", args.rotate_mb, 1 << 30, faults, " of MiB") << 20
    rotate_s = number("--rotate-minutes", args.rotate_minutes, 1 << 30, faults, " of minutes") * 60
    keep_ns = keep_bytes = None
    if args.keep_days is not None:
        keep_ns = _thousandths("--keep-days", args.keep_days, "days", 700_000, faults) * 24 * 3600 * 10**6
    if args.keep_gb is not None:
        keep_bytes = (_thousandths("--keep-gb", args.keep_gb, "GiB", 1 << 20, faults) << 30) // 1000
        if len(faults) == before and keep_bytes < rotate_bytes:
            faults.append(f"--keep-gb: {args.keep_gb} GiB is less than one file of --rotate-mb {args.rotate_mb}")
    return Keeping(rotate_bytes, rotate_s, Limits(keep_ns, keep_bytes), args.compress_closed)


def _thousandths(option: str, text: str, unit: str, most: int, faults: list[str]) -> int:
    """What the text says, times a thousand; 0 with a fault added."""
    match = re.fullmatch(r"([0-9]{1,7})(?:\.([0-9]{1,3}))?", text)
    found = int(match[1] + (match[2] or "").ljust(3, "0")) if match else 0
    if 0 < found <= most * 1000:
        return found
    faults.append(f"{option}: {text!r} is not a number of {unit} from 0.001 to {most}")
    return 0


def locked(layout: Layout, faults: list[str]) -> TextIO:
    """The store's folder, made if need be, and ours until the file is closed.

    Raises ConfigurationError with what was found before and what is wrong here, so that all is said at once.

    Two collectors on one index would each append at its own idea of a file's end. Children inherit the lock, so it
    lasts until the last of them is gone.
    """
    with contextlib.ExitStack() as opened:
        try:
            file = opened.enter_context(_opened(layout))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as e:
            why = "another vsensor uses it" if isinstance(e, BlockingIOError) else e.strerror
            raise ConfigurationError([*faults, f"--store: {layout.root}: {why}"]) from e
        if faults:
            raise ConfigurationError(faults)
        opened.pop_all()
    return file


def _opened(layout: Layout) -> TextIO:
    new = [folder for folder in (layout.root, *layout.root.parents) if not folder.exists()]
    layout.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    for folder in new or [layout.root]:
        # The newest last time, too: whoever made it may have died in front of this line. Folders above that may
        # not be read were not made by us.
        with contextlib.suppress(PermissionError):
            sync_folder(folder.parent)
    return layout.lock.open("w", encoding="ascii")
