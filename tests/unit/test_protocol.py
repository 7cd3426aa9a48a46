"""Paths, names, numbers and the table of outcomes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossensor.transport.protocol import (
    LEAST_SECTION_BYTES,
    MAX_FILTER_CHARACTERS,
    MAX_SEQUENCE,
    TEXT_CHARACTERS_MAX,
    Account,
    BatchId,
    Limits,
    MalformedError,
    Outcome,
    Stream,
    Welcome,
    antigena_path,
    control_sensor,
    interface_name_ok,
    introduction_path,
    parse_number,
    registration_path,
    sensor_name_ok,
    text,
)

EPOCH = "0123456789abcdef" * 2


def path(sensor: str = "s", epoch: str = EPOCH, interface: str = "eth0", sequence: str = "0") -> str:
    return f"/v1/sensors/{sensor}/epochs/{epoch}/interfaces/{interface}/batches/{sequence}"


@pytest.mark.parametrize("text, number", [("0", 0), ("7", 7), ("10", 10), (str(MAX_SEQUENCE), MAX_SEQUENCE)])
def test_canonical_numbers_are_read(text: str, number: int) -> None:
    assert parse_number(text) == number


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1 ", "+1", "-0", "-1", "01", "00", "1_0", "1.0", "1e3", "0x1", "\u0661", "\uff11", "1\n", "\n1", "1\0",
     str(MAX_SEQUENCE + 1), "9" * 19, "1" * 20, "1" * 100_000],
)  # fmt: skip
def test_numbers_in_any_other_spelling_are_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_number(text)


@pytest.mark.parametrize("name", ["a", "0", "ecs-task.1_x", "A" * 63])
def test_sensor_names_that_can_be_folders(name: str) -> None:
    assert sensor_name_ok(name)


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "ü", "a\n", "a\0", "A" * 64, "a%2e"])
def test_sensor_names_that_can_not(name: str) -> None:
    assert not sensor_name_ok(name)


@pytest.mark.parametrize("name", ["a", "eth0", "eth0.100", "veth@if3", "%s", "ü", "a" * 15, "ü" * 7, "...", "a\\b"])
def test_interface_names_that_the_kernel_allows(name: str) -> None:
    assert interface_name_ok(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "a\n", "a\0", "\x7f", "\x85", "\udcff", "a" * 16, "ü" * 8]
)
def test_interface_names_that_it_does_not_or_that_no_path_should_carry(name: str) -> None:
    assert not interface_name_ok(name)


INTERFACES = st.text(max_size=15).filter(interface_name_ok)
SENSORS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", fullmatch=True)
EPOCHS = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)


@given(SENSORS, EPOCHS, INTERFACES, st.integers(0, MAX_SEQUENCE))
def test_a_batch_survives_its_path(sensor: str, epoch: str, interface: str, sequence: int) -> None:
    batch = BatchId(Stream(sensor, epoch, interface), sequence)

    assert BatchId.from_path(batch.path) == batch
    assert batch.path.isascii()


@pytest.mark.parametrize(
    "spelling",
    [
        "",
        "/",
        path() + "/",
        path() + "?",
        path() + "\n",
        "/" + path(),
        path().upper(),
        path(sensor=".."),
        path(sensor="%73"),
        path(sensor=""),
        path(epoch=EPOCH.upper()),
        path(epoch=EPOCH[:-1]),
        path(epoch=EPOCH + "0"),
        path(interface="%65th0"),
        path(interface="veth@if3"),
        path(interface="%c3%bc"),
        path(interface="%C3"),
        path(interface="%FF%FE"),
        path(interface="%ED%B3%BF"),
        path(interface="%"),
        path(interface="%zz"),
        path(interface="%2F"),
        path(interface="%2E%2E"),
        path(interface="%00"),
        path(interface="\u00fc"),
        path(interface=""),
        path(interface="e" * 16),
        path(sequence="-1"),
        path(sequence="01"),
        path(sequence="\u0661"),
        path(sequence=str(MAX_SEQUENCE + 1)),
        path(sequence=""),
    ],
)
def test_a_path_in_any_other_spelling_is_malformed(spelling: str) -> None:
    with pytest.raises(MalformedError):
        BatchId.from_path(spelling)


@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_a_path_holds_it_is_read_or_malformed(interface: str, sequence: str) -> None:
    given_path = path(interface=interface, sequence=sequence)
    try:
        batch = BatchId.from_path(given_path)
    except MalformedError:
        return

    assert batch.path == given_path


def test_the_table_of_outcomes() -> None:
    assert {o.value: (o.status, o.acknowledged) for o in Outcome} == {
        "stored": (201, True),
        "present": (200, True),
        "registered": (200, False),
        "malformed": (422, False),
        "too-large": (413, False),
        "stale": (401, False),
        "replayed": (401, False),
        "altered": (400, False),
        "out-of-order": (425, False),
        "busy": (503, False),
        "store-failed": (507, False),
    }


@pytest.mark.parametrize("text", ["", "tcp port 80 or (udp and not host 192.0.2.1)", "x" * MAX_FILTER_CHARACTERS])
def test_a_welcome_is_read_back_as_it_was_written(text: str) -> None:
    assert Welcome.parse(Welcome(text).body) == Welcome(text)
    whole = Welcome(text, "192.0.2.1:443", Limits(LEAST_SECTION_BYTES, 2))
    assert Welcome.parse(whole.body) == whole


def test_a_welcome_that_asks_for_nothing_is_empty_and_limits_that_are_not_given_are_none() -> None:
    assert Welcome().body == b""
    assert Welcome.parse(b'{"limits": {"window": 3, "later": []}}').limits == Limits(0, 3)


def test_a_welcome_may_hold_what_a_later_version_knows() -> None:
    assert Welcome.parse(b'{"packet_filter": "tcp", "more": [1]}') == Welcome("tcp")
    assert Welcome.parse(b"{}") == Welcome()


@pytest.mark.parametrize(
    "body",
    [
        b"ok",
        b"[]",
        b'"tcp"',
        b"[" * 100_000,
        b"\xff",
        b'{"limits": 7}',
        b'{"limits": {"window": 0}}',
        b'{"limits": {"window": true}}',
        b'{"limits": {"window": 1.0}}',
        b'{"limits": {"batch_bytes": 1048575}}',
        b'{"limits": {"batch_bytes": "8 MiB"}}',
        b'{"packet_filter": null}',
        b'{"packet_filter": 7}',
        b'{"packet_filter": "tcp\\n"}',
        b'{"packet_filter": "t\\u00e9"}',
        b'{"packet_filter": "' + b"x" * (MAX_FILTER_CHARACTERS + 1) + b'"}',
    ],
)
def test_a_body_that_is_no_welcome_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedError):
        Welcome.parse(body)


@pytest.mark.parametrize("make", [registration_path, introduction_path, antigena_path])
def test_the_path_of_a_control_request_names_its_sensor(make: Callable[[str], str]) -> None:
    assert control_sensor(make("s.1")) == "s.1"


@pytest.mark.parametrize(
    "path",
    ["", "/", "/v1/sensors/s", "/v1/sensors/s/", "/v1/sensors//antigena", "/v1/sensors/.s/antigena",
     "/v1/sensors/s/orders", "/v1/sensors/s/t/antigena", "/v1/sensors/s%2e/antigena", "/v1/sensors/s/antigena/",
     "/v1/sensors/s/antigena\n"],
)  # fmt: skip
def test_any_other_path_is_of_no_control_request(path: str) -> None:
    with pytest.raises(MalformedError):
        control_sensor(path)


ACCOUNT = "first-packet=1, received=2, kernel-drops=3, final=1, rejected=5, too-large=6, corrupt=7"


def test_books_are_read_back_as_they_were_written() -> None:
    account = Account(1, 2, 3, 1, 5, 6, 7)

    assert (account.text, Account.parse(ACCOUNT)) == (ACCOUNT, account)


@pytest.mark.parametrize(
    "text",
    ["", "0", ACCOUNT + " ", ACCOUNT + ", x=1", ACCOUNT.replace(", ", ","), ACCOUNT.replace("final=1", "final=2"),
     ACCOUNT.replace("received=2", "received=02"), ACCOUNT.replace("received=2, ", ""), ACCOUNT.replace("=1", "=-1"),
     ACCOUNT + ", x=1" * 100],
)  # fmt: skip
def test_books_in_any_other_spelling_are_malformed(text: str) -> None:
    with pytest.raises(MalformedError):
        Account.parse(text)


def test_a_text_is_printable_and_not_too_long() -> None:
    assert [text(value) for value in ("", "\u00fc ", "x" * TEXT_CHARACTERS_MAX)] == [
        "",
        "\u00fc ",
        "x" * TEXT_CHARACTERS_MAX,
    ]
    for value in (None, 7, b"x", ["x"], "a\nb", "\x1b[2J", "\u202e", "x" * (TEXT_CHARACTERS_MAX + 1)):
        with pytest.raises(MalformedError):
            text(value)
