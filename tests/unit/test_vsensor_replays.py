"""E4: ten thousand accepted requests are sent again, now and whenever their signatures could still be believed.

Signature and nonce are judged here without sockets and without a store: authentication says the same of the same head
each time, so it is done once for each request, and every gate below is given what it said. That a refusal here keeps a
batch out of the files: test_vsensor_fresh.py, over TLS.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from pathlib import Path

import pytest
from called_collector import called, head_of, signed_by_hand
from test_vsensor_kit import KEY, NOW_S, STREAM, Message, Signer, rows

from ossensor.transport.protocol import WINDOW_S, BatchId, Outcome
from ossensor.vsensor.replay import FORGET_S, WINDOW, Replay
from ossensor.vsensor.verify import Authentic, Gate, Head, Upload, authenticate

COUNT = 10_000
RUNS = 4  # lives of uploaders
Captured = list[tuple[Head, Authentic]]


@pytest.fixture(scope="module")
def captured() -> Captured:
    """Requests of several uploaders, whose clocks are up to a minute off, in about the order of their nonces."""
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    print(f"seed {seed}")
    runs = [rng.randbytes(16).hex() for _ in range(RUNS)]
    offsets_s = [-WINDOW_S, rng.randint(-59, -1), rng.randint(1, 59), WINDOW_S]
    plain = [Signer("vsensor.test").message(created_s=NOW_S + offset_s) for offset_s in offsets_s]

    def signed(number: int) -> Message:
        of, count = number % RUNS, number // RUNS
        target = BatchId(STREAM, number).path
        return signed_by_hand(plain[of], KEY, key_id=KEY.id, nonce=f"{runs[of]}-{count}", target=target)

    numbers = list(range(COUNT))
    for start in range(0, COUNT, WINDOW):
        block = numbers[start : start + WINDOW]
        rng.shuffle(block)
        numbers[start : start + WINDOW] = block
    return [(head, authenticate(head, {KEY.id: KEY})) for head in map(head_of, map(signed, numbers))]


def judged(gate: Gate, requests: Captured, now_s: float) -> Counter[Outcome | type[Upload]]:
    verdicts = (gate.judge(head, authentic, now_s) for head, authentic in requests)
    return Counter(v if isinstance(v, Outcome) else Upload for v in verdicts)


def table_of(replay: Replay) -> tuple[int, bool]:
    """How many runs it remembers, and whether each takes no more than its window."""
    return len(replay), all(run.seen.bit_length() <= WINDOW for run in replay._runs.values())


@pytest.mark.slow
def test_e4_of_ten_thousand_replayed_requests_none_is_accepted_again_while_its_signature_is_good(
    captured: Captured,
) -> None:
    replay = Replay()
    gate = Gate(NOW_S - 3600, replay)
    assert judged(gate, captured, NOW_S) == {Upload: COUNT}
    tables = [table_of(replay)]
    believed = {}
    # FORGET_S later the memory may go, and the last signature that it was for has just run out.
    for after_s in (0, 1, WINDOW_S - 1, WINDOW_S, WINDOW_S + 1, FORGET_S - 1, FORGET_S, FORGET_S + 1, 3600):
        verdicts = judged(gate, captured, NOW_S + after_s)
        in_time = sum(abs(a.verified.created_s - NOW_S - after_s) <= WINDOW_S for _, a in captured)
        assert verdicts == Counter({Outcome.REPLAYED: in_time, Outcome.STALE: COUNT - in_time}), after_s
        believed[after_s] = in_time
        tables.append(table_of(replay))

    print(f"after seconds, signatures that were still good: {believed}")
    assert (believed[0], believed[FORGET_S], believed[FORGET_S + 1]) == (COUNT, COUNT // RUNS, 0)
    assert tables == [(RUNS, True)] * 10  # constant: ten thousand admitted, fifty thousand refused


@pytest.mark.slow
@pytest.mark.parametrize("started_s", [NOW_S + WINDOW_S, NOW_S + WINDOW_S + 0.9, NOW_S + FORGET_S])
def test_e4_after_a_restart_what_was_signed_before_is_stale_whatever_was_forgotten(
    captured: Captured, started_s: float
) -> None:
    gate = Gate(started_s)

    assert judged(gate, captured, started_s) == {Outcome.STALE: COUNT}


@pytest.mark.slow
def test_e4_a_second_receiver_that_has_the_same_key_takes_each_request_once(captured: Captured) -> None:
    """A limit, known (DESIGN section 10): no receiver knows what another was sent. It is no way to be sent it twice."""
    second = Gate(NOW_S - 3600)

    assert [judged(second, captured, NOW_S) for _ in range(2)] == [{Upload: COUNT}, {Outcome.REPLAYED: COUNT}]


def test_e4_what_was_signed_ahead_of_a_restart_is_found_in_the_index_and_stored_once(tmp_path: Path) -> None:
    """The clock cannot tell these from new ones: their sensor ran a minute ahead. The index can."""
    with called(tmp_path) as vsensor:
        signer = Signer("vsensor.test")
        messages = [signer.message(n, created_s=NOW_S + WINDOW_S) for n in range(200)]
        first = Counter(vsensor.ask(message).status for message in messages)
    with called(tmp_path) as successor:
        successor.clock.now_s = NOW_S + 1
        again = Counter(successor.ask(message).status for message in messages)
        tally = dict(successor.collector.tally)
        replayed = Counter(successor.ask(message).status for message in messages)

    assert (first, again, replayed) == ({201: 200}, {200: 200}, {401: 200})
    assert tally == {Outcome.PRESENT.value: 200}
    assert len(rows(tmp_path)) == 200
