"""`ossensor antigena` against a vSensor on loopback: what it says, to people and to programs, and its exit codes."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_vsensor_kit import NOW_S, Running

from ossensor.antigena.actions import parse_action
from ossensor.antigena.token import Token
from ossensor.cli import main
from ossensor.errors import Exit
from ossensor.operator import access
from ossensor.operator.client import Answer, Client
from ossensor.transport.orders import Report
from ossensor.vsensor.attempts import BURST

TOKEN = Token(b"operator-token-of-forty-characters-00000")
UNTIL = "2026-11-18 11:07:40 UTC"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path / "store", operator_token=TOKEN) as running:
        yield running


class Shell:
    """Types commands, with the options that all have."""

    def __init__(self, server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.token = tmp_path / "token"
        self.token.touch(0o600)
        self.token.write_bytes(TOKEN.secret)
        self.url = f"https://127.0.0.1:{server.port}"
        self.ca: tuple[str, ...] = ("--ca-file", str(server.pair.certificate))
        self._capsys = capsys

    def type(self, *words: str) -> tuple[int, list[str], list[str]]:
        """The exit code, and the lines of standard output and error."""
        code = main(["antigena", *words, "--url", self.url, "--token-file", str(self.token), *self.ca])
        output, errors = self._capsys.readouterr()
        return code, output.splitlines(), errors.splitlines()


@pytest.fixture
def shell(server: Running, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(server, tmp_path, capsys)


BLOCK = ("block", "--src", "10.0.0.1", "--dst", "[2001:db8::1]:443")
WEB = ("--sensor", "web-1", "--duration", "60", "--id", "a")


def test_a_block_is_ordered_extended_listed_and_cleared(server: Running, shell: Shell) -> None:
    block = ("block", "--src", "10.0.0.0/8", "--dst", "192.0.2.1:443", "--protocol", "tcp", "--reason", "beacon")
    line = "a: block 10.0.0.0/8 <-> 192.0.2.1:443 tcp, sensor web-1, until"

    assert shell.type(*block, *WEB) == (0, [f"ordered {line} {UNTIL} (beacon)"], [])
    assert shell.type("extend", "a", "--duration", "3600") == (
        0,
        [f"extended {line} 2026-11-18 12:07:40 UTC (beacon)"],
        [],
    )
    report = Report("enforce", server.book_file.book.id, 1, {"a": {"matched": 2, "resets_local": 1200}})
    server.wire.send(server.signer.report(report, sensor="web-1"))
    assert shell.type("list") == (
        0,
        [
            f"{line} 2026-11-18 12:07:40 UTC (beacon)",
            "  web-1: matched 2, resets local 1,200",
            "web-1: enforce, heard 0 s ago, has not the latest orders",
        ],
        [],
    )
    assert shell.type("clear", "a") == (0, [f"cleared {line} 2026-11-18 12:07:40 UTC (beacon)"], [])
    assert shell.type("list")[1] == ["no orders", "web-1: enforce, heard 0 s ago, has not the latest orders"]


@pytest.mark.parametrize(
    "whom,words,target",
    [
        (("--sensor", "web-1"), "sensor web-1", {"sensor": "web-1"}),
        (("--family", "web"), "family web", {"family": "web"}),
        (("--all",), "all sensors", {"all": True}),
    ],
)
def test_a_quarantine_is_for_one_sensor_a_family_or_all(
    shell: Shell, whom: tuple[str, ...], words: str, target: dict[str, Any]
) -> None:
    device = ("quarantine", "--device", "2001:db8::5", "--direction", "outgoing", "--duration", "60", "--id", "q")
    said = f"ordered q: quarantine 2001:db8::5, outgoing, {words}, until {UNTIL}"

    assert shell.type(*device, *whom) == (0, [said], [])
    code, (line,), errors = shell.type("list", "--json")
    (order,) = json.loads(line)["orders"]
    assert (code, errors, order["target"], order["action"]["start_s"]) == (0, [], target, NOW_S)


def test_programs_get_the_answer_as_it_came(shell: Shell) -> None:
    code, (line,), _ = shell.type("block", "--src", "*:53", "--dst", "192.0.2.1", *WEB, "--json")
    answer = json.loads(line)

    assert (code, answer["version"], answer["target"]) == (0, 1, {"sensor": "web-1"})
    assert answer["action"]["source"] == {"network": None, "port": 53}


def test_an_order_without_an_id_gets_one(shell: Shell) -> None:
    code, (line,), _ = shell.type("block", "--src", "10.0.0.1", "--all", "--duration", "60", "--json")

    assert (code, len(json.loads(line)["action"]["id"])) == (0, 36)


def test_all_faults_of_a_command_line_are_named_at_once_and_nothing_is_sent(server: Running, shell: Shell) -> None:
    shell.token.chmod(0o644)
    bad = ("block", "--src", "10.0.0.5/8", "--dst", "x:y", "--protocol", "icmp", "--duration", "1h", "--id", "/")
    code, output, errors = shell.type(*bad, "--sensor", "a", "--all")

    assert (code, output) == (Exit.CONFIGURATION, [])
    assert [line.removeprefix("antigena: ").partition(":")[0] for line in errors] == [
        *("--sensor, --family, --all", "--duration", "--dst", "--id", "--protocol", "--src", "--token-file")
    ]
    assert server.book_file.book.version == 0


def test_what_is_not_given_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["antigena", "quarantine"]) == Exit.CONFIGURATION

    assert [line.partition(": ")[2] for line in capsys.readouterr().err.splitlines()] == [
        "--sensor, --family, --all: give one of them",
        "--duration: not given, it takes a number of seconds from 1 to 2678400",
        "--device: not given",
        "--token-file: not given",
        "--url: not given",
    ]


def test_a_block_that_would_match_everything_or_nothing_is_refused_before_it_is_sent(shell: Shell) -> None:
    code, _, errors = shell.type("block", *WEB)
    assert (code, errors) == (78, ["antigena: --src, --dst: no address at all, this would match everything"])
    code, _, errors = shell.type(*BLOCK, *WEB)
    assert (code, errors) == (78, ["antigena: --src, --dst: one is IPv4, the other IPv6"])


@pytest.mark.parametrize(
    "words,fault",
    [
        (("clear", "nosuch"), "no order in force has the id 'nosuch'"),
        (("clear", "../x y"), "ID: '../x y' is not an order's"),
        (("extend", "nosuch", "--duration", "5"), "no order in force has the id 'nosuch'"),
        (("block", "--src", "10.0.0.1", *WEB), "--id: a is in force already"),
        (("extend", "a", "--duration", "2678400"), "--duration: it would end more than 2678400 seconds from now"),
        (
            ("block", "--src", "10.0.0.1", "--sensor", "tls", "--duration", "5"),
            "--sensor, --family, --all: not a sensor",
        ),
    ],
)
def test_an_order_that_the_vsensor_refuses_is_78_and_says_why(shell: Shell, words: tuple[str, ...], fault: str) -> None:
    shell.type("block", "--src", "10.0.0.1", *WEB)
    code, output, errors = shell.type(*words)

    assert (code, output, len(errors)) == (Exit.CONFIGURATION, [], 1)
    assert errors[0].startswith(f"antigena: {fault}")


def test_a_vsensor_that_is_not_there_is_75(server: Running, shell: Shell) -> None:
    with socket.socket() as deaf:  # bound, so that nobody else can be there, and not listening
        deaf.bind(("127.0.0.1", 0))
        shell.url = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        code, output, errors = shell.type("block", "--src", "10.0.0.1", *WEB)

    assert (code, output, errors) == (Exit.GAVE_UP, [], [f"antigena: {shell.url}: Connection refused"])
    assert server.book_file.book.version == 0


def test_an_order_that_may_have_got_there_without_an_answer_is_named(server: Running, shell: Shell) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.pair.certificate, server.pair.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shell.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        heard = b""

        def hang_up() -> None:
            nonlocal heard
            with listener.accept()[0] as raw, context.wrap_socket(raw, server_side=True) as connection:
                while b"\r\n\r\n" not in heard:
                    heard += connection.recv(65536)

        thread = threading.Thread(target=hang_up)
        thread.start()
        code, output, errors = shell.type("block", "--src", "10.0.0.1", *WEB)
        thread.join()

    assert (code, output, len(errors)) == (Exit.GAVE_UP, [], 1)
    assert errors[0].startswith(f"antigena: {shell.url}: ")
    assert errors[0].endswith("; if it got there, the order is a")
    assert heard.startswith(b"POST /v1/antigena/actions HTTP/1.1\r\n")


def test_what_speaks_no_tls_or_hangs_up_is_75(shell: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        shell.url = f"https://127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        code, _, errors = shell.type("list")
        thread.join()

    assert (code, errors[0].startswith(f"antigena: {shell.url}: no TLS: ")) == (Exit.GAVE_UP, True)


def test_a_certificate_that_nobody_vouches_for_gets_no_token(server: Running, shell: Shell) -> None:
    shell.ca = ()
    code, _, errors = shell.type("list")

    why = "its certificate is not trusted; the vSensor's own is --ca-file STORE/tls/cert.pem"
    assert (code, errors) == (Exit.CONFIGURATION, [f"antigena: {shell.url}: {why}"])
    assert server.told == []


@pytest.mark.parametrize("name", ["127.0.0.2", "elsewhere.example"])
def test_a_certificate_of_another_name_gets_no_token(
    server: Running, shell: Shell, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_: look_up("127.0.0.2" if host == name else host, *_))
    with socket.create_server(("127.0.0.2", 0)) as listener:
        shell.url = f"https://{name}:{listener.getsockname()[1]}"

        def forward() -> None:
            with listener.accept()[0] as one, socket.create_connection(("127.0.0.1", server.port)) as other:
                other.sendall(one.recv(65536))
                one.sendall(other.recv(65536))
                one.recv(65536)

        thread = threading.Thread(target=forward)
        thread.start()
        code, _, errors = shell.type("list")
        thread.join()

    why = "its certificate does not bear this name; ask by one that it does, or give --tls-cert there"
    assert (code, errors) == (Exit.CONFIGURATION, [f"antigena: {shell.url}: {why}"])


def test_another_token_is_78_and_too_many_wrong_ones_are_75(server: Running, shell: Shell) -> None:
    shell.token.write_bytes(b"another-token-of-forty-characters-000000")
    said = [shell.type("list") for _ in range(BURST + 1)]

    assert said[:-1] == [(78, [], ["antigena: --token-file: the vSensor does not take this token"])] * BURST
    assert said[-1] == (75, [], ["antigena: too many wrong tokens from this address; again in 6 s"])
    assert len(server.told) == BURST


def test_a_vsensor_without_a_door_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Running(tmp_path / "closed") as running:
        code, _, errors = Shell(running, tmp_path, capsys).type("list")

    assert (code, errors) == (
        78,
        ["antigena: --url: no operator is let in there (ossensor vsensor --operator-token-file)"],
    )


def test_a_full_disk_at_the_vsensor_is_75(server: Running, shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(server.trail, "_append", full)
    code, _, errors = shell.type("block", "--src", "10.0.0.1", *WEB)

    assert (code, errors) == (75, ["antigena: the store does not take it: No space left on device"])


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "127.0.0.1:8443", "https://", "https://h:x", "https://h/path", "https://u@h"]
)
def test_a_url_that_is_none_is_a_fault(shell: Shell, url: str) -> None:
    shell.url = url

    assert shell.type("list") == (78, [], [f"antigena: --url: {url!r} is not https://HOST[:PORT]"])


def test_a_ca_file_that_is_none_is_a_fault(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    said = []
    for name in ("empty", "missing"):
        shell.ca = ("--ca-file", str(tmp_path / name))
        said.append(shell.type("list"))

    faults = [
        [f"antigena: --ca-file: {tmp_path / name}: {why}"]
        for name, why in (("empty", "NO_CERTIFICATE_OR_CRL_FOUND"), ("missing", "No such file or directory"))
    ]
    assert said == [(78, [], fault) for fault in faults]


ACTION = parse_action({"id": "a", "kind": "block", "source": {"network": "10.0.0.1"}, "start_s": 1, "expires_s": 60})
LISTED = {"action": ACTION.to_json(), "target": {"all": True}, "in_force": True, "sensors": {}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"orders": {}, "sensors": []},
        {"orders": [{}], "sensors": {}},
        {"orders": [{**LISTED, "target": {}}], "sensors": {}},
        {"orders": [{**LISTED, "action": {**ACTION.to_json(), "expires_s": 0}}], "sensors": {}},
        {"orders": [{**LISTED, "in_force": False, "action": {**ACTION.to_json(), "start_s": 1e30}}], "sensors": {}},
        {"orders": [{**LISTED, "sensors": {"web": {"counts": {"matched": "3"}, "refused": ""}}}], "sensors": {}},
    ],
)
def test_an_answer_that_is_no_vsensor_s_is_75(shell: Shell, monkeypatch: pytest.MonkeyPatch, body: Any) -> None:
    monkeypatch.setattr(Client, "ask", lambda *_: Answer(200, body))

    assert shell.type("list") == (Exit.GAVE_UP, [], [f"antigena: {shell.url}: the answer is not a vSensor's"])


def test_the_environment_changes_nothing(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "/nosuch")

    assert shell.type("list") == (0, ["no orders"], [])


def test_on_a_terminal_it_says_for_whom_it_waits_and_wipes_that_away(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown, ask, say = threading.Event(), Client.ask, access._write_over

    def said(text: str) -> None:
        say(text)
        shown.set()

    def asked(*words: Any) -> Any:
        assert not sys.stderr.isatty() or shown.wait(timeout=120)
        return ask(*words)

    monkeypatch.setattr(access, "PATIENCE_S", 0.0)
    monkeypatch.setattr(access, "_write_over", said)
    monkeypatch.setattr(Client, "ask", asked)
    assert shell.type("list")[2] == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    main(["antigena", "list", "--url", shell.url, "--token-file", str(shell.token), *shell.ca])

    assert capsys.readouterr().err == f"\rwaiting for {shell.url}\x1b[K\r\x1b[K"
