"""A worker that is killed once it has closed its epoch's last section has no successor, in this life or the next.

A successor would find nothing, close a last section of its own, and the vSensor's audit would call that one false.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

import pytest
from inherited_port import ETH0, PACKETS, RECIPE, a_port, a_ring, batches, finish, legacy_of, silent_kernel
from test_ring_engine import FakeRing

from ossensor.accounting import Reason
from ossensor.capture.bpf import Statistics
from ossensor.children import Event, State
from ossensor.errors import Exit
from ossensor.legacy import Legacy
from ossensor.port import Port
from ossensor.region import Header, Region
from ossensor.region import State as Slot
from ossensor.roster import Roster
from ossensor.slots import Producer
from ossensor.systemd.fdstore import Store
from ossensor.workers.capture import CaptureWorker, Plan


@pytest.fixture
def ring() -> FakeRing:
    return a_ring()


@pytest.fixture
def port(ring: FakeRing, monkeypatch: pytest.MonkeyPatch) -> Iterator[Port]:
    """It captures, and its worker has been asked to finish."""
    silent_kernel(monkeypatch, [Statistics(PACKETS, 0)])
    made = a_port()
    made._adopt(ring)
    made.child.started(0.0)
    made.child.step(Event.STOP)
    made.process = Mock(struck=lambda _: True)
    made._heartbeat.reading()
    made.read_statistics()
    yield made
    made.close()


def _killed(port: Port, ring: FakeRing, *, at: Slot | None) -> None:
    """A worker finishes, and is killed where its slot is to get this state; None: before it leaves."""
    pid = os.fork()
    if not pid:
        try:
            region = Region(port.region.fd)
            store = region.set_header

            def set_header(slot: int, word: int, value: int) -> None:
                if (word, value) == (Header.STATE, at):
                    os.kill(os.getpid(), signal.SIGKILL)
                store(slot, word, value)

            region.set_header = set_header  # type: ignore[method-assign]
            finish(port, ring, region)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def _batches(port: Port) -> list[tuple[int, int, bool]]:
    return [(batch.sequence, batch.packets, batch.final) for batch in batches(port)]


@pytest.mark.parametrize("at", [pytest.param(Slot.READY, id="before READY"), pytest.param(None, id="after READY")])
def test_a_worker_killed_in_the_drain_when_it_had_finished_has_no_successor(
    port: Port, ring: FakeRing, at: Slot | None
) -> None:
    _killed(port, ring, at=at)
    forge = Mock()

    lost = port.ended(-signal.SIGKILL, forge)

    assert (lost, port.child.state, port.capturing, forge.mock_calls) == (0, State.STOPPED, False, [])
    assert _batches(port) == [(0, PACKETS, True)]
    assert port.books().counts() == {"received": PACKETS, "kernel_drops": 0, "delivered": 0, "in_flight": PACKETS}


def test_a_worker_killed_in_the_drain_before_it_finished_has_one(port: Port, ring: FakeRing) -> None:
    _killed(port, ring, at=Slot.FILLING)
    forge = Mock()
    forge.spawn.return_value = Mock(struck=lambda _: True)

    assert port.ended(-signal.SIGKILL, forge) == 0
    assert (port.child.state, forge.spawn.call_count, _batches(port)) == (State.DRAINING, 1, [])


class Asked:
    """SIGTERM has come."""

    def fileno(self) -> int:
        return self._read

    def __init__(self) -> None:
        self._read, write = os.pipe()
        os.close(write)  # readable for ever
        self._told = False

    def take(self) -> set[int]:
        told, self._told = self._told, True
        return set() if told else {signal.SIGTERM}


@pytest.mark.parametrize("filter_is_shut", [True, False])
def test_a_worker_closes_the_epoch_only_if_the_supervisor_has_shut_the_filter(
    port: Port, ring: FakeRing, monkeypatch: pytest.MonkeyPatch, *, filter_is_shut: bool
) -> None:
    """A SIGTERM may come from elsewhere, to the worker alone or to all of the group."""
    asked = Asked()
    monkeypatch.setattr(ring, "fileno", asked.fileno)
    monkeypatch.setattr(ring, "gather", lambda _: None)
    if filter_is_shut:
        port._shut_for_good()
    plan = Plan("eth0", 1, port._epoch, "test", batch_s=10.0, snaplen=262_144, block_timeout_s=0.01)
    producer = Producer(port.region, port.pipes.ready_write, port.pipes.free_read)
    signals: Any = asked

    assert CaptureWorker(plan, ring, producer, port._heartbeat).run(signals) is Exit.DRAINED
    assert (_batches(port), port.region.finished(port._epoch)) == ([(0, PACKETS, filter_is_shut)], filter_is_shut)
    os.close(asked.fileno())


def test_what_is_left_in_the_ring_is_counted_when_no_other_life_can_count_it_too(
    port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as it gives the capture back, the supervisor leaves books in which nothing of the ring is."""
    left_behind: list[int] = []
    monkeypatch.setattr(port._store, "forget", lambda _: left_behind.append(port.region.totals()[2][Reason.SHUTDOWN]))

    lost = port._close_epoch(Reason.SHUTDOWN)

    assert (lost, left_behind, port.region.totals()[2][Reason.SHUTDOWN]) == (PACKETS, [0], PACKETS)


def test_the_mark_of_one_epoch_says_nothing_about_the_next(port: Port, ring: FakeRing) -> None:
    _killed(port, ring, at=None)
    before = port._epoch
    port._adopt(ring)

    assert (port.region.finished(before), port.region.finished(port._epoch)) == (True, False)


@pytest.mark.parametrize("at", [pytest.param(Slot.READY, id="before READY"), pytest.param(None, id="after READY")])
def test_an_epoch_that_an_earlier_life_had_finished_is_closed_and_gets_no_worker(
    port: Port, ring: FakeRing, at: Slot | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    _killed(port, ring, at=at)
    legacy = legacy_of(port, ring, monkeypatch)
    monkeypatch.setattr(Legacy, "alive", True)
    roster = Roster.__new__(Roster)  # all that taking over touches
    roster._legacies, roster._next_queue, roster._recipe, roster._ports = [legacy], 1, RECIPE, {}
    roster._section_bytes, roster._store = 0, Store({})
    roster._gate, roster._budget, roster._uplink, start = Mock(program=lambda _: b""), Mock(), Mock(), Mock()
    roster._gate.bank.described = ""
    monkeypatch.setattr(roster, "start_worker", start)

    roster._inherit({1: ETH0})
    (heir,) = roster.ports()

    assert (heir.capturing, heir.child.state, start.mock_calls) == (False, State.IDLE, [])
    assert _batches(heir) == [(0, PACKETS, True)]
    assert heir.books().counts() == {"received": PACKETS, "kernel_drops": 0, "delivered": 0, "in_flight": PACKETS}
    legacy.socket.close()
    heir.close()
