"""The main promise: what crosses the chosen interfaces is in the store, exactly, and nothing else is."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from harness import frames, proc
from harness.captures import Witness, tshark
from harness.replay import replay
from harness.world import World, tag_for

pytestmark = [pytest.mark.netns, pytest.mark.slow]

CAPTURED = ("cap0", "cap1", "cap2")
EXCLUDED = "cap3"
COUNT = 100_000
PER_SECOND = 20_000
SEED = 20_261_123


def _packet_blocks_bytes(sent: list[bytes]) -> int:
    """What these frames take in a pcapng file at the least: 32 bytes and padding around each."""
    return sum(32 + len(frame) + -len(frame) % 4 for frame in sent)


def test_frames_of_three_interfaces_at_once_arrive_once_unchanged_in_order_and_those_of_others_do_not(
    world: World, tmp_path: Path
) -> None:
    world.add_link(*CAPTURED, EXCLUDED)
    sent = {name: frames.mixed(SEED + at, tag_for(name), COUNT) for at, name in enumerate(CAPTURED)}
    excluded = frames.mixed(SEED, tag_for(EXCLUDED), 1000)
    world.start_vsensor()
    # No include list: loopback is left out by the default rule alone, the fourth link by the exclude list.
    rules = {"NETWORK_DEVICE_INCLUDELIST": None, "NETWORK_DEVICE_EXCLUDELIST": f"^up0$ ^{EXCLUDED}$"}
    # Three times 14 MB a second, beside other tests: rings that hold all of it, wherever the machine stands still.
    room = {"OSSENSOR_RING_MB": "96", "OSSENSOR_MEMORY_MB": "512"}
    sensor = world.start_sensor(*CAPTURED, changes={**rules, **room})
    sensor.wait_for("uploader ready")

    with ExitStack() as stack:
        witnesses = {
            name: stack.enter_context(Witness(world.sensor, name, tmp_path / name, count=COUNT)) for name in CAPTURED
        }
        started_ns = time.time_ns()
        rates = replay(world.generator, sent | {EXCLUDED: excluded}, per_second=PER_SECOND, folder=tmp_path)
        ended_ns = time.time_ns()
        world.send("lo", 1000, by=world.sensor)
    # Not an assertion: when something is missing, the comparison below says what.
    proc.happened(
        lambda: all(world.stored_bytes(name) >= _packet_blocks_bytes(sent[name]) for name in CAPTURED), timeout_s=60
    )
    print(f"seed {SEED}, rates reached {rates}, sensor's processor time {proc.cpu_s(sensor.pid):.1f} s")
    stop = sensor.terminate()

    assert world.arrived(EXCLUDED) == 1000
    assert world.interfaces_stored() == set(CAPTURED)
    for name in CAPTURED:
        seen, stored = witnesses[name].packets(), world.stored(name)
        assert frames.verdict(sent[name], [packet.data for packet in seen]) == "", f"not even the witness, on {name}"
        assert frames.verdict(sent[name], [packet.data for packet in stored]) == "", f"{name}\n{sensor.tail()}"
        assert {packet.interface for packet in stored} == {name}
        assert all(packet.original_bytes == len(packet.data) for packet in stored)
        times_ns = [packet.time_ns for packet in stored]
        assert started_ns <= times_ns[0] <= times_ns[-1] <= ended_ns
        assert len({time_ns % 1000 for time_ns in times_ns}) == 1000  # not microseconds in another unit
        apart_ns = sorted(abs(one.time_ns - other.time_ns) for one, other in zip(stored, seen, strict=True))
        print(f"{name}: apart from the witness by {apart_ns[COUNT // 2]} ns (median), {apart_ns[-1]} ns (most)")
        assert apart_ns[COUNT // 2] < 1_000_000  # between the two looks at one packet an interrupt may come
    # So that it was a load at all: that this machine can do it while others use it is not what is promised.
    assert min(rates[: len(CAPTURED)]) > 0.5 * PER_SECOND
    assert sum(map(tshark, world.files(CAPTURED[0]))) == COUNT
    assert stop[0] == 0
