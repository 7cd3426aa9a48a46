"""What is published, what is asked of the servers, and what is wrong with options: the parts that need no server."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import DiscardPolicy, PubAck, RetentionPolicy, StorageType
from nats.js.errors import APIError
from test_vsensor_kit import EPOCH, STREAM, payload, section

from ossensor.cli import main
from ossensor.transport.protocol import Account, BatchId, MalformedError, Outcome, Stream
from ossensor.vsensor.jetstream import access, message
from ossensor.vsensor.jetstream.pending import PutBack
from ossensor.vsensor.jetstream.sink import _outcome
from ossensor.vsensor.jetstream.terms import Terms, objections, wanted
from ossensor.vsensor.section import SectionError
from ossensor.vsensor.store import Append

SECTION = section([payload(1), payload(2)])
APPEND = Append(BatchId(Stream("a.b-c", EPOCH, "e*.>"), 7), 5, 2, SECTION, Account(first_packet=3, received=9).text)
TERMS = Terms(8 << 20, 3)
KEY = {"VSENSOR_HMAC_KEY": "0123456789abcdef0123456789abcdef"}


def test_a_message_is_read_as_what_was_published() -> None:
    read = message.parse(message.headers(APPEND), SECTION)

    assert (read.batch, read.floor, read.packets, read.books) == (APPEND.batch, 5, 2, APPEND.books)
    assert bytes(read.section) == SECTION


def test_a_batch_that_came_compressed_is_published_so_and_stored_open() -> None:
    packed = zstandard.compress(SECTION)
    append = replace(APPEND, packed=packed)

    assert message.parse(message.headers(append), packed).section == SECTION


def test_the_id_is_the_path_and_fits_into_the_room_for_headers() -> None:
    longest = Stream("s" * 63, EPOCH, "\N{GREEK SMALL LETTER ALPHA}" * 7)
    account = Account(*[2**63 - 1] * 3, 1, *[2**63 - 1] * 3)
    append = Append(BatchId(longest, 2**63 - 1), 2**63 - 1, 2**63 - 1, SECTION, account.text, packed=b"")
    headers = message.headers(append)

    assert headers["Nats-Msg-Id"] == append.batch.path
    assert sum(len(k) + len(v) + 4 for k, v in headers.items()) + 16 < message.HEADERS_MAX_BYTES


@pytest.mark.parametrize(
    "field,value",
    [
        ("Nats-Msg-Id", "/v1/sensors/a/epochs/b/interfaces/c/batches/1"),
        ("Nats-Msg-Id", APPEND.batch.path.replace("/7", "/07")),
        ("ossensor-floor", "8"),
        ("ossensor-floor", "-1"),
        ("ossensor-packets", "two"),
        ("ossensor-books", ""),
        ("Content-Encoding", "zstd"),
    ],
)
def test_a_message_that_no_vsensor_would_publish_is_refused(field: str, value: str) -> None:
    with pytest.raises((MalformedError, SectionError)):
        message.parse(message.headers(APPEND) | {field: value}, SECTION)


@given(st.binary(max_size=200))
def test_a_body_that_is_no_section_is_refused(data: bytes) -> None:
    with pytest.raises(SectionError):
        message.parse(message.headers(APPEND), data)


def test_partitions_are_of_sensor_and_interface_and_stay_what_they_are() -> None:
    """Another value would split an interface over two stores."""
    assert message.partition(STREAM) == message.partition(STREAM._replace(epoch="f" * 32)) == 2
    spread = {message.partition(Stream(f"s{i}", EPOCH, "eth0")) for i in range(200)}
    assert spread == set(range(16))


def test_the_stream_that_we_make_is_one_that_we_accept() -> None:
    assert objections(wanted(TERMS), TERMS.message_bytes, TERMS) == []


@pytest.mark.parametrize(
    "change,said",
    [
        ({"retention": RetentionPolicy.LIMITS}, "not a work queue"),
        ({"retention": RetentionPolicy.INTEREST}, "not a work queue"),
        ({"discard": DiscardPolicy.OLD}, "discards old messages"),
        ({"max_age": 3600.0}, "by their age"),
        ({"storage": StorageType.MEMORY}, "in memory only"),
        ({"no_ack": True}, "no acknowledgements"),
        ({"duplicate_window": 60.0}, "remembers ids for 60 s, not for 120 s"),
        ({"max_msg_size": 1 << 20}, "takes 1,048,576 bytes a message, a batch may need 8,392,704"),
        ({"subjects": ["ossensor.batches.1"]}, "does not have the subject ossensor.batches.>"),
    ],
)
def test_a_stream_that_may_lose_what_it_acknowledged_is_objected_to(change: dict[str, Any], said: str) -> None:
    (objection,) = objections(wanted(TERMS).evolve(**change), TERMS.message_bytes, TERMS)

    assert said in objection


def test_all_objections_are_made_at_once() -> None:
    config = wanted(TERMS).evolve(discard=DiscardPolicy.OLD, storage=StorageType.MEMORY)

    assert len(objections(config, 1 << 20, TERMS)) == 3


@pytest.mark.parametrize(
    "answer,outcome",
    [
        (PubAck("OSSENSOR", 7), Outcome.STORED),
        (PubAck("OSSENSOR", 7, duplicate=True), Outcome.PRESENT),
        (PubAck("OSSENSOR", 0, duplicate=True), Outcome.BUSY),
        (APIError(code=503, err_code=10077), Outcome.STORE_FAILED),
        (None, Outcome.STORE_FAILED),
    ],
)
def test_only_what_a_quorum_has_is_acknowledged(answer: PubAck | APIError | None, outcome: Outcome) -> None:
    assert _outcome(answer) is outcome


def put_back(*places: tuple[int, int]) -> PutBack:
    found = PutBack()
    for place, sequence in places:
        found.put(place, BatchId(STREAM, sequence))
    return found


@pytest.mark.parametrize(
    "unacknowledged,delivered_to,orphans",
    [(2, 12, {10}), (3, 12, set()), (1, 12, set()), (2, 11, set()), (2, 40, {10})],
)
def test_a_batch_is_an_orphan_when_nothing_is_on_its_way_that_could_be_its_predecessor(
    unacknowledged: int, delivered_to: int, orphans: set[int]
) -> None:
    waiting = put_back((10, 5), (12, 6))
    waiting.ask(unacknowledged, delivered_to)

    assert {place for place in (10, 12) if waiting.is_orphan(place)} == orphans


def test_of_each_stream_the_lowest_batch_is_the_orphan_and_none_when_it_was_stored() -> None:
    waiting = put_back((10, 6), (12, 5))
    waiting.put(11, BatchId(STREAM._replace(interface="eth1"), 3))
    waiting.ask(3, 12)
    assert [waiting.is_orphan(place) for place in (10, 11, 12)] == [False, True, True]
    waiting.done(12)
    assert [waiting.is_orphan(place) for place in (10, 11, 12)] == [False, True, False]
    assert len(waiting) == 2


def arguments(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    access.add_arguments(parser)
    return parser.parse_args(argv)


def test_servers_a_login_and_tls_become_what_connects(tmp_path: Path) -> None:
    login = tmp_path / "login"
    login.write_text("me:a:b\n")
    login.chmod(0o600)
    faults: list[str] = []
    found = access.parse(
        "URL", "tls://nats.test:4222,nats://[::1]:4223", arguments("--nats-login-file", str(login)), faults
    )

    assert faults == []
    assert found.options["servers"] == ["tls://nats.test:4222", "nats://[::1]:4223"]
    assert (found.options["user"], found.options["password"]) == ("me", "a:b")
    assert found.options["tls"].verify_mode == 2
    assert "a:b" not in repr(found)


def test_everything_wrong_with_the_options_is_said_at_once_and_no_secret_is(tmp_path: Path) -> None:
    (tmp_path / "login").write_text("a secret without the other half")
    (tmp_path / "login").chmod(0o600)
    (tmp_path / "creds").touch()
    (tmp_path / "creds").chmod(0o644)
    faults: list[str] = []
    options = ("--nats-creds", str(tmp_path / "creds"), "--nats-login-file", str(tmp_path / "login"))
    options += ("--nats-cert", str(tmp_path / "none"), "--nats-ca", str(tmp_path / "none"))
    access.parse("URL", "nats://me:hunter2@h:4222,nats://good:1,http://h:1", arguments(*options), faults)

    assert faults == [
        "URL: address 1 is not nats://HOST:PORT or tls://HOST:PORT, without a password",
        "URL: address 3 is not nats://HOST:PORT or tls://HOST:PORT, without a password",
        "--nats-cert and --nats-key: give both or neither",
        "--nats-creds and --nats-login-file: give one",
        f"--nats-creds: {tmp_path}/creds: its mode is 0644, others may read or change it (chmod 600)",
        f"--nats-login-file: {tmp_path}/login: not USER:PASSWORD",
        "--nats-ca, --nats-cert, --nats-key: unusable: No such file or directory",
    ]


def test_options_of_files_are_refused_beside_jetstream_with_where_they_belong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in KEY.items():
        monkeypatch.setenv(name, value)
    argv = ["vsensor", "--listen", "127.0.0.1:0", "--store", str(tmp_path), "--jetstream", "nats://127.0.0.1:1"]
    code = main([*argv, "--keep-days", "1", "--no-fsync", "--vxlan", "127.0.0.1:4789", "--jetstream-replicas", "6"])

    assert code == 78
    assert capsys.readouterr().err.splitlines() == [
        "vsensor: --jetstream-replicas: '6' is not a whole number from 1 to 5",
        "vsensor: --keep-days: with --jetstream no batch is kept here; `ossensor consume` has it",
        "vsensor: --no-fsync: with --jetstream no batch is kept here; `ossensor consume` has it",
        "vsensor: --vxlan: with --jetstream there are no files here to stream from",
    ]


def test_consume_says_all_that_is_wrong_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["consume", "here", "--store", str(tmp_path), "--part", "4/3", "--name", "a.b", "--rotate-mb", "0"]

    assert main(argv) == 78
    assert capsys.readouterr().err.splitlines() == [
        "consume: URL: address 1 is not nats://HOST:PORT or tls://HOST:PORT, without a password",
        "consume: --rotate-mb: '0' is not a whole number of MiB from 1 to 1073741824",
        "consume: --part: '4/3' is not K/N with K from 1 to N and N up to 16",
        "consume: --name: 'a.b' is not 1 to 32 letters, digits, `_` or `-`",
    ]


@pytest.mark.parametrize("members", [1, 2, 3, 16])
def test_the_parts_of_a_group_cover_each_partition_once(members: int) -> None:
    from ossensor.vsensor.jetstream.command import _part  # noqa: PLC0415

    parts = [_part(f"{k}/{members}", []) for k in range(1, members + 1)]
    assert sorted(number for part in parts for number in part) == list(range(16))
