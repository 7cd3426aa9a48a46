"""The index of a store (vsensor/schema.py, ledger.py), as `ossensor audit` and `extract` read it: SQLite's bytes, and,
in a file that SQLite takes, a row of any values.

Declared: sqlite3.Error, ConfigurationError, and findings. Second oracle: what was read says the same when it is read
again, as JSON too; only a stream whose files have what the index says is called balanced.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from ossensor.errors import ConfigurationError, Exit
from ossensor.transport.protocol import Account, BatchId, Stream
from ossensor.vsensor import audit, extract
from ossensor.vsensor.index import Index, Row
from ossensor.vsensor.layout import Layout
from ossensor.vsensor.progress import Progress
from ossensor.vsensor.section import Span

from . import section
from ._files import make_small

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)  # noqa: S108  in memory
_LAYOUT = Layout(Path(_FOLDER.name))
_FILE = "sensor-1/eth0/20261123T100000.000000000Z.pcapng"
_EPOCH = "0123456789abcdef" * 2
_BODY = section.made([(5, b"frame"), (9, b"frames")])


def seeds() -> Iterator[bytes]:
    yield _INDEX
    row = ["sensor-1", _EPOCH, "eth0", 1, _FILE, 0, len(_BODY), 2, 7, Account(2, 4, 0, 1).text, 5, 9, 0]
    yield json.dumps(row).encode()


def _index() -> bytes:
    """Of a store with one file, in which one batch lies."""
    path = _LAYOUT.root / _FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(_BODY)
    with closing(Index(_LAYOUT.index, durable=False)) as index:
        index.add_file(_FILE)
        batch = BatchId(Stream("sensor-1", _EPOCH, "eth0"), 0)
        index.commit([Row(batch, 0, _FILE, 0, len(_BODY), 2, 7, Account(0, 3, 1).text, Span(5, 9))])
        make_small(index._db)
    return _LAYOUT.index.read_bytes()


_INDEX = _index()


def _write(data: bytes) -> bool:
    """False when it is a row, and SQLite does not take it into this table."""
    _LAYOUT.index.write_bytes(data if data.startswith(b"SQLite") else _INDEX)
    if data.startswith(b"SQLite"):
        return True
    try:
        row = json.loads(data)
        with closing(sqlite3.connect(_LAYOUT.index)) as db, db:
            db.execute("INSERT INTO batches VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)", row)
    except (sqlite3.Error, ValueError, RecursionError, OverflowError):
        return False
    return True


def target(data: bytes) -> bool:
    if not _write(data):
        return False
    try:
        found = list(audit.audit([_LAYOUT], Progress(io.StringIO()), deep=True))
        again = list(audit.audit([_LAYOUT], Progress(io.StringIO()), deep=True))
    except (sqlite3.Error, ConfigurationError):
        return False
    finally:
        for end in ("-wal", "-shm", "-journal"):
            _LAYOUT.index.with_name(_LAYOUT.index.name + end).unlink(missing_ok=True)
    assert found == again
    for one in found:
        json.dumps(one.as_json())
    _extracted()
    return True


def _extracted() -> None:
    arguments = argparse.ArgumentParser()
    extract.add_arguments(arguments)
    out = _LAYOUT.root / "out.pcapng"
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        code = extract.run(arguments.parse_args([str(_LAYOUT.root), "-w", str(out)]))
    assert code in {0, 1, Exit.CONFIGURATION}
    out.unlink(missing_ok=True)
