"""Nothing is called closed that was not seen closed; and who opened a connection is known or not guessed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from antigena_talks import Talk

from ossensor.antigena.openers import Openers
from ossensor.antigena.packets import OUR_WINDOW
from ossensor.antigena.segments import Segment
from ossensor.antigena.watch import QUIET_S, Judged, Verdict, Watch

TALK = Talk()
NOTHING = Judged([], [])


def answered(watch: Watch, talk: Talk, flags: str, now_s: float, payload: int = 0) -> list[Verdict]:
    segment = talk.segment(flags, payload)
    _, verdicts = watch.seen(segment, "a", now_s)
    watch.answered(segment)
    return verdicts


def asked_about(talk: Talk, flags: str, payload: int = 0) -> Segment:
    return replace(talk.segment(flags, payload), ip=b"")


@pytest.mark.parametrize(
    "packets,closed",
    [
        pytest.param([(TALK, "PA", 10)], True, id="data that nobody acknowledged or repeated"),
        pytest.param([(TALK, "S", 0)], True, id="a SYN that nobody answered or repeated"),
        pytest.param([(TALK, "FA", 0)], True, id="a FIN that nobody acknowledged"),
        pytest.param([(TALK, "A", 0)], False, id="an acknowledgment, to which nobody owes anything"),
        pytest.param([(TALK, "PA", 10), (TALK.back, "A", 0)], False, id="data that was acknowledged"),
        pytest.param([(TALK, "A", 0), (TALK.back, "PA", 10)], True, id="data at last"),
        pytest.param([(TALK, "A", 0), (TALK.back, "R", 0)], True, id="a reset of an end's own"),
        pytest.param([(TALK, "A", 0), (TALK.back, "ours", 0)], False, id="a reset of ours"),
        pytest.param([(TALK, "A", 0), (TALK, "R", 0), (TALK, "A", 0)], False, id="a reset of an end that speaks on"),
        pytest.param([(TALK, "FA", 0), (TALK.back, "FA", 0), (TALK, "A", 0)], True, id="FINs of both"),
        pytest.param([(TALK, "FA", 0), (TALK.back, "A", 0)], False, id="the FIN of one, acknowledged"),
    ],
)
def test_a_connection_is_closed_when_something_proves_it_before_the_silence(
    packets: list[tuple[Talk, str, int]], *, closed: bool
) -> None:
    watch = Watch()
    last = None
    for talk, flags, payload in packets:
        if flags in {"R", "ours"}:
            watch.reset(talk.segment("R", 0, OUR_WINDOW if flags == "ours" else 0))
        else:
            answered(watch, talk, flags, 10, payload)
            last = asked_about(talk, flags, payload)

    assert watch.judged(10 + QUIET_S - 0.01) == NOTHING
    assert watch.judged(10 + QUIET_S) == (Judged([Verdict("a", closed)], []) if closed else Judged([], [("a", last)]))
    assert watch.judged(100) == (NOTHING if closed else Judged([Verdict("a", closed=False)], []))
    assert watch.judged(1000) == NOTHING


def test_a_connection_whose_silence_proves_nothing_is_asked_about_once_and_a_reset_in_reply_proves_it() -> None:
    watch = Watch()
    answered(watch, TALK, "A", 10)

    assert watch.judged(10 + QUIET_S).to_ask == [("a", asked_about(TALK, "A"))]
    watch.reset(TALK.back.segment("R"))
    assert watch.judged(10 + 2 * QUIET_S - 0.01) == NOTHING
    assert watch.judged(10 + 2 * QUIET_S) == Judged([Verdict("a", closed=True)], [])


def test_a_connection_that_acknowledges_the_question_is_answered_and_asked_about_again() -> None:
    watch = Watch()
    answered(watch, TALK, "A", 10)
    watch.judged(10 + QUIET_S)
    answered(watch, TALK.back, "A", 14)

    assert watch.judged(14 + QUIET_S).to_ask == [("a", asked_about(TALK.back, "A"))]


@pytest.mark.parametrize("noticed_s", [9.1, 12])  # before it was read, where it had waited; and after
def test_where_packets_passed_unseen_the_silence_of_an_end_that_owes_one_proves_nothing(noticed_s: float) -> None:
    watch = Watch()
    answered(watch, TALK, "PA", 10, 10)
    watch.overlooked(noticed_s)  # its acknowledgment, for one

    assert watch.judged(10 + QUIET_S) == Judged([], [("a", asked_about(TALK, "PA", 10))])
    assert watch.judged(10 + 2 * QUIET_S) == Judged([Verdict("a", closed=False)], [])


def test_what_passed_unseen_long_before_its_last_segment_does_not_matter_to_a_connection() -> None:
    watch = Watch()
    answered(watch, TALK, "PA", 10, 10)
    watch.overlooked(10)
    answered(watch, TALK, "PA", 11, 10)

    assert watch.judged(11 + QUIET_S) == Judged([Verdict("a", closed=True)], [])


def test_a_connection_that_goes_on_is_not_judged() -> None:
    watch = Watch()
    for second in range(20):
        answered(watch, TALK, "PA", second, 10)
        assert watch.judged(second) == NOTHING

    assert watch.judged(19 + QUIET_S).verdicts == [Verdict("a", closed=True)]


def test_what_was_not_answered_is_never_called_closed() -> None:
    watch = Watch()
    watch.seen(TALK.segment(), "a", 10)
    watch.reset(TALK.segment("R"))

    assert watch.judged(20) == Judged([Verdict("a", closed=False)], [])


def test_datagrams_are_never_called_closed() -> None:
    watch = Watch()
    answered(watch, TALK._replace(protocol="udp"), "", 10, 10)

    assert watch.judged(20) == Judged([Verdict("a", closed=False)], [])


def test_a_connection_is_counted_once_whoever_sends_and_again_when_its_ports_are_used_again() -> None:
    watch = Watch()
    new = [watch.seen(talk.segment(), "a", 10)[0] for talk in (TALK, TALK.back, TALK)]
    watch.answered(TALK.segment())
    watch.reset(TALK.back.segment("R"))
    again, verdicts = watch.seen(TALK.segment("S", 0), "b", 11)

    assert (new, again) == ([True, False, False], True)
    assert verdicts == [Verdict("a", closed=True)]
    assert watch.judged(20).verdicts == [Verdict("b", closed=False)]


def test_the_longest_silent_gives_way_unconfirmed_when_too_many_are_watched() -> None:
    watch = Watch(most=2)
    talks = [Talk(here_port=port) for port in (1, 2, 3)]
    answered(watch, talks[0], "PA", 10, 10)
    answered(watch, talks[1], "PA", 11, 10)
    answered(watch, talks[0], "PA", 12, 10)

    assert answered(watch, talks[2], "PA", 13, 10) == [Verdict("a", closed=False)]
    assert len(watch) == 2
    assert watch.judged(12 + QUIET_S).verdicts == [Verdict("a", closed=True)]


# -- openers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("talk", [TALK, TALK.back, Talk(here_port=50_000, there_port=60_000), Talk(here_port=20)])
def test_a_handshake_says_who_opened(talk: Talk) -> None:
    syn, syn_ack = Openers(), Openers()
    syn.learn(talk.segment("S", 0))
    syn_ack.learn(talk.back.segment("SA", 0))

    for openers in (syn, syn_ack):
        for seen in (talk.segment(), talk.back.segment()):
            assert openers.maybe_opener(seen) == talk.segment().source


@pytest.mark.parametrize(
    "here_port,there_port,known",
    [
        (50_000, 443, True),
        (32_768, 32_767, True),
        (32_768, 0, True),
        (65_535, 21, True),
        (50_000, 60_000, False),
        (32_767, 443, False),
        (443, 443, False),
        (50_000, 20, False),  # active FTP: opened from 20
    ],
)
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_without_one_the_ports_say_it_or_nobody_does(
    here_port: int, there_port: int, *, known: bool, protocol: str
) -> None:
    talk = Talk(here_port=here_port, there_port=there_port, protocol=protocol)
    opener = talk.segment().source if known else None

    assert Openers().maybe_opener(talk.segment()) == opener
    assert Openers().maybe_opener(talk.back.segment()) == opener


def test_a_later_handshake_between_the_same_ports_counts() -> None:
    openers = Openers()
    openers.learn(TALK.segment("S", 0))
    openers.learn(TALK.back.segment("S", 0))

    assert openers.maybe_opener(TALK.segment()) == TALK.back.segment().source


def test_a_datagram_does_not_learn_from_a_connection_with_its_ports() -> None:
    openers = Openers()
    openers.learn(TALK.back.segment("S", 0))

    assert openers.maybe_opener(TALK._replace(protocol="udp").segment()) == TALK.segment().source


def test_the_oldest_handshakes_are_forgotten() -> None:
    openers = Openers(most=2)
    talks = [Talk(here_port=443, there_port=port) for port in (50_001, 50_002, 50_003)]
    for talk in talks:
        openers.learn(talk.segment("S", 0))

    found = [openers.maybe_opener(talk.segment()) for talk in talks]
    assert found == [talks[0].segment().destination, talks[1].segment().source, talks[2].segment().source]


def test_a_connection_that_outlives_four_answers_is_answered_ahead_by_what_its_ends_sent_last() -> None:
    watch = Watch()
    steps = []
    for _ in range(10):
        answered(watch, TALK.back, "PA", 1, payload=3)
        answered(watch, TALK, "PA", 1, payload=10)
        steps.append(watch.ahead(TALK.segment("A", 0)))

    # What the source expects grows by what the destination sends, and the other way round.
    assert {(ahead.to_source, ahead.to_destination) for ahead in steps} == {(3, 10)}
    assert [ahead.steps for ahead in steps] == [0, 1, 4, *[16] * 7]
