"""How long the uploader goes on after it was told to finish. Pure: a clock and byte counts in.

It ends early when nothing moved for a while: a vSensor that is not there keeps nobody waiting, and with the workers'
drain before it the whole stop stays under five seconds. A slow line that moves is waited for; the supervisor's deadline
is above all of it.
"""

from __future__ import annotations

from typing import Final

_PATIENCE_S: Final = 2.5
# What a slow line must get across for that to be a move; more than a handshake or two.
_MOVE_BYTES: Final = 64 << 10
# Attempts that are under way when the drain is over keep their slots until they fail: connecting takes 5 s to do so.
_RESCUE_S: Final = 4.0
LOOK_S: Final = 0.25  # how often it is looked whether anything moves


class Drain:
    """From its construction on. `rescuing`: what is left goes to the disk now."""

    def __init__(self, now_s: float) -> None:
        self._since_s = now_s
        self._moved_bytes = 0
        self.rescuing = False

    def moved(self, now_s: float) -> None:
        """Something was acknowledged, or answered."""
        self._since_s = now_s

    def over(self, now_s: float, acknowledged_bytes: int, *, can_rescue: bool) -> bool:
        """With something left: whether it is waited for no more. `acknowledged_bytes`: by the peer's TCP, so far."""
        if acknowledged_bytes >= self._moved_bytes + _MOVE_BYTES:
            self._moved_bytes = acknowledged_bytes
            self._since_s = now_s
        # A connection that was replaced begins at nothing again.
        self._moved_bytes = min(self._moved_bytes, acknowledged_bytes)
        if now_s - self._since_s <= _PATIENCE_S:
            return False
        if self.rescuing or not can_rescue:
            return True
        self.rescuing = True
        self._since_s = now_s + _RESCUE_S
        return False
