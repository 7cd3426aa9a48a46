"""A batch as a message of the stream, and back. Pure.

The message's id is the batch's path in the protocol: one spelling for one batch, so the stream's de-duplication is by
what makes a batch itself. Its other headers are the fields that the sensor signed, under the same names.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Final

from ossensor.transport.protocol import (
    FIELD_BOOKS,
    FIELD_FLOOR,
    FIELD_PACKETS,
    Account,
    BatchId,
    MalformedError,
    Stream,
    parse_number,
)
from ossensor.vsensor import section
from ossensor.vsensor.store import Append

STREAM: Final = "OSSENSOR"
# The vSensors tell each other which batches the stream has. Not kept: a lost one costs the patience of order.py.
HEADS_SUBJECT: Final = "ossensor.heads"

# Work for consumers is shared out by these, and never changes hands while a stream lives: sixteen because a consumer is
# a raft group of its own in a cluster, and because no store needs more than sixteen writers.
PARTITIONS: Final = 16
_SUBJECT: Final = "ossensor.batches"
EVERY_SUBJECT: Final = f"{_SUBJECT}.>"

ID: Final = "Nats-Msg-Id"
_ENCODING: Final = "Content-Encoding"
# Fields of at most some 600 bytes together, and what NATS writes around them.
HEADERS_MAX_BYTES: Final = 4 << 10


def partition(stream: Stream) -> int:
    """By sensor and interface, not by epoch: so a store has all epochs of an interface, and a new one moves nothing."""
    return zlib.crc32(f"{stream.sensor}/{stream.interface}".encode()) % PARTITIONS


def subject(number: int) -> str:
    return f"{_SUBJECT}.{number}"


def headers(append: Append) -> dict[str, str]:
    found = {
        ID: append.batch.path,
        FIELD_FLOOR: str(append.floor),
        FIELD_PACKETS: str(append.packets),
        FIELD_BOOKS: append.books or "",
    }
    return found | ({_ENCODING: "zstd"} if append.packed is not None else {})


def parse(fields: Mapping[str, str], data: bytes) -> Append:
    """What to store. Raises MalformedError or section.SectionError for a message that no vSensor of ours published."""
    batch = BatchId.from_path(fields.get(ID, ""))
    floor = parse_number(fields.get(FIELD_FLOOR, ""))
    if batch.sequence < floor:
        raise MalformedError("a batch below its own floor")
    books = Account.parse(fields.get(FIELD_BOOKS, "")).text
    opened = section.inflate(data) if fields.get(_ENCODING) == "zstd" else data
    section.check(opened)
    packets = parse_number(fields.get(FIELD_PACKETS, ""))
    return Append(batch, floor, packets, opened, books, section.span(opened))
