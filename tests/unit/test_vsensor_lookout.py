"""What may be looked at: who may, what is shown after what was stored, and readers of events that do not read."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPSConnection, IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.routing import Route
from test_vsensor_kit import EPOCH, KEY, NOW_S, Running
from test_vsensor_operator import BLOCK, TOKEN, Operator

from ossensor.antigena.token import Token
from ossensor.transport.introduction import Introduction
from ossensor.transport.orders import Report
from ossensor.transport.protocol import FIELD_BOOKS, Account, Outcome, introduction_path
from ossensor.vsensor import openapi
from ossensor.vsensor.files import Files
from ossensor.vsensor.operator import PATH

VIEWER = Token(b"viewer-token-of-forty-characters-0000000")
LOOKS = ("/v1/sensors", "/v1/sensors/sensor-1", "/v1/events", "/metrics", "/openapi.json", PATH)
WHO = Introduction("ossensor/0.1.0", "ip-10-0-1-7", {"family": "web"}, ("eth0",), 1, antigena="enforce")


@contextmanager
def running(tmp_path: Path, **options: Any) -> Iterator[Running]:
    with Running(tmp_path / "store", operator_token=TOKEN, viewer_token=VIEWER, **options) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with running(tmp_path) as server:
        yield server


def text(server: Running, path: str, authorization: str | None = VIEWER.header) -> tuple[int, str]:
    """The status and the body of a reply that ends."""
    connection = connected(server)
    try:
        connection.request("GET", path, headers={} if authorization is None else {"Authorization": authorization})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def connected(server: Running) -> HTTPSConnection:
    context = ssl.create_default_context(cafile=str(server.pair.certificate))
    return HTTPSConnection("127.0.0.1", server.port, context=context, timeout=120)


class Reader:
    """Somebody who reads events, maybe by a narrow socket."""

    def __init__(self, server: Running, receive_bytes: int | None = None) -> None:
        self.connection = connected(server)
        if receive_bytes is not None:
            # Before the connection, or the window has been told already (tcp(7)).
            raw = socket.socket()
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            raw.settimeout(120)
            raw.connect(("127.0.0.1", server.port))
            context = ssl.create_default_context(cafile=str(server.pair.certificate))
            self.connection.sock = context.wrap_socket(raw, server_hostname="127.0.0.1")
        self.connection.request("GET", "/v1/events", headers={"Authorization": VIEWER.header})
        self.response = self.connection.getresponse()

    def close(self) -> None:
        self.response.close()  # it holds the socket, too
        self.connection.close()

    def event(self) -> dict[str, Any]:
        lines = [self.response.readline().decode() for _ in range(3)]
        assert (lines[0], lines[2]) == ("event: snapshot\n", "\n")
        found: dict[str, Any] = json.loads(lines[1].removeprefix("data: "))
        return found


def say_everything(server: Running) -> None:
    """An introduction, three batches of which the second came twice, and a report."""
    introduction = server.signer.registration(WHO.body, target=introduction_path("sensor-1"))
    books = [Account(0, 2, 1), Account(1, 3, 1), Account(2, 4, 1, rejected=5)]
    answers = [
        server.wire.send(introduction),
        *(server.send(sequence, fields={FIELD_BOOKS: books[sequence].text}) for sequence in (0, 1, 1, 2)),
        server.wire.send(server.signer.report(Report("observe", "", 0))),
    ]
    outcomes = [answer.outcome for answer in answers]
    stored = [Outcome.STORED, Outcome.STORED, Outcome.PRESENT, Outcome.STORED]
    assert outcomes == [Outcome.REGISTERED, *stored, Outcome.REGISTERED]


# -- who may look -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", LOOKS)
def test_without_a_token_nothing_is_shown_and_the_paths_do_not_differ(server: Running, path: str) -> None:
    wrong = (None, "Bearer wrong", f"Basic {VIEWER.secret.decode()}", f"Bearer {KEY.secret.hex()}")

    assert [text(server, path, authorization) for authorization in wrong] == [(401, "")] * len(wrong)
    assert [line["event"] for line in map(json.loads, server.layout.trail.read_text().splitlines())] == [
        "unauthorised"
    ] * len(wrong)


@pytest.mark.parametrize("path", sorted(set(LOOKS) - {"/v1/sensors/sensor-1", "/v1/events"}))
def test_both_tokens_may_look(server: Running, path: str) -> None:
    assert [text(server, path, token.header)[0] for token in (TOKEN, VIEWER)] == [200, 200]


def test_the_token_that_may_only_look_orders_nothing(server: Running) -> None:
    operator, viewer = Operator(server), Operator(server, VIEWER.header)
    assert operator.order(BLOCK)[0] == 201

    tries = [viewer.order(BLOCK), viewer.ask("DELETE", f"{PATH}/a"), viewer.ask("POST", f"{PATH}/a/extend", {})]
    assert tries == [(401, None)] * 3
    assert [order["action"]["id"] for order in viewer.ask("GET")[1]["orders"]] == ["a"]


def test_a_vsensor_without_an_operator_shows_nobody_anything(tmp_path: Path) -> None:
    with Running(tmp_path / "store") as server:
        assert [text(server, path, TOKEN.header) for path in LOOKS] == [(404, "")] * len(LOOKS)
        assert text(server, "/healthz") == (200, "")


# -- health -----------------------------------------------------------------------------------------------------------


def test_health_is_told_to_everybody_and_is_bad_while_the_disk_takes_nothing(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert text(server, "/healthz", None) == (200, "")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(Files, "write", full)
        assert server.send(0).outcome is Outcome.STORE_FAILED
    assert text(server, "/healthz", None) == (503, "")
    # Where nobody sends to it any more, it must not stay so for ever.
    assert (server.store.failed_within(1e9), server.store.failed_within(0.0)) == (True, False)

    assert server.send(0).outcome is Outcome.STORED
    assert text(server, "/healthz", None) == (200, "")


# -- what is shown ----------------------------------------------------------------------------------------------------


def test_what_was_stored_introduced_and_reported_is_shown(server: Running) -> None:
    say_everything(server)
    server.clock.now_s += 1

    snapshot = json.loads(text(server, "/v1/sensors")[1])
    one = json.loads(text(server, "/v1/sensors/sensor-1")[1])
    (interface,) = one["interfaces"].values()
    assert snapshot["sensors"] == {"sensor-1": one}
    assert {n: one[n] for n in ("host", "task", "captures", "antigena_mode", "packets", "verdict")} == {
        "host": "ip-10-0-1-7",
        "task": {"family": "web"},
        "captures": ["eth0"],
        "antigena_mode": "observe",
        "packets": 3,
        "verdict": "open",
    }
    assert {n: interface[n] for n in ("batches", "packets", "repeats", "epoch", "received", "kernel_drops")} == {
        "batches": 3,
        "packets": 3,
        "repeats": 1,
        "epoch": EPOCH,
        "received": 4,
        "kernel_drops": 1,
    }
    assert interface["packets_per_s"] == 3 / 5
    assert interface["dropped"]["rejected"] == 5
    assert text(server, "/v1/sensors/sensor-2") == (
        404,
        '{"faults": ["no sensor \'sensor-2\' was heard of"]}\n',
    )


def test_what_was_not_verified_or_not_stored_is_not_shown(server: Running) -> None:
    forged = server.signer.message(0)
    forged.set("Signature", "ossensor=:" + "A" * 43 + "=:")
    assert server.wire.send(forged).status == 401
    assert server.send(0, b"no section").outcome is Outcome.MALFORMED
    assert server.send(5).outcome is Outcome.OUT_OF_ORDER

    assert json.loads(text(server, "/v1/sensors")[1])["sensors"] == {}


def test_metrics_say_the_same_as_the_snapshot(server: Running) -> None:
    say_everything(server)
    interface = json.loads(text(server, "/v1/sensors/sensor-1")[1])["interfaces"]["eth0"]
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text(server, "/metrics")[1])
        for sample in family.samples
    }
    where = (("interface", "eth0"), ("sensor", "sensor-1"))

    assert samples["vsensor_packets_stored_total", *where] == 3
    assert samples["vsensor_batches_repeated_total", *where] == 1
    assert samples["vsensor_stored_bytes_total", *where] == interface["section_bytes"]
    assert samples["vsensor_delay_seconds", *where] == interface["delay_s"]
    assert samples["vsensor_sensor_packets_dropped_total", *where[:1], ("reason", "rejected"), *where[1:]] == 5
    assert samples["vsensor_requests_total", ("kind", "batch"), ("outcome", "stored")] == 3
    assert samples["vsensor_requests_total", ("kind", "control"), ("outcome", "registered")] == 2
    assert samples["vsensor_sensor_heard_timestamp_seconds", ("sensor", "sensor-1")] == NOW_S
    assert samples["vsensor_store_ok",] == 1


def test_every_path_of_the_operators_is_in_the_document_and_no_other(server: Running) -> None:
    document = json.loads(text(server, "/openapi.json")[1])
    described = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    sensors = "/v1/sensors/{sensor}/"  # signed, and not the operator's
    served = {
        (route.path, method)
        for route in server.collector.app.routes
        if isinstance(route, Route) and route not in server.page_routes and not route.path.startswith(sensors)
        for method in (route.methods or set()) - {"HEAD"}
    }

    assert described == served
    assert document == openapi.document()


# -- events -----------------------------------------------------------------------------------------------------------


def test_events_are_the_snapshot_again_and_again(tmp_path: Path) -> None:
    with running(tmp_path, events={"period_s": 0.05}) as server, closing(Reader(server)) as reader:
        assert reader.response.getheader("Content-Type") == "text/event-stream"
        assert reader.event()["sensors"] == {}
        say_everything(server)
        shown = next(found for found in iter(reader.event, None) if found["sensors"])

    assert list(shown["sensors"]) == ["sensor-1"]


def test_whoever_wants_the_fields_alone_is_no_reader(server: Running) -> None:
    with closing(connected(server)) as connection:
        connection.request("HEAD", "/v1/events", headers={"Authorization": VIEWER.header})
        response = connection.getresponse()

        assert (response.status, response.getheader("Content-Type"), response.read()) == (200, "text/event-stream", b"")
        assert server.events.readers == 0


def test_no_more_readers_than_there_is_room_for(tmp_path: Path) -> None:
    with running(tmp_path, events={"readers_max": 2}) as server:
        first, second = Reader(server), Reader(server)
        with closing(first), closing(second):
            first.event()
            second.event()
            assert text(server, "/v1/events") == (503, "")
            second.close()
            statuses = [503]
            while statuses[-1] == 503:  # until the server has heard of it
                with closing(Reader(server)) as third:
                    statuses.append(third.response.status)

    assert statuses[-1] == 200


def test_who_does_not_read_is_cut_off_and_delays_no_acknowledgement(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Slow is who takes nothing for three seconds: a busy machine can keep a good reader from it for one.
    events = {"period_s": 0.02, "slow_s": 3.0}
    server = Running(tmp_path / "store", operator_token=TOKEN, viewer_token=VIEWER, events=events)
    for n in range(1000):
        server.collector.live.introduced(f"s{n}", WHO)
    with server, closing(Reader(server, receive_bytes=4096)) as hung, closing(Reader(server)) as good:
        sequence = 0
        while not server.events.dropped:
            assert server.send(sequence).outcome is Outcome.STORED
            good.event()
            sequence += 1
        assert (server.events.dropped, server.events.readers) == (1, 1)
        assert len(good.event()["sensors"]) == 1001
        assert hung.response.status == 200
        with pytest.raises((OSError, IncompleteRead)):
            hung.response.read()
    print(f"cut off after {sequence} batches")
    assert caplog.records == []


def test_a_stop_ends_the_stream_as_a_whole_and_does_not_cut_it(tmp_path: Path) -> None:
    with running(tmp_path, events={"period_s": 3600.0}) as server, closing(Reader(server)) as reader:
        reader.event()
        server.server.stop()
        rest = reader.response.read()  # IncompleteRead when the last chunk is missing

    assert rest == b""
