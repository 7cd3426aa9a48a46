"""Packets into slots: where one batch ends and the next begins.

Invariant: `room()` units (a packet of the largest size, a ring's block) can be added whatever they hold, so a packet
that the engine has taken out of the kernel always has a place; and after `commit` every added packet is in a slot's
committed part, in the same store as the count of ring blocks that it came from.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Final

from ossensor import pcapng
from ossensor.capture.engine import Grown, Place
from ossensor.logs import CHUNK, PACKET, fields
from ossensor.ratelimit import Bucket
from ossensor.region import MOST_BLOCKS, Commit
from ossensor.slots import Closing, Producer

log = logging.getLogger(__name__)

# Level 5 shows what crosses, it does not record it: 100 packets a second are more than anyone reads.
_DUMPS_PER_S: Final = 100.0


# The commit word counts blocks in 16 bits. A block in a slot takes up 32 bytes at least, so it takes an outage of hours
# on a link with a packet now and then to get here; half of what fits leaves a ring's worth of room.
_MANY_BLOCKS: Final = MOST_BLOCKS // 2

# While so many of one interface wait, a batch is published when it is full and not by its age. Fewer than the uploader
# sends at once, and than those that the spool leaves alone (overflow.py: half of the slots): or an outage at a trickle
# would fill the disk with tiny files.
_UPLOADER_BUSY_BATCHES: Final = 3


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
    """The batch being filled, if any: an engine's Sink."""

    def __init__(
        self, producer: Producer, epoch: bytes, opening: Opening, max_age_s: float, unit_bytes: int | None = None
    ) -> None:
        self._producer = producer
        self._epoch = epoch
        self._opening = opening
        self._filter_version = -1
        self._prologue = b""
        self._unit_bytes = unit_bytes or pcapng.largest_block(opening.snaplen)
        self._max_age_s = max_age_s
        self._slot = 0
        self._section: pcapng.Section | None = None
        self._packets = 0
        self._blocks = 0
        self._first_ns = 0
        self._last_ns = 0
        self._opened_s = 0.0
        self._uncommitted = False
        self._dumps = Bucket(_DUMPS_PER_S, int(_DUMPS_PER_S)) if log.isEnabledFor(PACKET) else None
        self._longest_prologue = opening.prologue("x" * pcapng.LONGEST_FILTER_BYTES)
        self._section_bytes = self._per_slot = 0
        self._look_at_limit()
        self._busy_batches = min(_UPLOADER_BUSY_BATCHES, producer.region.count // 2 - 1)

    def _look_at_limit(self) -> None:
        """How long sections may become. Where room is promised, and not where a section begins: the promise holds."""
        if (limit := self._producer.region.section_bytes()) != self._section_bytes:
            self._section_bytes = limit
            self._per_slot = pcapng.blocks_in_empty_section(limit, self._longest_prologue, self._unit_bytes)
            if self._per_slot < 1:
                raise AssertionError("a slot cannot hold one unit of the largest size")

    def room(self) -> int:
        """Units that can be added now even if each is as large as it may be."""
        self._look_at_limit()
        rest = self._section.blocks_that_fit(self._unit_bytes) if self._section is not None else 0
        return rest + self._producer.free * self._per_slot

    # -- packet by packet -----------------------------------------------------------------------------------------

    def add(self, ts_ns: int, packet: bytes, original_length: int) -> None:
        """Adds one packet; begins the next slot when this one is full. The caller has asked `room` before."""
        section = self._section or self._begin()
        if not section.add(ts_ns, packet, original_length):
            self.publish()
            section = self._begin()
            if not section.add(ts_ns, packet, original_length):
                raise AssertionError("room() promised that this packet fits")
        self._spans(ts_ns, ts_ns)
        self._packets += 1
        self._uncommitted = True
        if self._dumps is not None:
            self._dump(ts_ns, packet)

    def commit(self) -> None:
        """Makes what was added survive this process. Called after every read."""
        if self._section is not None and self._uncommitted:
            commit = Commit(self._section.used, self._packets, self._blocks)
            self._producer.commit(self._slot, commit, self._first_ns, self._last_ns)
            self._uncommitted = False

    # -- or in runs, written by the engine ------------------------------------------------------------------------

    def place(self) -> Place | None:
        section = self._section
        if section is None:
            if not self._producer.free:
                return None
            self._look_at_limit()
            section = self._begin()
        return Place(section.view, section.used, section.room)

    def grown(self, grown: Grown) -> None:
        section = self._section
        if section is None:
            raise AssertionError("grown() follows place()")
        if self._dumps is not None:
            for packet in pcapng.packets(section.view[section.used : grown.used]):
                self._dump(packet.ts_ns, packet.data)
        section.used = grown.used
        if grown.packets:
            self._spans(grown.first_ns, grown.last_ns)
        self._packets += grown.packets
        self._blocks += grown.blocks
        self._uncommitted = True
        self.commit()

    # -- both -----------------------------------------------------------------------------------------------------

    def _spans(self, first_ns: int, last_ns: int) -> None:
        """Takes in the times of packets that are not counted yet; a clock that is set puts them out of order."""
        self._first_ns = min(self._first_ns, first_ns) if self._packets else first_ns
        self._last_ns = max(self._last_ns, last_ns) if self._packets else last_ns

    def _begin(self) -> pcapng.Section:
        # While a filter is being written, the old one serves for this section, or none where there is no old one; the
        # next section looks again.
        region = self._producer.region
        if region.filter_version != self._filter_version:
            if (written := region.filter_text()) is not None:
                self._filter_version, text = written
                self._prologue = self._opening.prologue(text)
            elif not self._prologue:
                self._prologue = self._opening.prologue("")
        self._slot = self._producer.begin(self._epoch)
        self._section = pcapng.Section.open(self._view(), self._prologue)
        self._packets = self._blocks = 0
        self._first_ns = self._last_ns = 0
        self._opened_s = time.monotonic()
        return self._section

    def _view(self) -> memoryview:
        return self._producer.region.slot(self._slot)[: self._section_bytes]

    def publish(self) -> None:
        """Hands the batch, if there is one, to the uploader."""
        if self._section is not None:
            self._close(self._section, final=False)

    def finish(self) -> None:
        """The epoch is over: its last section says so, and has its last counts, if only a slot is free for it."""
        if self._section is None and self._producer.free:
            self._begin()
            self._first_ns = self._last_ns = time.time_ns()
            self._uncommitted = True
        if self._section is not None:
            self._close(self._section, final=True)

    def _close(self, section: pcapng.Section, *, final: bool) -> None:
        self.commit()
        region = self._producer.region
        received, kernel_drops = region.last_counts() if final else region.kernel_counts()
        length = section.close(self._first_ns, self._last_ns, received, kernel_drops)
        self._producer.publish(self._slot, Closing(length, received, kernel_drops, final))
        self._section = None
        if self._dumps is not None and self._dumps.refused:
            omitted, self._dumps.refused = self._dumps.refused, 0
            left = fields(interface=self._opening.interface, packets_left_out=omitted)
            log.log(PACKET, "not shown", extra=left)
        if log.isEnabledFor(CHUNK):
            log.log(
                CHUNK,
                "chunk",
                extra=fields(
                    interface=self._opening.interface,
                    sequence=self._producer.sequence - 1,
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
        if self._blocks >= _MANY_BLOCKS:
            return 0.0
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
    commit = orphan.commit
    if not commit.packets and not orphan.final:
        producer.abandon(orphan.slot)
        return 0
    view = producer.region.slot(orphan.slot)
    if commit.used_bytes > len(view) - pcapng.CLOSING_BYTES:
        producer.publish(orphan.slot, Closing(0))
        return 0
    section = pcapng.Section(view, commit.used_bytes)
    region = producer.region
    received, kernel_drops = region.last_counts() if orphan.final else region.kernel_counts()
    length = section.close(orphan.first_ns, orphan.last_ns, received, kernel_drops)
    producer.publish(orphan.slot, Closing(length, received, kernel_drops, orphan.final))
    return commit.packets
