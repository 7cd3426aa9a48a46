"""Put first on a program's PYTHONPATH: its wall clock is off by as many seconds as the file CLOCK_OFF says at the time.

The kernel has one wall clock for the whole machine (its time namespaces have none of their own), so this is what `date`
would do to the program, and to nothing else. Forks share the file; a file descriptor is not needed any more.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_wall = time.time
_file = os.open(os.environ["CLOCK_OFF"], os.O_RDONLY)
_off = mmap.mmap(_file, 8, prot=mmap.PROT_READ)
os.close(_file)


def _shifted() -> float:
    return _wall() + struct.unpack("d", _off)[0]


time.time = _shifted
