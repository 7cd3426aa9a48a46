"""Packets into slots: where one batch ends and the next begins.

Invariant: `room()` packets can be added whatever their lengths, so a packet that the engine has taken out of the kernel
always has a place; and after `commit` every added packet is in a slot's committed part.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

from ossensor import pcapng
from ossensor.logs import CHUNK, PACKET, fields
from ossensor.ratelimit import Bucket
from ossensor.slots import Producer

log = logging.getLogger(__name__)

# Level 5 shows what crosses, it does not record it: 100 packets a second are more than anyone reads.
_DUMPS_PER_S: Final = 100.0


# As many of one interface as the uploader sends at once; more than these are waiting for others.
_UPLOADER_BUSY_BATCHES: Final = 4


@dataclass(frozen=True)
class Opening:
    """What the first two blocks of every section say, but for the filter, which SIGHUP can change."""

    interface: str
    linktype: int
    snaplen: int
    application: str

    def prologue(self, capture_filter: str) -> bytes:
        return pcapng.section_header(self.application) + pcapng.interface_description(
            self.interface, self.linktype, self.snaplen, capture_filter, "Linux"
        )


class Batcher:
    """The batch being filled, if any, and the sequence of the next."""

    def __init__(self, producer: Producer, epoch: bytes, opening: Opening, max_age_s: float) -> None:
        self._producer = producer
        self._epoch = epoch
        self._opening = opening
        self._filter_version = -1
        self._prologue = b""
        self._block_bytes = pcapng.largest_block(opening.snaplen)
        self._max_age_s = max_age_s
        self._sequence = 0
        self._slot = 0
        self._section: pcapng.Section | None = None
        self._packets = 0
        self._first_ns = 0
        self._last_ns = 0
        self._opened_s = 0.0
        self._dumps = Bucket(_DUMPS_PER_S, int(_DUMPS_PER_S)) if log.isEnabledFor(PACKET) else None
        longest = opening.prologue("x" * pcapng.LONGEST_FILTER_BYTES)
        self._per_slot = pcapng.blocks_in_empty_section(producer.region.slot_bytes, longest, self._block_bytes)
        self._busy_batches = min(_UPLOADER_BUSY_BATCHES, producer.region.count // 2)
        if self._per_slot < 1:
            raise AssertionError("a slot cannot hold one packet of the largest size")

    def room(self) -> int:
        """Packets that can be added now even if each is as long as the snap length allows."""
        rest = self._section.blocks_that_fit(self._block_bytes) if self._section is not None else 0
        return rest + self._producer.free * self._per_slot

    def add(self, ts_ns: int, packet: bytes, original_length: int) -> None:
        """Adds one packet; begins the next slot when this one is full. The caller has asked `room` before."""
        section = self._section
        if section is None:
            section = self._begin(ts_ns)
        if not section.add(ts_ns, packet, original_length):
            self.publish()
            section = self._begin(ts_ns)
            if not section.add(ts_ns, packet, original_length):
                raise AssertionError("room() promised that this packet fits")
        self._packets += 1
        self._last_ns = ts_ns
        if self._dumps is not None:
            self._dump(ts_ns, packet)

    def _begin(self, ts_ns: int) -> pcapng.Section:
        # An odd version is a text half written: the old one serves for this section, and the next one looks again.
        version = self._producer.region.filter_version
        if version != self._filter_version and (version % 2 == 0 or not self._prologue):
            self._prologue = self._opening.prologue(self._producer.region.filter_text())
            self._filter_version = version
        self._slot = self._producer.begin(self._epoch, self._sequence)
        self._sequence += 1
        self._section = pcapng.Section.open(self._producer.region.slot(self._slot), self._prologue)
        self._packets = 0
        self._first_ns = ts_ns
        self._opened_s = time.monotonic()
        return self._section

    def commit(self) -> None:
        """Makes what was added survive this process. Called after every read."""
        if self._section is not None:
            self._producer.commit(self._slot, self._section.used, self._packets, self._first_ns, self._last_ns)

    def publish(self) -> None:
        """Hands the batch, if there is one, to the uploader."""
        section = self._section
        if section is None:
            return
        self.commit()
        length = section.close(self._first_ns, self._last_ns, *self._producer.region.kernel_counts())
        self._producer.publish(self._slot, length)
        self._section = None
        if self._dumps is not None and self._dumps.refused:
            omitted, self._dumps.refused = self._dumps.refused, 0
            left = fields(interface=self._opening.interface, packets_left_out=omitted)
            log.log(PACKET, "not shown", extra=left)
        log.log(
            CHUNK,
            "chunk",
            extra=fields(
                interface=self._opening.interface,
                sequence=self._sequence - 1,
                packets=self._packets,
                bytes=length,
                span_ms=round((self._last_ns - self._first_ns) / 1e6, 3),
            ),
        )

    def due_s(self) -> float | None:
        """When the batch is to be published though it is not full, on the monotonic clock; None when that is no use.

        It is none while the uploader is behind: the batch would only join a queue, and take a slot there almost empty.
        So an outage uses up slots by bytes, not by time.
        """
        if self._section is None:
            return None
        waiting = self._producer.region.count - self._producer.free - 1
        return None if waiting > self._busy_batches else self._opened_s + self._max_age_s

    def _dump(self, ts_ns: int, packet: bytes) -> None:
        assert self._dumps is not None  # noqa: S101  for the type checker; the caller has looked
        if self._dumps.take(time.monotonic()):
            omitted, self._dumps.refused = self._dumps.refused, 0
            where = fields(interface=self._opening.interface, ts_ns=ts_ns, bytes=len(packet), packets_left_out=omitted)
            log.log(PACKET, packet.hex(), extra=where)


def rescue(producer: Producer) -> int:
    """Closes and publishes the section that a killed worker was filling; returns the packets saved.

    The supervisor calls it when the worker is dead. Killed in the middle itself, nothing is lost but what dies with it
    anyway. A header that cannot be true is published as it is: the uploader counts it as corrupt.
    """
    orphan = producer.orphan()
    if orphan is None:
        return 0
    if not orphan.packets:
        producer.abandon(orphan.slot)
        return 0
    view = producer.region.slot(orphan.slot)
    if orphan.used > len(view) - pcapng.CLOSING_BYTES:
        producer.publish(orphan.slot, 0)
        return 0
    section = pcapng.Section(view, orphan.used)
    length = section.close(orphan.first_ns, orphan.last_ns, *producer.region.kernel_counts())
    producer.publish(orphan.slot, length)
    return orphan.packets
