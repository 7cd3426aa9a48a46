"""One batch as a file: its name, its bytes, and how they are told from damaged ones. Pure.

A file is the batch's pcapng section, so Wireshark opens it, and behind it one block of a type that is reserved for
local use (draft-ietf-opsawg-pcapng section 11.1; readers skip it): the books that travel with the batch, and a SHA-256
over all of it, the file's name included. What does not match is damaged, whichever bit it is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import struct
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote

from .transport.protocol import (
    MAX_SEQUENCE,
    Account,
    BatchId,
    MalformedError,
    Stream,
    interface_name_ok,
    sensor_name_ok,
)

SUFFIX: Final = ".pcapng"
_TRAILER: Final = 0x80004F53
_HEAD: Final = struct.Struct("<II")
_TAIL: Final = struct.Struct("<I")
# The books take 195 characters at most, the digest 64, and what is around them some fifty.
LONGEST_TRAILER_BYTES: Final = 512
_NAME = re.compile(r"([0-9]{20}),([0-9a-f]{32}),([0-9]{19}),(0|[1-9][0-9]{0,9}),([^,]+),([^,]+)\.pcapng")


class DamagedError(ValueError):
    """Not what was written."""


@dataclass(frozen=True)
class Spooled:
    """What a file's name says: enough to send the batch in its turn, and to count it if it cannot be read."""

    batch: BatchId
    packets: int
    first_ns: int

    @property
    def name(self) -> str:
        """Names sort by age. Each part is as long as it may be, or free of the comma between them."""
        sensor, epoch, interface = self.batch.stream
        numbers = f"{self.first_ns:020d},{epoch},{self.batch.sequence:019d},{self.packets}"
        return f"{numbers},{sensor},{quote(interface, safe='')}{SUFFIX}"

    @classmethod
    def parse(cls, name: str) -> Spooled | None:
        """None for a file that is none of ours."""
        match = _NAME.fullmatch(name)
        if match is None:
            return None
        first_ns, epoch, sequence, packets, sensor, quoted = match.groups()
        interface = unquote(quoted, errors="replace")
        if not sensor_name_ok(sensor) or not interface_name_ok(interface) or int(sequence) > MAX_SEQUENCE:
            return None
        found = cls(BatchId(Stream(sensor, epoch, interface), int(sequence)), int(packets), int(first_ns))
        return found if found.name == name else None


def trailer(spooled: Spooled, section: memoryview | bytes, account: Account) -> bytes:
    """What follows the section in the file."""
    sha256 = _sha256(spooled.name, section, account.text)
    body = json.dumps({"account": account.text, "sha256": sha256}).encode()
    body += b" " * (-len(body) % 4)
    length = _HEAD.size + len(body) + _TAIL.size
    return _HEAD.pack(_TRAILER, length) + body + _TAIL.pack(length)


def opened(spooled: Spooled, data: bytes) -> tuple[memoryview, Account]:
    """Section and account. Raises DamagedError, and nothing else."""
    try:
        (length,) = _TAIL.unpack_from(data, len(data) - _TAIL.size)
        if not _HEAD.size + _TAIL.size <= length <= min(len(data), LONGEST_TRAILER_BYTES):
            raise DamagedError("its last block has an impossible length")
        at = len(data) - length
        if _HEAD.unpack_from(data, at) != (_TRAILER, length):
            raise DamagedError("its last block is not ours")
        values = json.loads(data[at + _HEAD.size : len(data) - _TAIL.size])
        section, text, sha256 = memoryview(data)[:at], values["account"], values["sha256"]
        if not hmac.compare_digest(_sha256(spooled.name, section, text), sha256):
            raise DamagedError("its digest does not match")
        return section, Account.parse(text)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, MalformedError, RecursionError) as e:
        raise e if isinstance(e, DamagedError) else DamagedError(f"its last block cannot be read: {e}") from e


def _sha256(name: str, section: memoryview | bytes, account: str) -> str:
    digest = hashlib.sha256(section)
    digest.update(f"\n{name}\n{account}".encode())
    return digest.hexdigest()
