"""B3: a batch is committed, and the line is cut before its sensor hears of it."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from pathlib import Path

import pytest
from cutting_proxy import CuttingProxy
from test_vsensor_kit import KEY, NOW_S, RUN, STREAM, Running, committed, payload, rows, section, stored

from ossensor.transport.client import Client, Job, Result
from ossensor.transport.connection import tls_context
from ossensor.transport.protocol import BatchId, Outcome
from ossensor.transport.signing import Nonce
from ossensor.transport.stamp import Stamp

COUNT = 500
_STORED, _FOUND = b"HTTP/1.1 201 Created", b"HTTP/1.1 200 OK"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_b3_batches_whose_replies_are_cut_off_are_found_present_and_stored_once(tmp_path: Path, how: str) -> None:
    """The sensor's client and a vSensor over TLS, five hundred times each way of losing a reply, or the rest of it."""
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    bodies = [section([payload(number)]) for number in range(COUNT)]
    cut_at: dict[str, int] = {}

    def cut(target: str, reply: bytes) -> int | None:
        """The first reply to each batch: nothing comes through of it, or some, but never the whole signature.

        What stands behind that is not signed, and its loss is none: the outcome is proven, and is believed.
        """
        if target in cut_at:
            return None
        signature = reply.index(b"\r\nsignature: ") + 2
        cut_at[target] = rng.choice([0, rng.randrange(reply.index(b"\r\n", signature))])
        return cut_at[target]

    with Running(tmp_path) as running:
        pair = running.pair
        with CuttingProxy(pair.certificate, pair.key, running.port, cut, reset=how == "reset") as proxy:
            client = Client("127.0.0.1", proxy.port, tls_context("ca", str(pair.certificate)), "test")

            def send(number: int, nonce: int) -> Result:
                stamp = Stamp("127.0.0.1", 1, NOW_S, Nonce(RUN, nonce), KEY)
                body = memoryview(bodies[number])
                return client.send(Job(BatchId(STREAM, number), body, 1, number, compress=False, stamp=stamp))

            results = [(send(number, 2 * number), send(number, 2 * number + 1)) for number in range(COUNT)]
            client.close()
        tally = dict(running.collector.tally)

    said = Counter(tuple(result.outcome for result in pair) for pair in results)
    nothing = sum(at == 0 for at in cut_at.values())
    print(f"seed {seed}: {COUNT} replies cut, {nothing} of them before the first byte; {tally}")
    # Each was committed before its line was cut: the reply that says so was in the proxy's hands.
    assert [reply.split(b"\r\n")[0] for _, reply in proxy.replies] == [
        b"HTTP/1.1 201 Created",
        b"HTTP/1.1 200 OK",
    ] * COUNT
    assert said == {(None, Outcome.PRESENT): COUNT}
    assert tally == {Outcome.STORED.value: COUNT, Outcome.PRESENT.value: COUNT}
    assert [sequence for *_, sequence in rows(tmp_path)] == list(range(COUNT))
    assert committed(tmp_path) == stored(tmp_path) == bodies
