"""One stream's books as its batches come in: what judgement.py finds in all rows of a store, a batch at a time. Pure.

A stream may have begun before this process did: then the first batch that is seen is where the count begins, and what
came before it is explained by that batch's own word.
"""

from __future__ import annotations

from typing import NamedTuple

from ossensor.transport.protocol import Account


class Found(NamedTuple):
    """What one batch tells beside its packets."""

    lost_packets: int = 0  # in sequences before it that will not come
    faults: tuple[str, ...] = ()


class StreamBooks:
    """What must be true of the next batch."""

    def __init__(self) -> None:
        self.account: Account | None = None  # the newest
        self._next_sequence: int | None = None
        self._next_packet = 0

    @property
    def is_closed(self) -> bool:
        return self.account is not None and self.account.final == 1

    def take(self, sequence: int, packets: int, account: Account) -> Found:
        """What is found with this batch, which is stored, and the next one in order."""
        faults = []
        first = account.first_packet
        missing = 0
        if self._next_sequence is not None:
            missing = first - self._next_packet
            if missing < 0 or (missing and sequence == self._next_sequence):
                faults.append(f"batch {sequence} begins at packet {first}, and {self._next_packet} came before it")
                missing = 0
        if self.is_closed:
            faults.append(f"batch {sequence} came after the final one")
        self.account, self._next_sequence, self._next_packet = account, sequence + 1, first + packets
        explained = account.kernel_drops + self._next_packet
        if account.final and account.received != explained:
            faults.append(f"{account.received} received, {explained} explained: {account.received - explained} missing")
        return Found(missing, tuple(faults))
