"""Unix time that is never set. Pure but for two readings of the kernel's clocks."""

from __future__ import annotations

import time
from collections.abc import Callable


def steady_clock() -> Callable[[], float]:
    """Unix time that never runs backwards: the wall clock at this call, and from then on the time since boot.

    Signatures bear a time, and a clock that somebody sets would make old ones good again at the vSensor, whose nonces
    were forgotten, and new ones bad at the sensor, whose offset was learnt against the old setting. Both ends agree on
    the vSensor's time, so being steady is worth more than being right. CLOCK_BOOTTIME is slewed by NTP, so it keeps
    pace, and it counts while the machine is suspended.
    """
    offset_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    return lambda: offset_s + time.clock_gettime(time.CLOCK_BOOTTIME)
