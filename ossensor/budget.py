"""OSSENSOR_MEMORY_MB, shared out among interfaces: how much ring and how many slots each of them gets. Pure.

Invariant: what is given out never exceeds the total, and nobody gets less than the floor; so with descriptors, a dozen
each or nothing. A share never changes: ring and slots are allocated when capture begins, and resizing them would mean
to stop it.

Interfaces that come at the same time get equal shares. The first ones may take everything; those that come later get at
most half of what is left then, so that something stays for the next ones, until only floors are left.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Final

_MB: Final = 1 << 20
# Four blocks of ring, and two slots: one to fill while the other is on its way.
_FLOOR_RING_MB: Final = 1
_FLOOR_BUFFER_MB: Final = 2
FLOOR_MB: Final = _FLOOR_RING_MB + _FLOOR_BUFFER_MB

# A slot is what a full batch is. One costs some 60 us of Python beside its bytes in the worker, whose code has left the
# caches meanwhile [M: 80 ns a packet of 1400 bytes at 1 MiB], and half a millisecond in the uploader: hence 4 MiB. But
# four are under way at a time, and as many should be free to fill, or capture waits for the vSensor: hence an eighth.
_SLOT_MAX_BYTES: Final = 4 * _MB
_SLOT_MIN_BYTES: Final = _MB
_SLOTS: Final = 8

# An interface has ten in the supervisor for good (memory, socket, four pipe ends, heartbeat, the child's), and two
# while a filter is compiled. Beside them: a dozen of the supervisor's own, and what a fork needs for a moment. Without
# this limit all interfaces would take the first half of what they need, and none would get its second.
_DESCRIPTORS_EACH: Final = 12
_DESCRIPTORS_OURS: Final = 32


@dataclass(frozen=True)
class Share:
    """One interface's."""

    ring_bytes: int
    buffer_bytes: int

    @property
    def mb(self) -> int:
        return (self.ring_bytes + self.buffer_bytes) // _MB

    @property
    def slots(self) -> int:
        """Into how many the buffer is divided, so that each is 1 to 4 MiB, less its part of the control page.

        That is how large a batch may grow. How large it does grow follows the load.
        """
        slot_bytes = min(_SLOT_MAX_BYTES, max(_SLOT_MIN_BYTES, self.buffer_bytes // _SLOTS // _MB * _MB))
        return self.buffer_bytes // slot_bytes


class Budget:
    """All of it. Interfaces are known by any key."""

    def __init__(self, total_mb: int, ring_mb: int, buffer_mb: int, descriptors: int | None = None) -> None:
        """`descriptors`: how many files this process may have open (RLIMIT_NOFILE); None for no limit."""
        self._total_mb = total_mb
        self._descriptors = descriptors
        self._ring_mb = ring_mb
        self._wanted_mb = ring_mb + buffer_mb
        self._given: dict[Hashable, Share] = {}

    @property
    def left_mb(self) -> int:
        return self._total_mb - sum(share.mb for share in self._given.values())

    def grant(self, keys: Iterable[Hashable]) -> dict[Hashable, Share]:
        """Shares for newcomers of one moment; those for whom not even the floor is left are not in it."""
        waiting = list(keys)
        left_mb = self.left_mb
        # Whole floors of all who fit, before anyone gets more.
        waiting = waiting[: min(left_mb // FLOOR_MB, self._left_by_descriptors(len(waiting)))]
        if not waiting:
            return {}
        for_all_mb = max(left_mb if not self._given else left_mb // 2, FLOOR_MB * len(waiting))
        granted: dict[Hashable, Share] = {}
        for already, key in enumerate(waiting):
            equal_mb = for_all_mb // (len(waiting) - already)
            share = self._split(max(FLOOR_MB, min(self._wanted_mb, equal_mb)))
            granted[key] = share
            for_all_mb -= share.mb
        self._given |= granted
        return granted

    def inherited(self, key: Hashable, share: Share) -> None:
        """Memory that is given out already, by the predecessor of this process."""
        self._given[key] = share

    def _left_by_descriptors(self, wanted: int) -> int:
        if self._descriptors is None:
            return wanted
        return max(0, (self._descriptors - _DESCRIPTORS_OURS) // _DESCRIPTORS_EACH - len(self._given))

    def _split(self, mb: int) -> Share:
        """In the proportion that was asked for, each part at least its floor."""
        ring_mb = min(max(_FLOOR_RING_MB, mb * self._ring_mb // self._wanted_mb), mb - _FLOOR_BUFFER_MB)
        return Share(ring_mb * _MB, (mb - ring_mb) * _MB)

    def give_back(self, key: Hashable) -> None:
        """The interface's memory is free again."""
        self._given.pop(key, None)

    def refusal(self) -> str:
        """Why an interface got nothing, for people."""
        if not self._left_by_descriptors(1):
            return (
                f"not captured, no file descriptors are left: the limit (RLIMIT_NOFILE, LimitNOFILE=) is"
                f" {self._descriptors}, {_DESCRIPTORS_EACH} for each interface and {_DESCRIPTORS_OURS} beside"
            )
        return (
            f"not captured, no memory is left: OSSENSOR_MEMORY_MB={self._total_mb} is given out to"
            f" {len(self._given)} interfaces, and each needs {FLOOR_MB} MiB at least"
        )
