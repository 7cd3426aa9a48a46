"""Which batches have to wait for one that is still on its way, and which wait for one that will never come. Pure.

A partition's messages lie in the stream in the order of each capture stream. They are delivered in another one when a
consumer died with some in hand: those come again later, and what follows them comes first. So a batch without its
predecessor is put back. But a sensor may have given the predecessor up, or it went to another store; then nothing of it
is in the stream, and the batch must not wait for ever.

The floor that came with the batch does not tell the two apart: it says what the sensor has settled, which begins with
the stream's acknowledgement, long before ours. What tells is the server: when everything that it waits for an
acknowledgement of is known here as put back, then nothing is on its way any more.
"""

from __future__ import annotations

from collections.abc import Mapping

from ossensor.transport.protocol import BatchId, Stream


class PutBack:
    """What was put back in one partition, by its place in the JetStream stream."""

    def __init__(self) -> None:
        self._early: dict[int, BatchId] = {}
        self._orphans: set[int] = set()

    def __len__(self) -> int:
        return len(self._early)

    def put(self, place: int, batch: BatchId) -> None:
        self._early[place] = batch

    def done(self, place: int) -> None:
        self._early.pop(place, None)
        self._orphans.discard(place)

    def is_orphan(self, place: int) -> bool:
        """Whether it may be stored though its predecessor is not there."""
        return place in self._orphans

    def ask(self, unacknowledged: int, delivered_to: int) -> None:
        """The server says how many messages it waits for, and up to which place it has delivered."""
        if not self._early or unacknowledged != len(self._early) or delivered_to < max(self._early):
            return
        self._orphans = set(_lowest(self._early).values())


def _lowest(early: Mapping[int, BatchId]) -> dict[Stream, int]:
    """Of each capture stream, the place of its lowest sequence."""
    found: dict[Stream, int] = {}
    for place, batch in early.items():
        rival = found.get(batch.stream)
        if rival is None or batch.sequence < early[rival].sequence:
            found[batch.stream] = place
    return found
