"""How the ports of one sensor capture: what of the settings is the same for each of them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# The kernel hands over a block at the latest after this; half a batch's age leaves the other half to the worker.
_BLOCK_TIMEOUT_MAX_MS: Final = 100


@dataclass(frozen=True)
class Recipe:
    """How every port of one sensor captures."""

    engine: str
    batch_ms: int
    snaplen: int
    complete_checksums: bool
    application: str

    @property
    def block_timeout_ms(self) -> int:
        return min(_BLOCK_TIMEOUT_MAX_MS, max(1, self.batch_ms // 2))
