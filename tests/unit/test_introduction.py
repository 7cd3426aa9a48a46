"""What a sensor tells of itself: read back as it was written, bounded, and kept by the vSensor as its latest word."""

from __future__ import annotations

import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_vsensor_kit import Message, Running

from ossensor.complaints import Complaints
from ossensor.transport.inquiry import Answer, Inquiry
from ossensor.transport.introduction import TASK_MEMBERS, Introduction
from ossensor.transport.protocol import (
    MAX_CONTROL_BYTES,
    MalformedError,
    Outcome,
    introduction_path,
    registration_path,
)
from ossensor.transport.signing import Key, Nonce
from ossensor.transport.stamp import Stamp
from ossensor.vsensor.introductions import NAME, Introductions
from ossensor.workers.asker import Asker
from ossensor.workers.liaison import Liaison
from ossensor.workers.route import Route

TASK = {"arn": "arn:aws:ecs:eu-central-1:1:task/c/1", "cluster": "c", "family": "web", "revision": "7"}
EPOCHS = {"eth0": "0123456789abcdef" * 2, "eth1": "f" * 32}
ME = Introduction("ossensor/0.1.0", "host", TASK, ("eth0", "eth1"), 2, "off", "why not", EPOCHS)


def test_it_is_read_back_as_it_was_written() -> None:
    assert Introduction.parse(ME.body) == ME


def test_members_that_a_later_version_knows_are_passed_over_and_missing_ones_have_defaults() -> None:
    assert Introduction.parse(b'{"application": "x", "later": [1], "task": {"arn": "a", "later": 7}}') == Introduction(
        "x", "", {"arn": "a"}
    )


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no JSON",
        b"[" * 100_000,
        b"[]",
        b'{"host": 7}',
        b'{"host": "a\\nb"}',
        b'{"host": "%s"}' % (b"x" * 513),
        b'{"task": []}',
        b'{"task": {"arn": 1}}',
        b'{"epochs": []}',
        b'{"epochs": {"eth0": 1}}',
        b'{"epochs": {"eth0": "0123"}}',
        b'{"epochs": {"eth0": "%s"}}' % (b"F" * 32),
        b'{"epochs": {"e\nth0": "%s"}}' % (b"f" * 32),
        b'{"interfaces": "eth0"}',
        b'{"interfaces": [1]}',
        b'{"interfaces": [%s]}' % b",".join([b'"a"'] * 257),
        b'{"interfaces_in_all": -1}',
        b'{"interfaces_in_all": true}',
        b'{"interfaces_in_all": 1e3}',
        b'{"later": "%s"}' % (b"x" * MAX_CONTROL_BYTES),
    ],
)
def test_what_no_sensor_would_send_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        Introduction.parse(body)


@given(st.binary(max_size=64), st.lists(st.text(max_size=15), max_size=400), st.text(max_size=2000))
@example(b"b\xfcro\n", [], "")  # a name in Latin-1, and what sethostname(2) takes besides
def test_whatever_a_sensor_has_fits_and_is_read_back(host: bytes, interfaces: list[str], refused: str) -> None:
    names = ["".join(c for c in name if c.isprintable()) for name in interfaces]
    said = Introduction("x", os.fsdecode(host)).now(names, refused, dict.fromkeys(names, "f" * 32))

    assert len(said.body) <= MAX_CONTROL_BYTES
    assert Introduction.parse(said.body) == said
    assert said.interfaces_in_all == len(names)


def test_the_epochs_of_a_few_interfaces_are_all_said_and_those_of_very_many_as_far_as_they_fit() -> None:
    few, many = ({f"interface{n:05}": "f" * 32 for n in range(count)} for count in (100, 256))

    assert len(Introduction("x", "h").now(list(few), "", few).epochs) == 100
    said = Introduction("x", "h", TASK).now(list(many), "x" * 600, many)
    assert (len(said.interfaces), len(said.epochs)) == (256, 128)
    assert len(said.body) <= MAX_CONTROL_BYTES


@pytest.mark.parametrize(
    "outcome, status, complaints",
    [
        (Outcome.REGISTERED, 200, []),
        (Outcome.STALE, 401, []),  # it is said again
        (None, 404, []),
        (None, 502, ["the vSensor did not take the introduction"]),
        (Outcome.MALFORMED, 422, ["the vSensor did not take the introduction"]),
    ],
)
def test_an_introduction_that_was_not_taken_is_complained_of(
    outcome: Outcome | None, status: int, complaints: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    route = cast(Route, SimpleNamespace(complaints=Complaints(logging.getLogger())))
    inquiry = Inquiry(introduction_path("s"), ME.body, Stamp("192.0.2.1", 1, 1, Nonce("0" * 32, 1), Key(b"k"), "", 443))

    Liaison(route, cast(Asker, None), "s", ME).heard(Answer(inquiry, "as it went", outcome, status), 0.0)

    assert [record.message for record in caplog.records] == complaints


def test_the_members_of_a_task_are_those_of_the_metadata_endpoint() -> None:
    assert sorted(TASK_MEMBERS.values()) == [
        *("AvailabilityZone", "Cluster", "Family", "LaunchType", "Revision", "TaskARN"),
    ]


# -- at the vSensor ---------------------------------------------------------------------------------------------------


@pytest.fixture
def told() -> list[tuple[str, Introduction]]:
    return []


@pytest.fixture
def server(tmp_path: Path, told: list[tuple[str, Introduction]]) -> Iterator[Running]:
    root = tmp_path / "store"
    keeping = Introductions(root, lambda *what: told.append(what))
    with Running(root, introductions=keeping) as running:
        yield running


def _said(server: Running, body: bytes) -> Message:
    return server.signer.registration(body, target=introduction_path("sensor-1"))


def test_it_is_kept_in_the_sensors_folder_and_told_once(server: Running, told: list[tuple[str, Introduction]]) -> None:
    answers = [server.wire.send(_said(server, ME.body)) for _ in range(2)]
    path = server.root / "sensor-1" / NAME

    assert [(a.status, a.outcome, a.body) for a in answers] == [(200, Outcome.REGISTERED, b"")] * 2
    assert told == [("sensor-1", ME)]
    assert Introduction.parse(path.read_bytes()) == ME
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_the_latest_word_counts(server: Running, told: list[tuple[str, Introduction]]) -> None:
    for host in ("a", "b"):
        server.wire.send(_said(server, Introduction("x", host).body))

    assert json.loads((server.root / "sensor-1" / NAME).read_text())["host"] == "b"
    assert [who.host for _, who in told] == ["a", "b"]


def test_what_is_malformed_is_said_to_be_and_nothing_is_kept(server: Running) -> None:
    answer = server.wire.send(_said(server, b'{"host": 7}'))

    assert (answer.status, answer.outcome) == (422, Outcome.MALFORMED)
    assert not (server.root / "sensor-1").exists()


def test_a_registration_is_no_introduction_under_the_same_signature(server: Running) -> None:
    message = _said(server, ME.body)
    message.target = registration_path("sensor-1")

    assert server.wire.send(message).status == 401


def test_what_the_disk_does_not_take_it_is_offered_again_and_told_once(tmp_path: Path) -> None:
    told: list[str] = []
    keeping = Introductions(tmp_path, lambda _, who: told.append(who.host))
    (tmp_path / "sensor-1").write_text("in the way of its folder")
    keeping.take("sensor-1", ME)
    (tmp_path / "sensor-1").unlink()
    keeping.take("sensor-1", ME)

    assert Introduction.parse((tmp_path / "sensor-1" / NAME).read_bytes()) == ME
    assert told == [ME.host]
