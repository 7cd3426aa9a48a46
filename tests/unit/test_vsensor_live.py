"""The live state: what is shown after what came in, and that it stays small whatever comes in."""

from __future__ import annotations

import json
import random
import sys
from typing import Any

import pytest

from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Report
from ossensor.transport.protocol import Account, BatchId, Stream
from ossensor.vsensor import live
from ossensor.vsensor.live import Live, Rates
from ossensor.vsensor.section import Span
from ossensor.vsensor.streambooks import StreamBooks

START_S = 1_795_000_000.0
EPOCH = "0" * 31
SECOND_NS = 10**9


class Scene:
    """A live state, its clock, and sensors that send batches of ten packets and a thousand bytes."""

    def __init__(self) -> None:
        self.now_s = START_S
        self.live = Live(lambda: self.now_s)

    def batch(
        self, sequence: int = 0, *, sensor: str = "s", interface: str = "eth0", epoch: str = "a", **account: int
    ) -> None:
        books = Account(**{"first_packet": 10 * sequence, **account})
        batch = BatchId(Stream(sensor, EPOCH + epoch, interface), sequence)
        newest_ns = int(self.now_s * 1e9) - SECOND_NS // 4
        self.live.stored(batch, 10, 1000, books, Span(newest_ns - SECOND_NS, newest_ns))

    def interface(self) -> dict[str, Any]:
        found: dict[str, Any] = self.live.snapshot()["sensors"]["s"]["interfaces"]["eth0"]
        return found

    def judged(self) -> tuple[str, int, int]:
        shown = self.interface()
        return shown["verdict"], shown["lost_packets"], shown["faults"]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_nothing_was_heard_at_first(scene: Scene) -> None:
    assert scene.live.snapshot() == {
        "time_s": START_S,
        "since_s": START_S,
        "rate_window_s": 5,
        "sensors": {},
        "forgotten_sensors": 0,
        "forgotten_interfaces": 0,
    }
    assert scene.live.sensor("s") is None


def test_a_sensor_is_shown_with_all_that_it_told(scene: Scene) -> None:
    who = Introduction("ossensor/0.1.0", "ip-10-0-1-7", {"family": "web"}, ("eth0",), 1, antigena="observe")
    scene.live.introduced("s", who)
    scene.now_s += 1
    scene.batch(received=12, kernel_drops=2, rejected=3)
    scene.live.reported("s", Report("enforce", "b" * 32, 7, {"x": {"matched": 1}}, {"y": "why"}, "trouble"))
    scene.now_s += 1

    interface = {
        "stored_s": START_S + 1,
        "batches": 1,
        "packets": 10,
        "section_bytes": 1000,
        "packets_per_s": 2.0,
        "bytes_per_s": 200.0,
        "repeats": 0,
        "delay_s": 0.25,
        "epoch": EPOCH + "a",
        "received": 12,
        "kernel_drops": 2,
        "dropped": {"rejected": 3, "too_large": 0, "corrupt": 0},
        "lost_packets": 0,
        "verdict": "open",
        "faults": 0,
        "last_fault": "",
    }
    report = {
        "reported_s": START_S + 1,
        "mode": "enforce",
        "book": "b" * 32,
        "version": 7,
        "actions": 1,
        "refused": 1,
        "trouble": "trouble",
    }
    shown = {
        "first_heard_s": START_S,
        "heard_s": START_S + 1,
        "is_silent": False,
        "introduced_s": START_S,
        "application": "ossensor/0.1.0",
        "host": "ip-10-0-1-7",
        "task": {"family": "web"},
        "captures": ["eth0"],
        "captures_in_all": 1,
        "packet_filter_refused": "",
        "antigena_mode": "enforce",
        "antigena": report,
        "packets": 10,
        "section_bytes": 1000,
        "packets_per_s": 2.0,
        "bytes_per_s": 200.0,
        "verdict": "open",
        "interfaces": {"eth0": interface},
    }
    assert scene.live.sensor("s") == shown
    assert json.loads(json.dumps(scene.live.snapshot()))["sensors"] == {"s": shown}


def test_rates_are_of_the_last_five_whole_seconds() -> None:
    rates = Rates()
    for second in range(20):
        rates.add(second + 0.5, second, 10 * second)

    assert rates.per_s(19.9) == (sum(range(14, 19)) / 5, sum(range(14, 19)) * 2)
    assert rates.per_s(23.0) == ((18 + 19) / 5, (180 + 190) / 5)
    assert rates.per_s(25.0) == (0.0, 0.0)


def test_a_delay_is_by_two_clocks_and_may_be_negative(scene: Scene) -> None:
    newest_ns = int((START_S + 3) * 1e9)
    scene.live.stored(BatchId(Stream("s", EPOCH + "a", "eth0"), 0), 1, 100, Account(), Span(newest_ns, newest_ns))

    assert scene.interface()["delay_s"] == -3.0


def test_a_batch_without_packets_leaves_the_delay_as_it_was(scene: Scene) -> None:
    scene.batch()
    scene.live.stored(BatchId(Stream("s", EPOCH + "a", "eth0"), 1), 0, 100, Account(first_packet=10), None)

    assert (scene.interface()["delay_s"], scene.interface()["batches"]) == (0.25, 2)


# -- the books --------------------------------------------------------------------------------------------------------


def test_a_capture_that_ended_with_every_packet_explained_is_balanced(scene: Scene) -> None:
    scene.batch(0)
    assert scene.judged() == ("open", 0, 0)
    scene.batch(1, received=23, kernel_drops=3, final=1)

    assert scene.judged() == ("balanced", 0, 0)


def test_a_capture_that_ended_with_packets_that_nothing_explains_is_not(scene: Scene) -> None:
    scene.batch(0, received=12, kernel_drops=1, final=1)

    assert scene.judged() == ("not balanced", 0, 1)
    assert scene.interface()["last_fault"] == "12 received, 11 explained: 1 missing"


def test_what_sequences_that_will_not_come_held_is_lost_and_counted(scene: Scene) -> None:
    scene.batch(0)
    scene.batch(3, received=40, rejected=20, final=1)

    assert scene.judged() == ("lost", 20, 0)


@pytest.mark.parametrize("sequence,first", [(1, 9), (1, 11), (2, 5)], ids=["overlap", "a leap", "a gap of less"])
def test_a_batch_that_contradicts_the_one_before_it_is_a_fault(scene: Scene, sequence: int, first: int) -> None:
    scene.batch(0)
    scene.batch(sequence, first_packet=first)

    assert scene.judged() == ("not balanced", 0, 1)


def test_a_batch_after_the_final_one_is_a_fault(scene: Scene) -> None:
    scene.batch(0, received=10, final=1)
    scene.batch(1)

    assert scene.judged() == ("not balanced", 0, 1)


def test_a_stream_that_began_before_we_did_is_judged_from_its_first_batch_on(scene: Scene) -> None:
    scene.batch(7)
    scene.batch(8, received=90, final=1)

    assert scene.judged() == ("balanced", 0, 0)


def test_the_last_batches_of_an_epoch_may_come_beside_the_first_of_the_next(scene: Scene) -> None:
    scene.batch(0, epoch="a")
    scene.batch(0, epoch="b", received=10)
    scene.batch(1, epoch="a", received=20, final=1)

    assert scene.judged() == ("open", 0, 0)
    assert (scene.interface()["epoch"], scene.interface()["received"]) == (EPOCH + "b", 10)


def test_a_sensor_is_as_good_as_its_worst_interface(scene: Scene) -> None:
    for interface, final in (("eth0", 1), ("eth1", 0)):
        scene.batch(interface=interface, received=10, final=final)
    assert scene.live.snapshot()["sensors"]["s"]["verdict"] == "open"
    scene.batch(3, interface="eth1")

    assert scene.live.snapshot()["sensors"]["s"]["verdict"] == "lost"


def test_repeats_are_counted_and_are_no_fault(scene: Scene) -> None:
    scene.batch(0)
    scene.live.repeated(BatchId(Stream("s", EPOCH + "a", "eth0"), 0))

    assert (scene.interface()["repeats"], *scene.judged()) == (1, "open", 0, 0)


def test_any_loss_in_any_order_comes_to_the_packets_that_did_not_come() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for _ in range(200):
        books, sent, stored, lost = StreamBooks(), 0, 0, 0
        batches = []
        for sequence in range(30):
            packets = rng.randrange(5)
            batches.append((sequence, packets, sent, sequence == 29 or rng.random() < 0.7))
            sent += packets
        for sequence, packets, first, came in batches:
            if not came:
                continue
            final = int(sequence == 29)
            found = books.take(sequence, packets, Account(first, sent * final, 0, final))
            assert found.faults == ()
            stored += packets
            lost += found.lost_packets
        first_seen = next(first for _, _, first, came in batches if came)
        assert first_seen + stored + lost == sent


# -- bounds -----------------------------------------------------------------------------------------------------------


def test_sensors_that_were_not_heard_for_three_introductions_are_silent_and_after_a_day_forgotten(scene: Scene) -> None:
    scene.batch(sensor="s")
    scene.now_s += live.SILENT_AFTER_S
    scene.batch(sensor="t")
    assert scene.live.snapshot()["sensors"]["s"]["is_silent"] is False
    scene.now_s += 1
    assert {n: s["is_silent"] for n, s in scene.live.snapshot()["sensors"].items()} == {"s": True, "t": False}
    scene.now_s = START_S + live.FORGET_S + 1

    assert list(scene.live.snapshot()["sensors"]) == ["t"]
    assert scene.live.sensor("s") is None
    assert scene.live.snapshot()["forgotten_sensors"] == 1


def test_of_more_sensors_than_there_is_room_for_those_heard_of_last_are_shown(scene: Scene) -> None:
    for n in range(live.SENSORS_MAX + 5):
        scene.live.reported(f"s{n}", Report("off"))
        scene.live.reported("s0", Report("off"))
    snapshot = scene.live.snapshot()

    assert (len(snapshot["sensors"]), snapshot["forgotten_sensors"]) == (live.SENSORS_MAX, 5)
    assert "s0" in snapshot["sensors"]
    assert "s1" not in snapshot["sensors"]


def test_of_more_interfaces_than_there_is_room_for_those_stored_last_are_shown(scene: Scene) -> None:
    for n in range(live.INTERFACES_MAX + 3):
        scene.batch(sensor=f"s{n % 2}", interface=f"e{n}")
    snapshot = scene.live.snapshot()

    assert sum(len(s["interfaces"]) for s in snapshot["sensors"].values()) == live.INTERFACES_MAX
    assert snapshot["forgotten_interfaces"] == 3
    assert "e2" not in snapshot["sensors"]["s0"]["interfaces"]
    assert f"e{live.INTERFACES_MAX + 2}" in snapshot["sensors"]["s0"]["interfaces"]


def test_introductions_of_the_largest_size_are_bounded_by_their_bytes(scene: Scene) -> None:
    texts = tuple(f"{n:0500}" for n in range(31))
    size = len(Introduction("a", "h", {}, texts).body)
    for n in range(live.SENSORS_MAX):
        scene.live.introduced(f"s{n}", Introduction("a", f"{n:04}"[:1], {}, texts))
        scene.live.introduced(f"s{n}", Introduction("b", f"{n:04}"[:1], {}, texts))  # a change is no second one

    assert len(scene.live.snapshot()["sensors"]) == live.INTRODUCTIONS_BYTES // size
    assert size > 15_000


def test_an_interface_takes_no_more_than_is_said_of_it(scene: Scene) -> None:
    for second in range(10):
        scene.now_s += 1
        for epoch in "abcdefgh":
            scene.batch(second, epoch=epoch)
    interface = scene.live._sensors["s"].interfaces["eth0"]

    seen: set[int] = set()

    def bytes_of(thing: object) -> int:
        if id(thing) in seen or isinstance(thing, type):
            return 0
        seen.add(id(thing))
        total = sys.getsizeof(thing)
        if isinstance(thing, dict):
            total += sum(bytes_of(k) + bytes_of(v) for k, v in thing.items())
        if isinstance(thing, tuple):
            total += sum(map(bytes_of, thing))
        names = [*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())]
        return total + sum(bytes_of(getattr(thing, name)) for name in names if name != "__dict__")

    taken = bytes_of(interface)
    print(f"{taken} bytes")
    assert taken < 4096
