"""A batch in the spool: the file's name, and what is in it (spoolfile.py). The first line is the name.

Declared: DamagedError; None for a name. Second oracle: a name that is ours is spelled as we spell it; of a file that is
whole, what it holds makes the same file. The digest is no key, so the second half of this target forges it: then the
books that are read are in the one spelling that goes into a signed field.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator

from ossensor.spoolfile import DamagedError, Spooled, opened, trailer
from ossensor.transport.protocol import Account, BatchId, Stream

from . import section

_TRAILER = 0x80004F53
_EPOCH = "0123456789abcdef" * 2


def seeds() -> Iterator[bytes]:
    for interface, account in (("eth0", Account()), ("a,b/é%"[:4] + "é", Account(7, 20, 1, 1))):
        spooled = Spooled(BatchId(Stream("sensor-1", _EPOCH, interface.replace("/", "|")), 5), 3, 1_795_000_000 * 10**9)
        body = section.made([(5, b"frame")])
        yield spooled.name.encode() + b"\n" + body + trailer(spooled, body, account)


def target(data: bytes) -> bool:
    name, _, content = data.partition(b"\n")
    spooled = Spooled.parse(name.decode("utf-8", "surrogateescape"))
    if spooled is None:
        return False
    assert spooled.name.encode() == name
    assert BatchId.from_path(spooled.batch.path) == spooled.batch
    _forged(spooled, content)
    try:
        found, account = opened(spooled, content)
    except DamagedError:
        return False
    assert opened(spooled, bytes(found) + trailer(spooled, found, account)) == (found, account)
    return True


def _forged(spooled: Spooled, content: bytes) -> None:
    """These bytes as the books, between a section and a digest that is right."""
    books = content[-1000:].decode("latin-1")
    digest = hashlib.sha256(b"section")
    digest.update(f"\n{spooled.name}\n{books}".encode())
    body = json.dumps({"account": books, "sha256": digest.hexdigest()}).encode()
    body += b" " * (-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    try:
        found, account = opened(spooled, b"section" + struct.pack("<I", _TRAILER) + length + body + length)
    except DamagedError:
        return
    assert (bytes(found), account.text) == (b"section", books)
