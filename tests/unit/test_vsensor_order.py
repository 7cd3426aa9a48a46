"""Order of arrival, order of storing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from test_vsensor_kit import NOW_S, PATIENCE_S, STREAM, Running, Wire, payload, section, stored

from ossensor.transport.protocol import BatchId, Outcome, Stream
from ossensor.vsensor.budget import Budget, Loan
from ossensor.vsensor.collector import Limits
from ossensor.vsensor.order import Lane, Order, Step


class Disk:
    """A store that keeps what it is given, in order, and fails where it is told to."""

    def __init__(self, failing: set[int] | None = None) -> None:
        self.kept: list[int] = []
        self.failing = failing or set()
        self.queue: list[tuple[int, asyncio.Future[Outcome]]] = []

    def next(self, _: Stream) -> int:
        return self.kept[-1] + 1 if self.kept else 0

    def has(self, batch: BatchId) -> bool:
        return batch.sequence in self.kept

    def store(self, sequence: int) -> Callable[[int], Awaitable[Outcome]]:
        def put(floor: int) -> Awaitable[Outcome]:
            future = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(self._commit, sequence, floor, future)
            return future

        return put

    def _commit(self, sequence: int, floor: int, future: asyncio.Future[Outcome]) -> None:
        if sequence in self.failing:
            self.failing.remove(sequence)
            future.set_result(Outcome.STORE_FAILED)
        elif sequence == max(self.next(STREAM), floor):
            self.kept.append(sequence)
            future.set_result(Outcome.STORED)
        else:
            future.set_result(Outcome.OUT_OF_ORDER)


def order(disk: Disk, patience_s: float = 60.0, lanes_max: int = 8) -> Order:
    return Order(disk.next, disk.has, patience_s, lanes_max)


async def place(o: Order, disk: Disk, sequence: int, floor: int = 0) -> Outcome:
    return await o.place(BatchId(STREAM, sequence), floor, disk.store(sequence))


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=4))
def test_a_window_of_eight_is_stored_in_order_whatever_order_it_comes_in(arrivals: list[int], again: list[int]) -> None:
    async def run() -> tuple[list[Outcome], list[int], list[Outcome]]:
        disk = Disk()
        o = order(disk)
        outcomes = await asyncio.gather(*(place(o, disk, s) for s in arrivals))
        repeats = await asyncio.gather(*(place(o, disk, s) for s in again))
        return outcomes, disk.kept, repeats

    outcomes, kept, repeats = asyncio.run(run())

    assert outcomes == [Outcome.STORED] * 8
    assert kept == list(range(8))
    assert repeats == [Outcome.PRESENT] * len(again)


@given(st.permutations([*range(8), *range(8)]))
def test_two_requests_for_one_batch_are_one_stored_and_one_present(arrivals: list[int]) -> None:
    async def run() -> tuple[list[Outcome], list[int]]:
        disk = Disk()
        o = order(disk)
        return await asyncio.gather(*(place(o, disk, s) for s in arrivals)), disk.kept

    outcomes, kept = asyncio.run(run())

    assert kept == list(range(8))
    for sequence in range(8):
        pair = {o.value for o, s in zip(outcomes, arrivals, strict=True) if s == sequence}
        assert pair == {"stored", "present"}


@given(st.permutations(range(8)), st.sets(st.integers(0, 7)))
def test_failures_of_the_disk_never_change_the_order(arrivals: list[int], failing: set[int]) -> None:
    async def run() -> list[int]:
        disk = Disk(failing)
        o = order(disk, patience_s=0)
        todo = set(arrivals)
        while todo:  # as sensors do: again, until acknowledged
            outcomes = await asyncio.gather(*(place(o, disk, s) for s in arrivals if s in todo))
            todo -= {s for s, x in zip([s for s in arrivals if s in todo], outcomes, strict=True) if x.acknowledged}
        return disk.kept

    assert asyncio.run(run()) == list(range(8))


def test_a_successor_waits_for_its_predecessor_only_so_long() -> None:
    async def run() -> tuple[Outcome, list[int]]:
        disk = Disk()
        return await place(order(disk, patience_s=0.01), disk, 1), disk.kept

    assert asyncio.run(run()) == (Outcome.OUT_OF_ORDER, [])


def test_a_floor_skips_what_its_sensor_has_settled_and_wakes_who_waits() -> None:
    async def run() -> tuple[list[Outcome], list[int]]:
        disk = Disk()
        o = order(disk)
        # 5 waits for 3 and 4; then 7 says that everything below 5 is settled: 5 goes, and 6, and 7.
        outcomes = await asyncio.gather(
            place(o, disk, 5, 3), place(o, disk, 7, 5), place(o, disk, 6, 3), place(o, disk, 3, 3)
        )
        return outcomes, disk.kept

    outcomes, kept = asyncio.run(run())

    assert outcomes == [Outcome.STORED, Outcome.STORED, Outcome.STORED, Outcome.MALFORMED]
    assert kept == [5, 6, 7]


def test_what_was_given_up_is_not_said_to_be_present() -> None:
    async def run() -> list[Outcome]:
        disk = Disk()
        o = order(disk)
        return [
            await place(o, disk, 0),
            await place(o, disk, 5, 5),
            await place(o, disk, 0),
            await place(o, disk, 3),
            await place(o, disk, 4, 5),
        ]

    assert asyncio.run(run()) == [
        Outcome.STORED,
        Outcome.STORED,
        Outcome.PRESENT,
        Outcome.MALFORMED,
        Outcome.MALFORMED,
    ]


def test_lanes_are_forgotten_and_read_back_and_never_while_in_use() -> None:
    async def run() -> tuple[list[Outcome], int]:
        streams = [STREAM._replace(interface=f"eth{i}") for i in range(8)]
        disks = {stream: Disk() for stream in streams}
        o = Order(lambda s: disks[s].next(s), lambda b: disks[b.stream].has(b), patience_s=60, lanes_max=2)

        async def one(stream: Stream, sequence: int) -> Outcome:
            return await o.place(BatchId(stream, sequence), 0, disks[stream].store(sequence))

        waiting = [asyncio.ensure_future(one(s, 1)) for s in streams]
        await asyncio.sleep(0)
        outcomes = [await one(s, 0) for s in streams] + [await w for w in waiting]
        outcomes += [await one(s, 2) for s in streams]
        return outcomes, len(o._queues)

    outcomes, lanes = asyncio.run(run())

    assert outcomes == [Outcome.STORED] * 24
    assert lanes <= 2


def test_the_table_of_steps() -> None:
    lane = Lane(3)
    lane.begin(3)
    steps = [(2, 0), (3, 0), (4, 0), (5, 0), (5, 5), (4, 0), (4, 5)]

    assert [lane.judge(sequence, floor) for sequence, floor in steps] == [
        Step.PAST,
        Step.FLYING,
        Step.STORE,
        Step.WAIT,
        Step.STORE,
        Step.PAST,
        Step.CONTRADICTION,
    ]


def test_a_budget_lends_no_more_than_it_has_and_gets_all_of_it_back() -> None:
    budget = Budget(10)
    with budget.loan() as first, budget.loan() as second:
        grown = [first.grow(6), second.grow(5), second.grow(4), first.grow(1), first.grow(0)]
        lent = budget.lent_bytes

    assert (grown, lent, budget.lent_bytes) == ([True, False, True, False, True], 10, 0)


def test_who_waits_for_room_is_served_in_turn_and_who_holds_some_before_the_others() -> None:
    served: list[str] = []

    async def ask(name: str, loan: Loan, amount_bytes: int) -> None:
        with loan:
            assert await loan.grow_in_turn(amount_bytes, 60)
            served.append(name)

    async def scene() -> int:
        budget = Budget(10)
        with budget.loan() as first:
            opener = budget.loan()
            assert (first.grow(7), opener.grow(2)) == (True, True)
            # There is room for the small one, but then the large one might wait for ever.
            wishes = (("large", budget.loan(), 8), ("small", budget.loan(), 1), ("opener", opener, 3))
            tasks = [asyncio.create_task(ask(*wish)) for wish in wishes]
            await asyncio.sleep(0)
            assert (served, budget.lent_bytes) == ([], 9)
        await asyncio.gather(*tasks)
        return budget.lent_bytes

    assert asyncio.run(scene()) == 0
    assert served == ["opener", "large", "small"]


def test_who_waits_no_longer_owes_nothing_and_lets_those_behind_pass() -> None:
    async def scene() -> tuple[list[bool], int]:
        budget = Budget(10)
        with budget.loan() as first, budget.loan() as large, budget.loan() as small, budget.loan() as cancelled:
            assert first.grow(7)
            behind = [asyncio.create_task(large.grow_in_turn(5, 0.01)), asyncio.create_task(small.grow_in_turn(3, 60))]
            results = await asyncio.gather(*behind, first.grow_in_turn(4, 60))
            gone = asyncio.create_task(cancelled.grow_in_turn(2, 60))
            await asyncio.sleep(0)
            with small:  # gives back: what is cancelled now was lent a moment ago
                pass
            gone.cancel()
            await asyncio.wait([gone])
            return results, budget.lent_bytes

    assert asyncio.run(scene()) == ([False, True, False], 7)


def test_a_batch_is_received_once_those_below_it_are_received_too() -> None:
    received: list[int] = []

    async def receive(placed: Order, sequence: int, end: asyncio.Event, floor: int = 0) -> bool:
        async with placed.coming(BatchId(STREAM, sequence), floor) as comes:
            received.append(sequence)
            await end.wait()
            return comes

    async def scene() -> list[bool]:
        placed, end = order(Disk(), patience_s=60), asyncio.Event()
        tasks = []
        for sequence, floor, expected in (
            (2, 0, []),
            (0, 0, [0]),
            (3, 0, [0]),
            (0, 0, [0, 0]),  # the same again: the first may be dead
            (1, 0, [0, 0, 1, 2, 3]),
            (9, 0, [0, 0, 1, 2, 3]),
            (10, 9, [0, 0, 1, 2, 3, 9, 10]),  # 4 to 8 will not come
            (8, 9, [0, 0, 1, 2, 3, 9, 10, 8]),  # to be told that it contradicts itself
        ):
            tasks.append(asyncio.create_task(receive(placed, sequence, end, floor)))
            for _ in range(4):
                await asyncio.sleep(0)
            assert sorted(received) == sorted(expected)
        end.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(scene()) == [True] * 8


def test_a_batch_is_not_received_when_those_below_it_do_not_come() -> None:
    async def scene() -> bool:
        async with order(Disk(), patience_s=0.01).coming(BatchId(STREAM, 1), 0) as comes:
            return comes

    assert asyncio.run(scene()) is False


def test_over_the_wire_more_than_there_is_room_for_waits_and_all_of_it_is_stored(tmp_path: Path) -> None:
    bodies = [section([payload(i, 50_000)]) for i in range(12)]
    limits = Limits(budget_bytes=2 * len(bodies[0]), room_s=60)
    with Running(tmp_path, limits=limits) as running, ThreadPoolExecutor(4) as pool:
        wires = [Wire(running.port, running.pair.certificate) for _ in range(4)]

        def sent(wire: Wire, sequence: int) -> Outcome | None:
            """As a sensor does: on a machine that stalls, a predecessor may come too late."""
            while True:
                outcome = wire.send(running.signer.message(sequence, bodies[sequence])).outcome
                if outcome is not Outcome.OUT_OF_ORDER:
                    return outcome

        # Each wire has its batches in their order, and each round all wires: a sensor's window.
        outcomes = [list(pool.map(sent, wires, range(at, at + 4))) for at in range(0, len(bodies), 4)]
        for wire in wires:
            wire.close()
        assert running.collector.budget.lent_bytes == 0

    assert outcomes == [[Outcome.STORED] * 4] * 3
    assert stored(tmp_path) == bodies


def test_over_the_wire_a_shuffled_window_is_stored_in_order(tmp_path: Path) -> None:
    generator = random.Random(8)
    bodies = [section([payload(i, generator.randint(14, 3000))]) for i in range(64)]
    with Running(tmp_path) as running, ThreadPoolExecutor(8) as pool:
        running.collector._order._patience_s = PATIENCE_S
        wires = [Wire(running.port, running.pair.certificate) for _ in range(8)]
        outcomes = []
        for start in range(0, 64, 8):
            window = list(range(start, start + 8))
            generator.shuffle(window)
            messages = [running.signer.message(i, bodies[i], created_s=NOW_S) for i in window]
            answers = [pool.submit(w.send, m) for w, m in zip(wires, messages, strict=True)]
            outcomes += [a.result().outcome for a in answers]
        for wire in wires:
            wire.close()

    assert outcomes == [Outcome.STORED] * 64
    assert stored(tmp_path) == bodies
