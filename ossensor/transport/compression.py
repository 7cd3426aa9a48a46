"""Whether a batch is compressed, and how much: decided by what the last sample of its interface gained, unless told.

Most traffic is encrypted already; measured, zstd 1 shrinks mixed traffic to 1/1.48 and encrypted traffic to 1/1.11 at
some 700 MB/s. Where a sample does not shrink to 1/1.2, the next batches go as they are, and one in sixteen is tried
again.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import zstandard

_AUTO_LEVEL: Final = 1  # levels 3 and 9 gain 3 to 5 % more for two to six times the time
# Between the two above. Compressing adds half to what a batch costs the processor (bench/forward.py: 680 ns to 1,500 a
# packet of 661 bytes); for the tenth that headers of encrypted traffic give, that is a bad bargain.
_WORTH_RATIO: Final = 1.2
_SAMPLE_EVERY: Final = 16
# Below this a batch costs its request, not its bytes.
_SMALLEST_BYTES: Final = 512


class Policy(NamedTuple):
    """What OSSENSOR_COMPRESSION asks for."""

    level: int  # of zstd; 0: nothing is compressed
    always: bool  # False: samples decide

    @classmethod
    def parse(cls, text: str) -> Policy:
        """`auto`, `off`, or a level from 1 to 19. ValueError for anything else."""
        levels = {str(level): cls(level, always=True) for level in range(1, 20)}
        known = {"auto": cls(_AUTO_LEVEL, always=False), "off": cls(0, always=False), **levels}
        if text not in known:
            raise ValueError("")
        return known[text]


AUTO: Final = Policy.parse("auto")


class Advice:
    """One interface's record. Called from the uploader's main thread only."""

    def __init__(self, policy: Policy = AUTO) -> None:
        self._policy = policy
        self._ratio = 2.0  # optimistic: the first batch is a sample
        self._skipped = 0

    def worth_trying(self, section_bytes: int) -> bool:
        if section_bytes < _SMALLEST_BYTES or not self._policy.level:
            return False
        if self._policy.always or self._ratio >= _WORTH_RATIO:
            return True
        self._skipped += 1
        if self._skipped < _SAMPLE_EVERY:
            return False
        self._skipped = 0
        return True

    def learn(self, section_bytes: int, compressed_bytes: int) -> None:
        self._ratio = section_bytes / max(1, compressed_bytes)


def compressor(policy: Policy = AUTO) -> zstandard.ZstdCompressor:
    """One per thread: a compressor keeps state between calls.

    And memory: as much as the largest batch so far took, 1.4 MiB at most at level 1, 70 MiB at 15.
    """
    return zstandard.ZstdCompressor(level=policy.level)
