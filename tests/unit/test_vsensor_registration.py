"""A registration at the vSensor: which certificate it says is its own, and to whom."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from test_vsensor_kit import KEY, NOW_S, Running, rows, section

from ossensor.transport.protocol import (
    FIELD_CERTIFICATE,
    FIELD_TIME,
    LEAST_SECTION_BYTES,
    MAX_CONTROL_BYTES,
    TAG_DATA,
    Limits,
    Outcome,
    Welcome,
    registration_path,
)
from ossensor.transport.signing import Key


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path / "store") as running:
        yield running
        assert rows(running.root) == []


def test_a_holder_of_the_key_is_told_the_certificate_and_the_time(server: Running) -> None:
    answer = server.wire.send(server.signer.registration())

    assert (answer.status, answer.outcome, answer.body) == (200, Outcome.REGISTERED, b"")
    assert answer.fields[FIELD_CERTIFICATE] == server.pair.sha256
    assert answer.fields[FIELD_TIME] == str(NOW_S)


def test_nobody_else_is_told_anything(server: Running) -> None:
    server.signer.key = Key(b"another key of thirty-two bytes.")
    answer = server.wire.send(server.signer.registration())

    assert (answer.status, answer.outcome, answer.body) == (401, None, b"")
    assert FIELD_CERTIFICATE not in answer.fields
    assert dict(server.collector.tally) == {"unauthentic": 1}


def test_what_was_signed_for_one_channel_is_nothing_on_the_other(server: Running) -> None:
    registration = server.signer.registration(tag=TAG_DATA)
    batch = server.signer.message(tag="ossensor-control")

    assert [server.wire.send(message).status for message in (registration, batch)] == [401, 401]


def test_a_second_key_is_good_for_both_channels(server: Running) -> None:
    second = Key(b"the second key, of thirty-two b.")
    server.collector._keys = {KEY.id: KEY, second.id: second}

    for message in (server.signer.registration(), server.signer.registration()):
        assert server.wire.send(message).outcome is Outcome.REGISTERED


@pytest.mark.parametrize("skew_s,outcome", [(-61, Outcome.STALE), (-60, Outcome.REGISTERED), (61, Outcome.STALE)])
def test_time_is_judged_as_for_batches_and_the_answer_names_the_certificate_all_the_same(
    server: Running, skew_s: int, outcome: Outcome
) -> None:
    answer = server.wire.send(server.signer.registration(created_s=NOW_S + skew_s))

    assert (answer.outcome, answer.fields[FIELD_CERTIFICATE]) == (outcome, server.pair.sha256)


def test_a_registration_is_taken_once(server: Running) -> None:
    message = server.signer.registration()

    assert [server.wire.send(message).outcome for _ in range(2)] == [Outcome.REGISTERED, Outcome.REPLAYED]


def test_a_body_that_is_not_the_signed_one_is_altered(server: Running) -> None:
    message = server.signer.registration(b'{"protocol": 1}')
    message.body = b'{"protocol": 2}'

    assert server.wire.send(message).outcome is Outcome.ALTERED


@pytest.mark.parametrize(
    "change,outcome",
    [
        ({"fields": {"Content-Type": "text/plain"}}, Outcome.MALFORMED),
        ({"target": registration_path("sensor-1") + "?x=1"}, Outcome.MALFORMED),
        ({"target": registration_path(".hidden")}, Outcome.MALFORMED),
        ({"target": registration_path("tls")}, Outcome.MALFORMED),  # a folder of the store's own
        ({"body": bytes(MAX_CONTROL_BYTES)}, Outcome.REGISTERED),
    ],
)
def test_what_means_nothing_here_is_refused_for_good(
    server: Running, change: dict[str, object], outcome: Outcome
) -> None:
    assert server.wire.send(server.signer.registration(**change)).outcome is outcome


def test_what_the_operator_asks_of_sensors_is_in_every_signed_answer(tmp_path: Path) -> None:
    with Running(tmp_path / "filtering", welcome=Welcome("tcp port 80")) as running:
        good = running.wire.send(running.signer.registration())
        stale = running.wire.send(running.signer.registration(created_s=NOW_S - 61))

    assert [Welcome.parse(answer.body) for answer in (good, stale)] == [Welcome("tcp port 80")] * 2
    assert stale.outcome is Outcome.STALE


def test_what_is_above_the_limit_that_was_named_is_too_large_signed_whether_it_is_compressed_or_not(
    tmp_path: Path,
) -> None:
    welcome = Welcome(limits=Limits(LEAST_SECTION_BYTES, 2))
    bodies = [section([bytes(LEAST_SECTION_BYTES - over)]) for over in (0, 200)]
    with Running(tmp_path / "limited", welcome=welcome) as running:
        named = running.wire.send(running.signer.registration())
        outcomes = [running.send(0, body).outcome for body in bodies]
        fields = {"Content-Encoding": "zstd"}
        outcomes += [running.send(1, zstandard.compress(body), fields=fields).outcome for body in bodies]

    assert Welcome.parse(named.body) == welcome
    assert outcomes == [Outcome.TOO_LARGE, Outcome.STORED] * 2


@pytest.mark.parametrize("value", ["7", "null", '["10.0.0.1:1"]', '"a\\nb"', '"' + "1" * 3000 + '"'])
def test_a_direct_address_that_is_no_text_is_one_that_cannot_be_and_the_rest_of_the_welcome_stands(value: str) -> None:
    welcome = Welcome.parse(b'{"packet_filter": "tcp", "direct": %s}' % value.encode())

    assert welcome == Welcome("tcp", "(no printable text)")
