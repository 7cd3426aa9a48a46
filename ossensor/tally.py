"""The supervisor's part of one interface's books: of the present epoch, of all, and as the control page has them.

Invariant: the page has what is counted here, at once, so that whoever shows it, or goes on in another life of the
sensor, sees the same; but for one reading of the kernel's counts, which the page says is under way (region.Reading).
"""

from __future__ import annotations

from collections import Counter

from .accounting import Reason
from .region import Region


class Tally:
    """`own`: drops that the supervisor counts."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self.received = self.kernel_drops = 0
        self.own: Counter[Reason] = Counter()
        self.epoch_received = self.epoch_drops = 0

    def take_up(self) -> None:
        """Where another life of the sensor was when it ended."""
        region = self._region
        self.received, self.kernel_drops, own = region.totals()
        self.own.update(own)
        self.epoch_received, self.epoch_drops = region.kernel_counts()
        region.take_up_reading()

    def begin_epoch(self) -> None:
        self.epoch_received = self.epoch_drops = 0
        self._region.begin_epoch()
        self._show()

    def add(self, received: int, drops: int) -> None:
        """A reading of the kernel's counts."""
        self.received += received
        self.kernel_drops += drops
        self.epoch_received += received
        self.epoch_drops += drops
        if self._region.reading_lost:
            self._find_lost_reading(0)
        self._region.set_kernel_counts(self.epoch_received, self.epoch_drops)
        self._show()

    @property
    def uncommitted(self) -> int:
        """Packets of the epoch that no worker has committed, by subtraction."""
        return self.epoch_received - self.epoch_drops - self._region.committed_in_epoch()

    def lose(self, lost: int, reason: Reason) -> None:
        """What the epoch leaves behind at its end."""
        self.own[reason] += lost
        if self._region.reading_lost:
            self._find_lost_reading(lost)
        self._show()

    def _find_lost_reading(self, lost: int) -> None:
        """Adds to what was received what is missing there: what is committed, or counted as lost, was.

        So no count is below nothing meanwhile, and at the end, when every packet is one or the other, none is missing.
        In such an epoch alone, or it would hide that a packet was counted twice. What the kernel dropped in the
        second of that reading stays unknown. By epoch and in all: the kill may have come between the two.
        """
        of_epoch = self._region.committed_in_epoch() + lost
        self.epoch_received = max(self.epoch_received, self.epoch_drops + of_epoch)
        of_all = self._region.committed() + self.own.total()
        self.received = max(self.received, self.kernel_drops + of_all)

    def _show(self) -> None:
        self._region.set_totals(self.received, self.kernel_drops, self.own)
