"""What a store does before it takes anything: make the files end where the index says they do.

Between the append and the index's row a batch is nobody's: its sensor was not answered and sends it again. So bytes
beyond a file's committed length are cut off, whoever wrote them; a file that is *shorter* has lost what was
acknowledged, which nothing here can mend, and is reported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from .index import Index
from .layout import PACKED, Layout


@dataclass(slots=True)
class Recovery:
    """What was found and done."""

    cut_files: int = 0
    cut_bytes: int = 0
    empty_files: int = 0  # made, and never committed to
    missing_files: int = 0  # taken away since: that is how an operator makes room
    short_files: list[str] = field(default_factory=list)  # acknowledged bytes are gone


def recover(layout: Layout, index: Index) -> Recovery:
    """Brings files and index together. Raises OSError or sqlite3.Error when the disk does not allow it."""
    found = Recovery()
    for file, committed in index.files():
        path = layout.root / file
        try:
            length = path.stat().st_size
        except FileNotFoundError:
            if committed == 0:
                index.forget_file(file)  # the crash came between the row and the file
            elif not (layout.root / (file + PACKED)).exists():
                found.missing_files += 1
            continue
        if committed == 0:
            # Nothing in it was acknowledged, and an empty file is not pcapng. The file goes before its row: a crash
            # between the two leaves what the branch above clears away.
            path.unlink()
            index.forget_file(file)
            found.empty_files += 1
        elif length > committed:
            os.truncate(path, committed)
            found.cut_files += 1
            found.cut_bytes += length - committed
        elif length < committed:
            found.short_files.append(file)
    return found
