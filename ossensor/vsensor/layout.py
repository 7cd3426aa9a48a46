"""Where things are under the store's root. Pure: names from names."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

_INDEX: Final = "index.sqlite"
_TLS: Final = "tls"
_ORDERS: Final = "antigena.sqlite"
_TRAIL: Final = "antigena-audit.jsonl"

# A sensor's folder stands beside these. SQLite makes the names of its logs and its shared memory from the databases'.
RESERVED_SENSORS: Final = frozenset(
    {_TLS, _TRAIL, *(f"{base}{end}" for base in (_INDEX, _ORDERS) for end in ("", "-wal", "-shm", "-journal"))}
)

# What is added to a file's name when it is compressed, and while it is being.
PACKED: Final = ".zst"
PART: Final = ".zst.part"

FOLDER_MODE: Final = 0o750
FILE_MODE: Final = 0o640


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one store."""

    root: Path

    @property
    def index(self) -> Path:
        return self.root / _INDEX

    @property
    def orders(self) -> Path:
        return self.root / _ORDERS

    @property
    def trail(self) -> Path:
        return self.root / _TRAIL

    @property
    def tls(self) -> Path:
        return self.root / _TLS

    @property
    def lock(self) -> Path:
        return self.root / ".lock"

    @staticmethod
    def folder(sensor: str, interface: str) -> str:
        """The path, under the root, of the folder for this interface's files, with a slash at its end.

        Sensor names are safe as they are (protocol.sensor_name_ok); interface names may hold anything printable.
        """
        return f"{sensor}/{quote(interface, safe='')}/"

    @staticmethod
    def file(sensor: str, interface: str, started_ns: int) -> str:
        """The path, under the root, of the file that begins at this Unix time.

        Nine digits of fraction keep names in the order of their times, which three or none would not for fast rotation.
        """
        seconds, ns = divmod(started_ns, 10**9)
        start = dt.datetime.fromtimestamp(seconds, tz=dt.UTC).strftime("%Y%m%dT%H%M%S")
        return f"{Layout.folder(sensor, interface)}{start}.{ns:09d}Z.pcapng"
