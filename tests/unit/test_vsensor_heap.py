"""Memory of bodies is used again."""

from __future__ import annotations

import subprocess
import sys

import pytest

_BODIES = """
import resource
from ossensor.vsensor import heap
if KEEP:
    heap.keep()
def window():
    return [bytearray(1 << 20) for _ in range(4)]

window()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(25):
    window()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> int:
    program = _BODIES.replace("KEEP", str(keep))
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_body_does_not_cost_the_kernel_its_pages_anew() -> None:
    without, kept = faults(keep=False), faults(keep=True)

    print(f"page faults for 100 bodies of 1 MiB: {without} without, {kept} with the heap kept")
    assert kept * 10 < without
