"""What the route makes of news that come late."""

from __future__ import annotations

import ssl

import pytest

from ossensor.filters import Flow
from ossensor.logs import fields_of
from ossensor.transport.client import Proof
from ossensor.transport.endpoint import State
from ossensor.transport.protocol import Welcome
from ossensor.transport.registration import Question
from ossensor.transport.signing import Key, Nonce
from ossensor.workers.route import Addresses, Destination, Route

KEY = Key(b"k" * 32)
ADDRESS = "192.0.2.1"


class Heard:
    """A route whose threads are never started, and whose supervisor answers when it is told to."""

    def __init__(self) -> None:
        to = Destination("vsensor.test", 443, (KEY,), pinned=True, sensor="s", application="x")
        self.flows: list[list[Flow]] = []
        self.questions: list[Question] = []
        self.route = Route(to, ssl.create_default_context(), lambda _: None, self._guard)
        self.route._thread = self._thread  # type: ignore[method-assign]
        self.route.attend(0.0)
        self.route.resolved(Addresses([ADDRESS]), 0.0)

    def _guard(self, flows: list[Flow]) -> bool:
        self.flows.append(flows)
        return True

    def _thread(self, _work: object, _name: str, otherwise: Addresses | Proof) -> None:
        if isinstance(otherwise, Proof):
            self.questions.append(otherwise.question)

    def proved(self, pin: str, direct: str, now_s: float = 0.0) -> None:
        """Guard, question, and a proof that names this direct address."""
        self.route.attend(now_s)
        self.route.guarded(now_s, ok=True)
        self.route.attend(now_s)
        self.route.proved(Proof(self.questions[-1], "proven", KEY, pin, 1, welcome=Welcome("", direct)), now_s)


def test_a_direct_address_is_guarded_scouted_and_proven_before_a_request_is_addressed_to_it() -> None:
    heard = Heard()
    route = heard.route
    heard.proved("aa", "10.0.0.1:9443")
    assert (route.stamp().address, route.stamp().port, route.endpoint.concurrency(4)) == (ADDRESS, 443, 0)

    route.attend(0.0)
    assert heard.flows == [[Flow(ADDRESS, 443)], [Flow(ADDRESS, 443), Flow("10.0.0.1", 9443)]]
    route.attend(0.0)
    assert len(heard.questions) == 1  # nobody is asked there before the supervisor has answered
    route.guarded(0.0, ok=True)
    route.attend(0.0)
    scout = heard.questions[-1]
    assert (scout.address, scout.port, scout.scout, scout.bound) == ("10.0.0.1", 9443, True, True)
    route.proved(Proof(scout, "proven", KEY, "bb", 1), 0.0)
    assert route.stamp().pin == "aa"

    route.attend(0.0)
    again = heard.questions[-1]
    assert (again.address, again.port, again.scout, len(heard.questions)) == ("10.0.0.1", 9443, False, 3)
    route.proved(Proof(again, "proven", KEY, "bb", 1, welcome=Welcome("", "10.0.0.1:9443")), 0.0)

    stamp = route.stamp()
    assert (stamp.address, stamp.port, stamp.pin, route.endpoint.concurrency(4)) == ("10.0.0.1", 9443, "bb", 4)


@pytest.mark.parametrize("text", ["169.254.170.2:80", "127.0.0.1:443", "vsensor.test:443", "(no printable text)"])
def test_a_direct_address_that_cannot_be_is_told_counted_and_the_name_is_used(
    text: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    heard.proved("aa", text)
    heard.route.attend(0.0)

    refused = [r for r in caplog.records if r.message == "the vSensor's direct address is refused"]
    assert [fields_of(r)["address"] for r in refused] == [text]
    assert (heard.route.endpoint.direct.refused, heard.route.endpoint.concurrency(4)) == (1, 4)
    assert (len(heard.flows), len(heard.questions)) == (1, 1)


def test_there_is_one_scout_at_a_time_also_when_another_address_is_named_meanwhile() -> None:
    heard = Heard()
    route = heard.route
    heard.proved("aa", "10.0.0.1:9443")
    route.attend(0.0)
    route.guarded(0.0, ok=True)
    route.attend(0.0)
    first = heard.questions[-1]
    route.endpoint.told("10.0.0.2:9443", 0.0)
    route.attend(0.0)
    route.guarded(0.0, ok=True)
    route.attend(0.0)
    assert heard.questions[-1] is first

    route.proved(Proof(first, "nobody"), 0.0)
    route.attend(0.0)

    assert heard.questions[-1].address == "10.0.0.2"


def test_two_guards_under_way_are_told_apart_by_their_order() -> None:
    heard = Heard()
    route = heard.route
    heard.proved("aa", "10.0.0.1:9443")
    route.attend(0.0)  # the direct one's question is on its way
    route.failed(route.endpoint.generation, 0.0)
    route.endpoint.hurry()
    route.attend(0.0)
    route.resolved(Addresses([ADDRESS]), 0.0)
    route.attend(0.0)  # and now the name's
    route.guarded(0.0, ok=False)

    assert route.endpoint.wants(0.0) is State.GUARDING
    route.guarded(0.0, ok=True)
    assert route.endpoint.wants(0.0) is State.UNPROVEN


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


@pytest.mark.parametrize(
    "ahead_s, took_s, learned_s",
    [
        (0, 0, 0),
        (1, 0, 0),
        (-1, 0, 0),
        (2, 0, 2),
        (-2, 0, -2),
        (3600, 5, 3595),
        (-3600, 5, -3605),
        (0, 5, 0),
        (-1, 5, 0),
    ],
)
def test_a_reply_that_was_long_on_its_way_does_not_set_the_time_back(ahead_s: int, took_s: int, learned_s: int) -> None:
    route = Heard().route
    route._clock = lambda: 1000.5
    route.learn_time(1000 - took_s + ahead_s, 1000 - took_s)

    assert route.vsensor_time_s() == 1000 + learned_s
