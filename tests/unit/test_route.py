"""What the route makes of news that come late."""

from __future__ import annotations

import ssl

from ossensor.transport.client import Proof
from ossensor.transport.endpoint import State
from ossensor.transport.registration import Question
from ossensor.transport.signing import Key, Nonce
from ossensor.workers.route import Destination, Route

KEY = Key(b"k" * 32)
ADDRESS = "192.0.2.1"


def test_a_proof_that_comes_after_its_address_was_given_up_opens_nothing() -> None:
    to = Destination(ADDRESS, 443, (KEY,), pinned=True, sensor="s", application="x")
    route = Route(to, ssl.create_default_context(), lambda _: None, lambda _: True)
    endpoint = route.endpoint
    endpoint.asked()
    endpoint.resolved([ADDRESS], 0.0)
    endpoint.asked()
    endpoint.guarded(0.0, ok=True)
    endpoint.asked()
    question = Question("s", ADDRESS, endpoint.generation, (KEY,), 1, (Nonce("f" * 32, 1),), bound=True)
    endpoint.failed(endpoint.generation, 1.0)  # a batch of the time before, while the proof is under way

    route.proved(Proof(question, "proven", KEY, "aa", 1), 1.0)

    assert endpoint.wants(1.0) in {State.WAITING, State.UNRESOLVED}
    assert endpoint.concurrency(4) == 0
