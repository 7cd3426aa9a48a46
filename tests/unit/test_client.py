"""One attempt to deliver one batch, against a real TLS server that answers as each test scripts it."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard
from cryptography import x509
from scripted_server import KEY, NAME, Certificates, Heard, Script, Server, certificate, make_certificates, raw

from ossensor.transport import client as client_module
from ossensor.transport.client import Client, Job, Result
from ossensor.transport.connection import tls_context
from ossensor.transport.protocol import (
    CONTENT_TYPE,
    FIELD_FLOOR,
    FIELD_OUTCOME,
    FIELD_PACKETS,
    FIELD_TIME,
    TAG_DATA,
    TAG_DATA_REPLY,
    BatchId,
    Outcome,
    Stream,
)
from ossensor.transport.signing import Key, Nonce, Reply, body_matches, sign_reply, verify_request
from ossensor.transport.stamp import Stamp

OTHER_KEY = Key(b"o" * 32)
NOW_S = 1_795_000_000
SECTION = os.urandom(64) * 32
BATCH = BatchId(Stream("sensor-1", "0123456789abcdef" * 2, "eth0"), 7)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def server(certificates: Certificates) -> Iterator[Server]:
    made = Server(certificates.good)
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _timeouts_that_only_a_hang_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_CONNECT_TIMEOUT_S", 60.0)
    monkeypatch.setattr(client_module, "_REPLY_TIMEOUT_S", 60.0)


@pytest.fixture
def client(server: Server, certificates: Certificates) -> Iterator[Client]:
    made = Client(NAME, server.port, tls_context("ca", str(certificates.ca_file)), "ossensor/0.1.0")
    yield made
    made.close()


def job(count: int = 1, section: bytes = SECTION, *, compress: bool = False, address: str = "127.0.0.1") -> Job:
    nonce = Nonce("f" * 32, count)
    return Job(BATCH, memoryview(bytearray(section)), 12, 5, compress, Stamp(address, 3, NOW_S, nonce, KEY))


# -- replies ----------------------------------------------------------------------------------------------------------


def signed(
    heard: Heard,
    outcome: Outcome = Outcome.STORED,
    *,
    key: Key = KEY,
    tag: str = TAG_DATA_REPLY,
    body: bytes = b"",
    **extra: str,
) -> Reply:
    reply = Reply(outcome.status, heard.request)
    reply.headers[FIELD_OUTCOME] = outcome.value
    reply.headers[FIELD_TIME] = str(NOW_S + 2)
    reply.headers.update({name.replace("_", "-"): value for name, value in extra.items()})
    sign_reply(reply, body, key=key, tag=tag, created_s=NOW_S)
    return reply


def answer(heard: Heard, outcome: Outcome = Outcome.STORED, **more: str) -> bytes:
    reply = signed(heard, outcome, **more)
    return raw(reply.status_code, dict(reply.headers), b"")


def summary(result: Result) -> tuple[Outcome | None, int]:
    return result.outcome, result.wire_bytes


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_the_request_verifies_under_the_key_and_carries_the_section(server: Server, client: Client) -> None:
    server.script = answer
    result = client.send(job())

    assert summary(result) == (Outcome.STORED, len(SECTION))
    assert (result.vsensor_time_s, result.detail, result.retry_after_s) == (NOW_S + 2, "201 stored", 0.0)
    (heard,) = server.heard
    assert (heard.method, heard.target, heard.body) == ("PUT", BATCH.path, SECTION)
    verified = verify_request(heard.request, keys={KEY.id: KEY}, tag=TAG_DATA)
    assert (verified.created_s, verified.nonce) == (NOW_S, Nonce("f" * 32, 1))
    assert body_matches(verified.content_digest, hashlib.sha256(heard.body).digest())
    fields = {name.lower(): value for name, value in heard.headers.items()}
    assert (fields["host"], fields["content-type"], fields["user-agent"]) == (
        f"{NAME}:{server.port}",
        CONTENT_TYPE,
        "ossensor/0.1.0",
    )
    assert (fields[FIELD_FLOOR], fields[FIELD_PACKETS]) == ("5", "12")
    assert fields.keys() & {"content-encoding", "transfer-encoding", "authorization", "cookie"} == set()


def test_a_compressed_body_says_so_and_opens_to_the_section(server: Server, client: Client) -> None:
    server.script = answer
    result = client.send(job(compress=True))
    (heard,) = server.heard

    assert heard.headers["Content-Encoding"] == "zstd"
    assert zstandard.ZstdDecompressor().decompress(heard.body) == SECTION
    assert result.wire_bytes == len(heard.body) < len(SECTION)
    verify_request(heard.request, keys={KEY.id: KEY}, tag=TAG_DATA)


def test_what_compression_would_lengthen_is_sent_as_it_is(server: Server, client: Client) -> None:
    server.script = answer
    section = os.urandom(2000)
    result = client.send(job(section=section, compress=True))

    assert (server.heard[0].body, result.wire_bytes) == (section, 2000)
    assert "Content-Encoding" not in server.heard[0].headers


@pytest.mark.slow
def test_the_largest_section_crosses_whole(server: Server, client: Client) -> None:
    server.script = answer
    section = os.urandom(4 << 20)

    assert client.send(job(section=section)).outcome is Outcome.STORED
    assert server.heard[0].body == section


@pytest.mark.parametrize(
    "host,port,expected",
    [
        ("vsensor.test", 443, "vsensor.test"),
        ("vsensor.test", 8443, "vsensor.test:8443"),
        ("[2001:db8::1]", 8443, "[2001:db8::1]:8443"),
    ],
)
def test_the_authority_leaves_out_the_default_port_only(
    certificates: Certificates, host: str, port: int, expected: str
) -> None:
    assert Client(host, port, certificates.good, "x").authority == expected


def test_every_attempt_is_signed_afresh(server: Server, client: Client) -> None:
    server.script = answer
    for count in (1, 2):
        client.send(job(count))
    first, second = server.heard

    assert first.headers["Signature"] != second.headers["Signature"]


def test_one_connection_serves_attempt_after_attempt(server: Server, client: Client) -> None:
    server.script = answer

    assert [client.send(job(count)).outcome for count in range(5)] == [Outcome.STORED] * 5
    assert server.connections == 1


def test_bodies_and_chunks_leave_the_connection_usable(server: Server, client: Client) -> None:
    def script(heard: Heard) -> bytes:
        body = b"x" * 5000
        headers = dict(signed(heard, body=body).headers)
        if len(server.heard) % 2:
            return raw(201, headers, body)
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 201 x\r\n{head}Transfer-Encoding: chunked\r\n\r\n1388\r\n".encode() + body + b"\r\n0\r\n\r\n"

    server.script = script

    assert [client.send(job(count)).outcome for count in range(4)] == [Outcome.STORED] * 4
    assert server.connections == 1


def test_a_connection_that_the_vsensor_closed_meanwhile_is_replaced_without_a_word(
    server: Server, client: Client
) -> None:
    server.script = answer
    server.close_after_reply = True
    assert client.send(job(1)).outcome is Outcome.STORED
    assert server.closed.wait(120)

    assert client.send(job(2)).outcome is Outcome.STORED
    assert server.connections == 2


def test_a_literal_address_as_host_is_verified_as_one(server: Server, certificates: Certificates) -> None:
    server.script = answer
    client = Client("127.0.0.1", server.port, tls_context("ca", str(certificates.ca_file)), "x")

    assert client.send(job()).outcome is Outcome.STORED
    client.close()


def test_upper_case_in_the_configured_name_changes_nothing(server: Server, certificates: Certificates) -> None:
    server.script = answer
    client = Client("VSensor.Test", server.port, tls_context("ca", str(certificates.ca_file)), "x")

    assert client.send(job()).outcome is Outcome.STORED
    client.close()


# -- signed replies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", Outcome)
def test_a_signed_outcome_is_read_whatever_it_is(server: Server, client: Client, outcome: Outcome) -> None:
    server.script = lambda heard: answer(heard, outcome, Retry_After="17")
    result = client.send(job())

    assert summary(result) == (outcome, len(SECTION))
    assert (result.retry_after_s, result.detail) == (17.0, f"{outcome.status} {outcome.value}")


def test_a_signed_reply_with_a_body_and_lower_case_names_counts(server: Server, client: Client) -> None:
    def script(heard: Heard) -> bytes:
        reply = signed(heard, body=b'{"x": 1}')
        return raw(201, {name.lower(): value for name, value in reply.headers.items()}, b'{"x": 1}')

    server.script = script

    assert client.send(job()).outcome is Outcome.STORED


def test_a_signed_reply_in_chunks_counts(server: Server, client: Client) -> None:
    def script(heard: Heard) -> bytes:
        reply = signed(heard, body=b"hello")
        head = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
        return f"HTTP/1.1 201 x\r\n{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".encode()

    server.script = script

    assert client.send(job()).outcome is Outcome.STORED


# -- what is no answer ------------------------------------------------------------------------------------------------


def altered(**changes: str | None) -> Script:
    """A good reply in which fields were changed, or (None) left out, on the way."""

    def script(heard: Heard) -> bytes:
        headers = dict(signed(heard).headers)
        for name, value in changes.items():
            field_name = name.replace("_", "-")
            headers = {k: v for k, v in headers.items() if k.lower() != field_name}
            if value is not None:
                headers[field_name] = value
        return raw(201, headers, b"")

    return script


def long_and_signed(heard: Heard) -> bytes:
    body = b"x" * ((64 << 10) + 1)
    return raw(201, dict(signed(heard, body=body).headers), body)


def with_another_body(heard: Heard) -> bytes:
    return raw(201, dict(signed(heard, body=b"one").headers), b"two")


def with_another_status(heard: Heard) -> bytes:
    return raw(201, dict(signed(heard, Outcome.BUSY).headers), b"")


def for_another_path(heard: Heard) -> bytes:
    other = Heard(heard.method, heard.target[:-1] + "8", heard.headers, heard.body)
    return raw(201, dict(signed(other).headers), b"")


UNSIGNED_STORED = {FIELD_OUTCOME: "stored", FIELD_TIME: str(NOW_S)}
NO_ANSWERS: dict[str, Script] = {
    **{f"unsigned {status}": lambda _, s=status: raw(s, UNSIGNED_STORED, b"") for status in (200, 201, 401, 403, 500)},
    "a proxy's page": lambda _: raw(502, {"Content-Type": "text/html"}, b"<html>Bad Gateway</html>"),
    "signed with another key": lambda h: raw(201, dict(signed(h, key=OTHER_KEY).headers), b""),
    "signed under the data tag": lambda h: raw(201, dict(signed(h, tag=TAG_DATA).headers), b""),
    "signed under an unknown tag": lambda h: raw(201, dict(signed(h, tag="ossensor-order").headers), b""),
    "signed for another path": for_another_path,
    "outcome changed": altered(ossensor_outcome="present"),
    "outcome left out": altered(ossensor_outcome=None),
    "time changed": altered(ossensor_time="1"),
    "time left out": altered(ossensor_time=None),
    "a field added": altered(ossensor_more="1"),
    "digest left out": altered(content_digest=None),
    "signature left out": altered(signature=None),
    "signature garbled": altered(signature="ossensor=:AAAA:"),
    "signature of another type": altered(signature="ossensor=1"),
    "signature input left out": altered(signature_input=None),
    "signature input garbled": altered(signature_input='ossensor=("@status'),
    "signature input of another type": altered(signature_input="ossensor=?1"),
    "not a byte of ASCII": altered(signature_input="\xff\xfe", signature="\xff"),
    "status changed": with_another_status,
    "body changed": with_another_body,
    "over 64 KiB, signed": long_and_signed,
    "unknown outcome, signed": lambda h: answer(h, ossensor_outcome="wonderful"),
    "time that is no number, signed": lambda h: answer(h, ossensor_time="01"),
    "half a body": lambda h: raw(201, dict(signed(h).headers), b"half", length=100),
    "garbage": lambda _: b"\x15\x03\x01\x00\x02\x02\x16" * 10,
    "another protocol": lambda _: b"SSH-2.0-OpenSSH_9.2\r\n",
    "a status that is no number": lambda _: b"HTTP/1.1 abc OK\r\n\r\n",
    "an endless header": lambda _: b"HTTP/1.1 200 OK\r\nX: " + b"x" * (1 << 17) + b"\r\n\r\n",
    "too many headers": lambda _: b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    "a length that is no number": lambda _: b"HTTP/1.1 201 OK\r\nContent-Length: x\r\n\r\n",
    "two lengths": lambda _: b"HTTP/1.1 201 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "a bad chunk": lambda _: b"HTTP/1.1 201 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n",
    "the end at once": lambda _: None,
}


# After these the client rightly waits for more, so the server ends the connection.
UNFINISHED = {"half a body", "garbage", "a length that is no number"}


@pytest.mark.parametrize("name", NO_ANSWERS)
def test_what_does_not_bear_the_vsensors_signature_is_no_answer_and_the_next_attempt_is_untouched_by_it(
    server: Server, client: Client, name: str
) -> None:
    server.script, server.close_after_reply = NO_ANSWERS[name], name in UNFINISHED
    result = client.send(job(1))

    assert (summary(result), result.vsensor_time_s) == ((None, 0), None)
    assert 0 < len(result.detail) < 1000
    assert KEY.secret.decode() not in result.detail

    server.script, server.close_after_reply = answer, False
    assert client.send(job(2)).outcome is Outcome.STORED
    assert server.connections == 2


def test_a_reply_to_an_earlier_attempt_is_no_answer_to_a_later_one(server: Server, client: Client) -> None:
    """The same batch, body and path: only the nonce differs, and the reply covers it through `signature;req`."""
    first: list[bytes] = []

    def script(heard: Heard) -> bytes:
        first.append(answer(heard))
        return first[0]

    server.script = script

    assert [client.send(job(count)).outcome for count in (1, 2)] == [Outcome.STORED, None]


def test_a_connection_reset_is_no_answer(server: Server, client: Client) -> None:
    server.reset = True
    result = client.send(job())

    assert summary(result) == (None, 0)


def test_silence_ends_at_the_timeout(server: Server, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "_REPLY_TIMEOUT_S", 0.1)
    released, in_time = threading.Event(), []

    def script(_: Heard) -> None:
        in_time.append(released.wait(60))  # true: the client had given up before it would have ended

    server.script = script
    result = client.send(job())
    released.set()
    server.close()

    assert summary(result) == (None, 0)
    assert result.elapsed_s >= 0.1
    assert in_time == [True]


def test_a_refused_connection_is_no_answer(certificates: Certificates) -> None:
    with socket.socket() as deaf:  # bound, so that nobody else can be there, and not listening
        deaf.bind(("127.0.0.1", 0))
        client = Client(NAME, deaf.getsockname()[1], tls_context("ca", str(certificates.ca_file)), "x")
        result = client.send(job())

    assert summary(result) == (None, 0)
    assert "refused" in result.detail.lower()
    client.close()


@pytest.mark.parametrize("address", ["", "no such address", "256.1.1.1", "[::1", "fe80::1%nosuch0"])
def test_an_address_that_cannot_be_connected_to_raises_nothing(server: Server, client: Client, address: str) -> None:
    assert client.send(job(address=address)).outcome is None
    assert server.heard == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(server: Server, client: Client, status: int) -> None:
    server.script = lambda _: raw(status, {"Location": f"https://127.0.0.1:{server.port}/elsewhere"}, b"")

    assert client.send(job()).outcome is None
    assert [heard.target for heard in server.heard] == [BATCH.path]


@pytest.mark.parametrize(
    "header,expected_s",
    [
        ("17", 17.0),
        (" 17 ", 17.0),
        ("0", 0.0),
        ("-5", 0.0),
        ("1e9", 0.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 0.0),
        ("", 0.0),
        ("9" * 40, 0.0),
    ],
)
def test_retry_after_is_read_from_an_unsigned_refusal_too_when_it_is_a_number(
    server: Server, client: Client, header: str, expected_s: float
) -> None:
    server.script = lambda _: raw(503, {"Retry-After": header}, b"")
    result = client.send(job())

    assert (result.outcome, result.retry_after_s) == (None, expected_s)


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
def test_the_name_of_a_field_means_the_same_in_any_case(
    server: Server, client: Client, change: Callable[[str], str]
) -> None:
    def script(heard: Heard) -> bytes:
        reply = signed(heard, Outcome.BUSY, Retry_After="17")
        return raw(503, {change(name): value for name, value in reply.headers.items()}, b"")

    server.script = script
    result = client.send(job())

    assert (result.outcome, result.retry_after_s, result.vsensor_time_s) == (Outcome.BUSY, 17.0, NOW_S + 2)


def test_an_unsigned_401_asks_whether_the_keys_agree(server: Server, client: Client) -> None:
    server.script = lambda _: raw(401, {}, b"")

    assert "VSENSOR_HMAC_KEY the same at both ends" in client.send(job()).trouble


def test_a_peer_cannot_make_the_explanation_long(server: Server, client: Client) -> None:
    server.script = altered(signature_input="ossensor=" + "(" * 60_000)

    assert len(client.send(job()).detail) <= 1000


# -- TLS --------------------------------------------------------------------------------------------------------------


def attempt(served: ssl.SSLContext, ca_file: Path | None, host: str = NAME) -> tuple[Result, list[Heard]]:
    server = Server(served, answer)
    client = Client(host, server.port, tls_context("ca", None if ca_file is None else str(ca_file)), "x")
    result = client.send(job())
    client.close()
    server.close()
    return result, server.heard


def test_a_certificate_of_another_ca_gets_no_request(certificates: Certificates) -> None:
    result, heard = attempt(certificates.stranger, certificates.ca_file)

    assert (result.outcome, heard) == (None, [])
    assert "CERTIFICATE_VERIFY_FAILED" in result.detail


@pytest.mark.parametrize("given", ["root", "middle", "own"])
def test_a_certificate_counts_that_leads_to_what_is_given_or_is_it(given: str, tmp_path: Path) -> None:
    names = [x509.DNSName(NAME)]
    certificate(tmp_path, "root", names)
    middle, _ = certificate(tmp_path, "middle", names, issuer="root")
    own, served = certificate(tmp_path, "own", names, issuer="middle")
    (tmp_path / "chain").write_bytes(own.read_bytes() + middle.read_bytes())
    served.load_cert_chain(tmp_path / "chain", tmp_path / "own.key")

    assert attempt(served, tmp_path / f"{given}.pem")[0].outcome is Outcome.STORED


def test_a_certificate_for_another_name_gets_no_request(certificates: Certificates) -> None:
    result, heard = attempt(certificates.good, certificates.ca_file, host="other.test")

    assert (result.outcome, heard) == (None, [])
    assert "other.test" in result.detail


def test_an_expired_certificate_gets_no_request(certificates: Certificates) -> None:
    result, heard = attempt(certificates.expired, certificates.expired_file)

    assert (result.outcome, heard) == (None, [])
    assert "expired" in result.detail


def test_without_a_file_only_the_systems_cas_are_trusted(certificates: Certificates) -> None:
    result, heard = attempt(certificates.good, None)

    assert (result.outcome, heard) == (None, [])


def test_a_server_that_speaks_no_tls_gets_no_request(certificates: Certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain:

        def greet() -> None:
            connection, _ = plain.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        client = Client(NAME, plain.getsockname()[1], tls_context("ca", str(certificates.ca_file)), "x")

        assert client.send(job()).outcome is None
        thread.join(120)
        client.close()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_environments_ca_bundle_neither_replaces_nor_adds_trust(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(certificates.stranger_file))

    assert attempt(certificates.good, certificates.ca_file)[0].outcome is Outcome.STORED
    assert attempt(certificates.stranger, certificates.ca_file)[0].outcome is None


def test_proxies_and_netrc_of_the_environment_are_not_used(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    (tmp_path / "netrc").write_text("default login someone password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server.script = answer

    assert client.send(job()).outcome is Outcome.STORED
    assert "Authorization" not in server.heard[0].headers


@pytest.mark.parametrize("trust", ["key", "ca"])
def test_the_environment_has_no_log_of_sessions_keys_written(
    trust: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert tls_context(trust, None).keylog_filename is None
    assert list(tmp_path.iterdir()) == []

    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "missing" / "keys"))
    assert tls_context(trust, None).keylog_filename is None


def test_a_ca_file_that_is_none_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        tls_context("ca", str(tmp_path / "missing.pem"))
    (tmp_path / "bad.pem").write_text("not a certificate")
    with pytest.raises(ssl.SSLError):
        tls_context("ca", str(tmp_path / "bad.pem"))


def test_the_context_takes_nothing_below_tls_1_2_and_always_verifies(certificates: Certificates) -> None:
    context = tls_context("ca", str(certificates.ca_file))

    assert context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_a_bug_of_ours_is_not_taken_for_the_network(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(client, "_open", broken)
    with pytest.raises(ZeroDivisionError):
        client.send(job())
    assert server.heard == []


def test_the_time_that_an_attempt_took_is_measured_on_the_given_clock(server: Server, client: Client) -> None:
    server.script = answer
    readings = iter([100.0, 103.5])

    assert client.send(job(), clock=lambda: next(readings)).elapsed_s == 3.5


@pytest.mark.slow
def test_a_peer_that_drips_its_reply_does_not_hold_a_sender_beyond_the_timeout(
    server: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "_REPLY_TIMEOUT_S", 0.2)
    given_up, dripped_on = threading.Event(), []
    connection: list[ssl.SSLSocket] = []
    plain_read = server._read

    def read(stream: io.BufferedReader) -> Heard | None:
        connection[:] = [stream.raw._sock]  # type: ignore[attr-defined]
        return plain_read(stream)

    def drip(_: Heard) -> None:
        connection[0].sendall(raw(201, UNSIGNED_STORED, b"", length=60_000))
        for _ in range(1000):
            if given_up.wait(0.05):
                return
            connection[0].sendall(b"x")
        dripped_on.append(True)

    monkeypatch.setattr(server, "_read", read)
    server.script = drip
    result = client.send(job())
    given_up.set()
    server.close()

    assert (result.outcome, dripped_on) == (None, [])  # it would have gone on for fifty seconds
