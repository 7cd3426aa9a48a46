"""B4: every way in which a batch can be answered; what ends it is a signed reply, and all else is tried again."""

from __future__ import annotations

import re
import secrets
import sys
from collections import Counter
from pathlib import Path

import pytest
from harness import fickle, frames, proc
from harness.captures import read_pcapng
from harness.programs import KEY, Program, Sensor, environment
from harness.world import PORT, World, tag_for, unread_for

from ossensor.transport.protocol import Outcome

pytestmark = [pytest.mark.netns, pytest.mark.slow, pytest.mark.timeout(300)]

INTERFACES = ("cap0", "cap1", "cap2")
# A batch is closed twenty times a second while it goes well, less often while batches wait.
BATCH_MS = 50
PER_SECOND = 400
GIVEN_UP = {Outcome.MALFORMED.value: "rejected", Outcome.TOO_LARGE.value: "too_large"}
DELIVERED = {Outcome.STORED.value, Outcome.PRESENT.value}
_HARNESS = Path(__file__).parent


def _start(world: World, certificate: tuple[Path, Path], folder: Path, seed: int) -> Program:
    key_file = world.folder / "key"
    key_file.write_text(KEY)
    cert, private_key = certificate
    argv = [sys.executable, "-m", "harness.fickle", "10.9.0.2", str(PORT), str(cert), str(private_key), str(key_file)]
    program = Program(world.collector.inside(*argv, str(folder), str(seed)), environment({"PYTHONPATH": str(_HARNESS)}))
    proc.eventually("it listens", lambda: world.collector.listens(PORT))
    return program


def _books(sensor: Sensor) -> Counter[str]:
    """The sensor's last account, summed over its interfaces."""
    total: Counter[str] = Counter()
    for line in sensor.lines:
        if "books closed: " in line:
            total.update({name: int(number) for name, number in re.findall(r"(\w+)=(\d+)", line)})
    return total


def test_b4_every_refusal_that_passes_is_tried_again_and_every_signed_one_that_does_not_is_counted(
    world: World, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    kept = tmp_path / "kept"
    kept.mkdir()
    world.add_link(*INTERFACES)
    vsensor = _start(world, certificate, kept, seed)
    try:
        changes = {**unread_for(BATCH_MS), "OSSENSOR_DEBUG": "3", "OSSENSOR_COMPRESSION": "off"}
        sensor = world.start_sensor(*INTERFACES, changes=changes)
        senders = [world.sender(name, per_second=PER_SECOND) for name in INTERFACES]

        def all_drawn() -> bool:
            drawn = Counter(record["answer"] for record in vsensor.records("answered"))
            return all(drawn[how] >= 2 for how in (*fickle.PASSING, *GIVEN_UP)) and drawn[fickle.DRIPS] == 1

        proc.eventually("each way of answering was drawn twice", all_drawn, timeout_s=200)
        sent = {name: sender.stop() for name, sender in zip(INTERFACES, senders, strict=True)}

        def all_ended() -> bool:
            ends = [record for record in vsensor.records("answered") if record["ends"]]
            return sum(record["packets"] for record in ends) >= sum(sent.values())

        proc.eventually("each batch has come to its end", all_ended)
        code, _ = sensor.terminate()
    finally:
        vsensor.close()

    answered = vsensor.records("answered")
    ends = [record for record in answered if record["ends"]]
    batches = {record["path"] for record in answered}
    delivered = [record for record in ends if record["answer"] in DELIVERED]
    permanent = [record for record in ends if record["answer"] in GIVEN_UP]
    temporary = [record for record in answered if not record["ends"]]
    books = _books(sensor)
    print(f"{len(answered)} attempts, {len(batches)} batches, {len(temporary)} passing, {len(permanent)} for good")
    print(f"books {dict(books)}")

    assert code == 0
    assert [line for line in sensor.lines if "Traceback" in line] == []
    assert len(delivered) == len(batches) - len(permanent)
    assert len(answered) == len(batches) + len(temporary)
    assert [record["answer"] for record in answered if record["answer"] == "AFTER THE END"] == []
    for answer, reason in GIVEN_UP.items():
        assert books[reason] == sum(record["packets"] for record in permanent if record["answer"] == answer)
    assert books["delivered"] == sum(record["packets"] for record in delivered)
    assert books["received"] == sum(sent.values()) == books["delivered"] + books["rejected"] + books["too_large"]
    found = [number for name in INTERFACES for number in _numbers(kept, name)]
    assert len(found) == len(set(found)) == books["delivered"]


def _numbers(folder: Path, interface: str) -> list[tuple[str, int]]:
    """The frames of the interface that were kept."""
    packets = (packet.data for path in sorted(folder.glob(f"{interface}-*")) for packet in read_pcapng(path))
    return [(interface, number) for number in frames.ours(packets, tag_for(interface))]
