"""What a stream has to be so that an acknowledgement can rest on it. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType, StreamConfig

from .message import EVERY_SUBJECT, HEADERS_MAX_BYTES, STREAM

# NATS's own default. A sensor that got no answer asks again within a minute (its own limit of 30 s, and back-off up to
# 30 s); whatever comes later is known to the consumer's index. Each id costs the servers' memory as long as this.
DUPLICATE_WINDOW_S: Final = 120.0


class Terms(NamedTuple):
    """What is asked of the servers."""

    section_bytes: int  # of the largest batch
    replicas: int  # of a stream that we make; one that is there has what its owner wanted

    @property
    def message_bytes(self) -> int:
        return self.section_bytes + HEADERS_MAX_BYTES


def wanted(terms: Terms) -> StreamConfig:
    """The stream, where there is none."""
    return StreamConfig(
        name=STREAM,
        description="Batches of ossensor's sensors, each until a consumer has stored it",
        subjects=[EVERY_SUBJECT],
        # Each message is there until it was acknowledged by the one consumer of its partition: an age limit would lose
        # what a consumer that is behind has not seen, and with "interest" a message that nobody has asked for yet is
        # acknowledged and thrown away.
        retention=RetentionPolicy.WORK_QUEUE,
        # A full stream refuses, and the sensors keep; "old" would throw away what was acknowledged.
        discard=DiscardPolicy.NEW,
        storage=StorageType.FILE,
        num_replicas=terms.replicas,
        duplicate_window=DUPLICATE_WINDOW_S,
    )


def objections(found: StreamConfig, max_payload_bytes: int, terms: Terms) -> list[str]:
    """Everything about servers and stream on which no acknowledgement can rest."""
    here = f"the stream {STREAM}"
    faults = []
    if max_payload_bytes < terms.message_bytes:
        faults.append(
            f"max_payload of the NATS server is {max_payload_bytes:,} bytes, a batch may need {terms.message_bytes:,}:"
            " raise it in the server's configuration, or lower --largest-batch-mb"
        )
    if 0 < (found.max_msg_size or -1) < terms.message_bytes:
        faults.append(f"{here} takes {found.max_msg_size:,} bytes a message, a batch may need {terms.message_bytes:,}")
    if EVERY_SUBJECT not in (found.subjects or []):
        faults.append(f"{here} does not have the subject {EVERY_SUBJECT}")
    if found.retention != RetentionPolicy.WORK_QUEUE:
        faults.append(f"{here} is not a work queue: it would lose what has no consumer yet, or never empty")
    if found.discard != DiscardPolicy.NEW:
        faults.append(f"{here} discards old messages when it is full, and they were acknowledged")
    if found.max_age:
        faults.append(f"{here} removes messages by their age, and they were acknowledged")
    if found.storage != StorageType.FILE:
        faults.append(f"{here} is in memory only")
    if found.no_ack:
        faults.append(f"{here} gives no acknowledgements")
    if found.duplicate_window < DUPLICATE_WINDOW_S:
        faults.append(f"{here} remembers ids for {found.duplicate_window:g} s, not for {DUPLICATE_WINDOW_S:g} s")
    return faults
