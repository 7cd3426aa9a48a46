"""Time, nonces, and bodies that are none or do not come: what is admitted once, and what never."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from test_vsensor_kit import NOW_S, STREAM, Clock, Running, eventually, payload, rows
from test_vsensor_kit import section as make_section

from ossensor.transport.protocol import FIELD_TIME, MAX_BODY_BYTES, MAX_CONTROL_BYTES, MAX_SECTION_BYTES, Outcome
from ossensor.transport.signing import Nonce
from ossensor.vsensor.collector import Limits


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A server that must have stored nothing when the test ends."""
    with Running(tmp_path / "store") as running:
        yield running
        assert rows(running.root) == []
        assert list(running.root.rglob("*.pcapng")) == []
        assert eventually(lambda: running.collector.budget.lent_bytes == 0)  # once it has heard of the last end


@pytest.mark.parametrize("skew_s", [-301, -61, 61, 301, -3600])
def test_a_request_outside_the_window_is_stale_and_told_the_time(server: Running, skew_s: int) -> None:
    answer = server.send(created_s=NOW_S + skew_s)

    assert (Outcome.STALE, str(NOW_S)) == (answer.outcome, answer.fields[FIELD_TIME])


def test_b5_a_request_that_is_cut_off_leaves_nothing_behind(server: Running) -> None:
    """At each byte of some 4 KiB, from the first of the head to the last but one of the body."""
    message = server.signer.message(0, make_section([payload(0, 3200)]))
    data = server.wire.head(message) + message.body
    assert len(data) > 4000
    for place in range(len(data)):
        with server.wire.connect() as connection:
            connection.sendall(data[:place])

    # The same nonce: had any of the cut ones been taken for whole, this would be a replay or its batch would be there.
    fresh = server.send(0, b"no section")

    assert fresh.outcome == Outcome.MALFORMED


def test_a_body_that_stalls_is_given_up(tmp_path: Path) -> None:
    with Running(tmp_path, limits=Limits(body_pause_s=0.05)) as running:
        message = running.signer.message()
        with running.wire.connect() as connection:
            connection.sendall(running.wire.head(message) + message.body[:10])
            reply = connection.recv(4096)
            connection.settimeout(120)
            assert reply.startswith(b"HTTP/1.1 408 ")
            assert connection.recv(4096) == b""

        assert eventually(lambda: running.collector.budget.lent_bytes == 0)  # once it has heard of the last end
        assert eventually(lambda: dict(running.collector.tally) == {"gone": 1})
        assert rows(tmp_path) == []


def test_when_memory_is_short_a_batch_is_told_to_come_again(tmp_path: Path) -> None:
    body = make_section([bytes(2000)])
    frame = zstandard.ZstdCompressor().compress(body)
    assert len(frame) < len(body) / 4
    with Running(tmp_path, limits=Limits(budget_bytes=len(body))) as running:
        outcomes = [
            running.send(0, body + b"\0").outcome,
            running.send(0, frame, fields={"Content-Encoding": "zstd"}).outcome,  # with what it opens to, too large
            running.send(0, body).outcome,
        ]

        assert outcomes == [Outcome.BUSY, Outcome.BUSY, Outcome.STORED]
        assert eventually(lambda: running.collector.budget.lent_bytes == 0)  # once it has heard of the last end


@pytest.mark.parametrize("skew_s", [-60, -59, 0, 59, 60])
def test_a_request_inside_the_window_is_stored(tmp_path: Path, skew_s: int) -> None:
    with Running(tmp_path) as running:
        assert running.send(created_s=NOW_S + skew_s).outcome == Outcome.STORED
    assert [(STREAM.sensor, STREAM.interface, 0)] == rows(tmp_path)


def test_replays_are_refused_at_once_at_the_windows_edge_and_after_a_restart(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        first = [running.signer.message(i) for i in range(100)]
        stored = [running.wire.send(m).outcome for m in first]
        at_once = [running.wire.send(m).outcome for m in first]
        running.clock.now_s = NOW_S + 60
        at_the_edge = [running.wire.send(m).outcome for m in first]
        running.clock.now_s = NOW_S + 61
        past_the_edge = [running.wire.send(m).outcome for m in first]
        authority = running.authority
        memory = len(running.collector._gate._replay)
    for started_s in (NOW_S, NOW_S + 0.9, NOW_S + 59.9):
        with Running(tmp_path, clock=Clock(started_s)) as running:
            for message in first:
                message.set("Host", authority)  # a second vSensor behind the same name
            after_restart = [running.wire.send(m).outcome for m in first]

            assert after_restart == [Outcome.STALE] * 100

    assert stored == [Outcome.STORED] * 100
    assert at_once == [Outcome.REPLAYED] * 100
    assert at_the_edge == [Outcome.REPLAYED] * 100
    assert past_the_edge == [Outcome.STALE] * 100
    assert memory == 1
    assert [(STREAM.sensor, STREAM.interface, i) for i in range(100)] == rows(tmp_path)


def test_a_request_signed_ahead_and_replayed_over_a_restart_stores_nothing_twice(tmp_path: Path) -> None:
    """The one replay that the clock does not refuse: its sensor was 50 s ahead. The index refuses it."""
    with Running(tmp_path) as running:
        message = running.signer.message(created_s=NOW_S + 50)
        first = running.wire.send(message).outcome
    with Running(tmp_path, clock=Clock(NOW_S + 1)) as running:
        again = running.wire.send(message).outcome

    assert (first, again) == (Outcome.STORED, Outcome.PRESENT)
    assert len(rows(tmp_path)) == 1


def test_a_nonce_spent_on_a_damaged_body_is_spent(server: Running) -> None:
    nonce = Nonce("ab" * 16, 7)
    damaged = server.signer.message(nonce=nonce)
    damaged.body = bytes(len(damaged.body))
    whole = server.signer.message(nonce=nonce)

    assert [server.wire.send(m).outcome for m in (damaged, whole)] == [Outcome.ALTERED, Outcome.REPLAYED]


def test_a_stored_batch_answers_with_a_signature_bound_to_its_own_request(tmp_path: Path) -> None:
    with Running(tmp_path) as running:
        answer = running.send()

    assert (201, Outcome.STORED, str(NOW_S), b"") == (
        answer.status,
        answer.outcome,
        answer.fields[FIELD_TIME],
        answer.body,
    )


@pytest.mark.parametrize(
    "name, spoken", [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)], ids=["1.1", "1.2", "1.3"]
)
def test_tls_is_spoken_from_version_1_2_on(server: Running, name: str, *, spoken: bool) -> None:
    context = ssl.create_default_context(cafile=str(server.pair.certificate))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")  # or the client would refuse 1.1 before the server can
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of 1.1
        version = ssl.TLSVersion[name]
        context.minimum_version, context.maximum_version = ssl.TLSVersion.MINIMUM_SUPPORTED, version
        context.minimum_version = version
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as raw:
        try:
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as connection:
                found = connection.version() is not None
        except ssl.SSLError:
            found = False

    assert spoken == found


GOOD = make_section([payload(0), payload(1)])
FRAME = zstandard.ZstdCompressor(level=1).compress(GOOD)
BODIES: dict[str, tuple[bytes, bool, Outcome]] = {
    "empty": (b"", False, Outcome.MALFORMED),
    "text": (b"hello, world" * 10, False, Outcome.MALFORMED),
    "two sections": (GOOD + GOOD, False, Outcome.MALFORMED),
    "a section and a byte": (GOOD + b"\0", False, Outcome.MALFORMED),
    "a cut section": (GOOD[:-4], False, Outcome.MALFORMED),
    "zstd: not": (GOOD, True, Outcome.MALFORMED),
    "zstd: cut": (FRAME[:-1], True, Outcome.MALFORMED),
    "zstd: header only": (FRAME[:6], True, Outcome.MALFORMED),
    "zstd: trailing byte": (FRAME + b"\0", True, Outcome.MALFORMED),
    "zstd: two frames": (FRAME + FRAME, True, Outcome.MALFORMED),
    "zstd: bomb of 1 GiB": (b"", True, Outcome.TOO_LARGE),  # made in the test: it takes a second
    "zstd: one byte over": (
        zstandard.ZstdCompressor().compress(bytes(MAX_SECTION_BYTES + 1)),
        True,
        Outcome.TOO_LARGE,
    ),
    "not zstd, but compressed": (FRAME, False, Outcome.MALFORMED),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_signed_body_that_is_no_section_is_refused(server: Running, name: str) -> None:
    body, compressed, outcome = BODIES[name]
    if "bomb" in name:
        compressor = zstandard.ZstdCompressor(level=1).compressobj(size=1 << 30)
        body = b"".join([*(compressor.compress(bytes(1 << 20)) for _ in range(1 << 10)), compressor.flush()])
        assert len(body) < 1 << 20

    answer = server.send(body=body, fields={"Content-Encoding": "zstd"} if compressed else None)

    assert outcome == answer.outcome


@pytest.mark.parametrize("most_bytes", [MAX_BODY_BYTES, MAX_CONTROL_BYTES], ids=["batch", "registration"])
def test_a_body_over_the_limit_is_refused_before_it_is_read_and_by_nobody_in_particular(
    server: Running, most_bytes: int
) -> None:
    """The length is not signed. A signed refusal would have the sensor give a batch up because of one altered digit."""
    signer = server.signer
    message = signer.message() if most_bytes == MAX_BODY_BYTES else signer.registration()
    message.set("Content-Length", str(most_bytes + 1))
    message.body = b""  # nothing of it is ever sent: an answer proves that none was waited for

    answer = server.wire.send(message)

    assert (answer.status, answer.body, answer.outcome) == (413, b"", None)
    assert (answer.fields["connection"], dict(server.collector.tally)) == ("close", {})
