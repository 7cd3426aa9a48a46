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


_OPENED = """
import threading
from ossensor.vsensor import heap
heap.keep()
def memory_kib():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
together = threading.Barrier(6)
def inflate():  # as collector.py has it done by asyncio's threads, of which there are six on two processors
    together.wait()
    return [b"x" * (8 << 20) for _ in range(3)]

def burst():
    threads = [threading.Thread(target=inflate) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

before = memory_kib()
burst()
print(memory_kib() - before, heap.KEPT_BYTES >> 10)
"""


def faults(*, keep: bool) -> int:
    program = _BODIES.replace("KEEP", str(keep))
    return int(subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_a_body_does_not_cost_the_kernel_its_pages_anew() -> None:
    without, kept = faults(keep=False), faults(keep=True)

    print(f"page faults for 100 bodies of 1 MiB: {without} without, {kept} with the heap kept")
    assert kept * 10 < without


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_idle_no_more_is_kept_than_is_said_whichever_threads_had_it() -> None:
    done = subprocess.run([sys.executable, "-c", _OPENED], check=True, capture_output=True, text=True)
    grown_kib, kept_kib = map(int, done.stdout.split())

    print(f"{grown_kib} KiB of 144 MiB that six threads had")
    assert grown_kib <= kept_kib + (4 << 10)  # stacks, and what is still in use
