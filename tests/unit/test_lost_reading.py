"""The kernel sets its counts back when they are read, and the supervisor is killed before it has them written down.

Where a service manager keeps the capture, its next life goes on; when the epoch closes, nothing that was captured is
missing from what was received, in the supervisor's books and in the last section. What the kernel dropped may be.
"""

from __future__ import annotations

import os
import signal

import pytest
from inherited_port import PACKETS, a_port, a_ring, batches, finish, legacy_of, silent_kernel

from ossensor.accounting import Reason
from ossensor.capture.bpf import Statistics
from ossensor.port import Port

DROPS = 2


def _killed_reading(port: Port, step: int) -> bool:
    """A supervisor reads the counts, and is killed at its store number `step`; False when it had fewer."""
    pid = os.fork()
    if not pid:
        left, store = [step], port.region.set_control

        def mortal(word: int, value: int) -> None:
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
            store(word, value)

        try:
            port.region.set_control = mortal  # type: ignore[method-assign]
            port.read_statistics()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("worker_finishes", [True, False])
@pytest.mark.parametrize("epochs_before", [0, 1])
def test_killed_at_any_store_of_a_reading_the_books_balance_in_the_end(
    monkeypatch: pytest.MonkeyPatch, epochs_before: int, *, worker_finishes: bool
) -> None:
    steps, killed, seen = 0, True, set()
    while killed:
        readings: list[Statistics] = []
        silent_kernel(monkeypatch, readings)
        port, ring = a_port(), a_ring()
        for _ in range(epochs_before):
            port._adopt(a_ring())
            readings.append(Statistics(PACKETS + 1, 1))
            port._close_epoch(Reason.INTERFACE_GONE)
        port._adopt(ring)
        readings.append(Statistics(PACKETS + DROPS, DROPS))
        killed = _killed_reading(port, steps)
        if steps:  # the kernel was asked after the first store
            readings.clear()
        legacy = legacy_of(port, ring, monkeypatch)
        heir = a_port(legacy)
        heir.read_statistics()
        if worker_finishes:
            finish(heir, ring)
            (last,) = batches(heir)
            assert (last.final, last.received - last.kernel_drops) == (True, PACKETS), f"killed at store {steps}"
        heir._close_epoch(Reason.SHUTDOWN)
        books = heir.books()

        assert books.missing == 0, f"killed at store {steps}: {books}"
        assert heir._tally.epoch_received - heir._tally.epoch_drops == PACKETS
        seen.add(books.kernel_drops - epochs_before)
        for one in (port, heir):
            one.close()
        legacy.socket.close()
        steps += 1
    print(steps, "steps; drops by the kernel that are known:", seen)
    assert (steps > 5, seen) == (True, {0, DROPS})


def test_in_an_epoch_whose_readings_are_whole_a_packet_counted_twice_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = [Statistics(PACKETS - 1, 0)]
    silent_kernel(monkeypatch, readings)
    port, ring = a_port(), a_ring()
    port._adopt(ring)
    port.read_statistics()
    legacy = legacy_of(port, ring, monkeypatch)
    heir = a_port(legacy)
    heir._close_epoch(Reason.SHUTDOWN)

    assert heir.books().missing == -1
    for one in (port, heir):
        one.close()
    legacy.socket.close()
