"""`ossensor vsensor`: what is wrong with its configuration, and the certificate that it makes or is given."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from test_vsensor_kit import KEY, payload, rows, section
from test_vsensor_kit_process import Process, sensor

from ossensor.errors import Exit
from ossensor.transport.protocol import Outcome
from ossensor.vsensor import certificate


def now() -> int:
    return int(time.time())


# --- configuration ---------------------------------------------------------------------------------------------------


def faults_of(*arguments: str, key_hex: str = KEY.secret.hex()) -> tuple[int, list[str]]:
    """The exit code and what stderr said, with a stand-in for the settings that reports its own fault."""
    driver = """
import argparse, os, sys, types
from ossensor.errors import ConfigurationError
from ossensor.vsensor import command
def load_vsensor_keys(environ):
    if not environ["KEY_HEX"]:
        raise ConfigurationError(["VSENSOR_HMAC_KEY: not set"])
    return [bytes.fromhex(environ["KEY_HEX"])]
settings = types.ModuleType("ossensor.settings")
settings.load_vsensor_keys = load_vsensor_keys
settings.bpf_fault = lambda expression: None if expression == "tcp" else "no filter"
sys.modules["ossensor.settings"] = settings
parser = argparse.ArgumentParser()
command.add_arguments(parser)
sys.exit(command.run(parser.parse_args(), os.environ))
"""
    done = subprocess.run(
        [sys.executable, "-c", driver, *arguments],
        env={**os.environ, "KEY_HEX": key_hex},
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


# Python's int() raises for more digits than 4,300.
ENDLESS = "9" * 4301


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, faults = faults_of(
        *("--listen", "localhost", "--store", str(tmp_path / "file"), "--tls-cert", "x", "--rotate-mb", "0"),
        *("--rotate-minutes", "1.5", "--keep-days", "0.0001", "--keep-gb", "much"),
        key_hex="",
    )

    assert code == Exit.CONFIGURATION
    assert faults == [
        "vsensor: --listen: 'localhost' is not HOST:PORT with a port of 0 to 65535",
        "vsensor: --rotate-mb: '0' is not a whole number of MiB from 1 to 1073741824",
        "vsensor: --rotate-minutes: '1.5' is not a whole number of minutes from 1 to 1073741824",
        "vsensor: --keep-days: '0.0001' is not a number of days from 0.001 to 700000",
        "vsensor: --keep-gb: 'much' is not a number of GiB from 0.001 to 1048576",
        "vsensor: --tls-cert and --tls-key: give both, or neither for a self-signed certificate",
        "vsensor: VSENSOR_HMAC_KEY: not set",
        f"vsensor: --store: {tmp_path / 'file'}: File exists",
    ]


def test_a_number_of_any_length_is_a_fault_like_another(tmp_path: Path) -> None:
    code, faults = faults_of("--listen", "localhost:0", "--store", str(tmp_path / "s"), "--rotate-mb", ENDLESS)

    assert code == Exit.CONFIGURATION
    assert faults == [f"vsensor: --rotate-mb: '{ENDLESS}' is not a whole number of MiB from 1 to 1073741824"]


def test_a_limit_below_the_size_of_one_file_is_a_fault(tmp_path: Path) -> None:
    code, faults = faults_of("--listen", "localhost:0", "--store", str(tmp_path / "s"), "--keep-gb", "0.999")

    assert (code, faults) == (
        Exit.CONFIGURATION,
        ["vsensor: --keep-gb: 0.999 GiB is less than one file of --rotate-mb 1024"],
    )


@pytest.mark.parametrize(
    "listen", ["", ":8443", "host:", "host:65536", "host:-1", "host:٣", "host:8443x", f"h:{ENDLESS}"]
)
def test_an_address_that_is_none_is_a_fault(tmp_path: Path, listen: str) -> None:
    code, (fault,) = faults_of("--listen", listen, "--store", str(tmp_path))

    assert code == Exit.CONFIGURATION
    assert fault == f"vsensor: --listen: {listen!r} is not HOST:PORT with a port of 0 to 65535"


@pytest.mark.parametrize("text", ["no filter at all", "tcp\n", "t\u00e9", "x" * 2049])
def test_a_packet_filter_that_does_not_compile_or_is_no_text_is_a_fault(tmp_path: Path, text: str) -> None:
    code, faults = faults_of("--listen", "127.0.0.1:0", "--store", str(tmp_path / "store"), "--packet-filter", text)

    assert code == Exit.CONFIGURATION
    assert [fault.startswith("vsensor: --packet-filter: ") for fault in faults] == [True]


@pytest.mark.parametrize(
    "text,why",
    [
        ("vsensor.test:8443", "it is not ADDRESS:PORT, with an IPv6 address in brackets"),
        ("127.0.0.1:8443", "a loopback address is the sensor itself"),
        ("169.254.170.2:80", "a link-local address may be a credential endpoint"),
        ("0.0.0.0:8443", "nobody can be connected to there"),
    ],
)
def test_a_direct_address_that_no_sensor_would_take_is_a_fault_beside_the_others(
    tmp_path: Path, text: str, why: str
) -> None:
    code, faults = faults_of("--listen", "x", "--store", str(tmp_path), "--advertise", text)

    assert code == Exit.CONFIGURATION
    assert faults == [
        "vsensor: --listen: 'x' is not HOST:PORT with a port of 0 to 65535",
        f"vsensor: --advertise: {text!r}: {why}",
    ]


def test_limits_that_are_none_are_faults(tmp_path: Path) -> None:
    limits = ("--largest-batch-mb", "9", "--largest-window", "0")
    code, faults = faults_of("--listen", "127.0.0.1:0", "--store", str(tmp_path), *limits)

    assert code == Exit.CONFIGURATION
    assert faults == [
        "vsensor: --largest-batch-mb: '9' is not a whole number of MiB from 1 to 8",
        "vsensor: --largest-window: '0' is not a whole number from 1 to 64",
    ]


def test_a_port_that_is_taken_is_a_fault(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, faults = faults_of("--listen", f"127.0.0.1:{port}", "--store", str(tmp_path))

    assert code == Exit.CONFIGURATION
    assert faults == [f"vsensor: --listen: cannot listen on 127.0.0.1 port {port}: Address already in use"]


def test_a_store_that_is_in_use_is_a_fault(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        process.wait_for("listening")
        code, faults = faults_of("--listen", "127.0.0.1:0", "--store", str(tmp_path))

    assert code == Exit.CONFIGURATION
    assert faults == [f"vsensor: --store: {tmp_path}: another vsensor uses it"]


def test_a_store_of_another_layout_is_a_fault_and_not_a_crash_loop(tmp_path: Path) -> None:
    with Process(tmp_path) as process:
        process.wait_for("listening")
    with closing(sqlite3.connect(tmp_path / "index.sqlite")) as db:
        db.execute("PRAGMA user_version = 9")
    with Process(tmp_path) as process:
        code = process.process.wait(120)
        process.stop()

    assert code == Exit.CONFIGURATION
    assert process.stderr == (f"vsensor: {tmp_path}/index.sqlite has layout 9; this program knows 3\n".encode())
    assert process.all("restarting") == []


# --- the certificate -------------------------------------------------------------------------------------------------


def test_a_certificate_is_made_once_and_kept(tmp_path: Path) -> None:
    first = certificate.ensure(tmp_path / "tls", "vsensor.example")
    second = certificate.ensure(tmp_path / "tls", "other.example")
    names = subprocess.run(
        ["openssl", "x509", "-in", first.certificate, "-noout", "-ext", "subjectAltName", "-dates", "-text"],
        capture_output=True,
        check=True,
        text=True,
    ).stdout

    assert first == second
    assert stat.S_IMODE(first.key.stat().st_mode) == 0o600
    assert sorted(p.name for p in (tmp_path / "tls").iterdir()) == ["cert.pem", "key.pem"]
    for name in ("DNS:localhost", "IP Address:127.0.0.1", "IP Address:0:0:0:0:0:0:0:1", "DNS:vsensor.example"):
        assert name in names
    assert f"DNS:{socket.gethostname()}" in names
    assert "NIST CURVE: P-256" in names
    start, end = re.findall(r"not(?:Before|After)=.* (\d{4}) GMT", names)
    assert int(end) - int(start) in {9, 10}  # 3,650 days from an hour ago


def test_what_stands_around_a_certificate_may_be_in_any_language(tmp_path: Path) -> None:
    """As `openssl pkcs12` writes it: "friendlyName: ..."."""
    pair = certificate.ensure(tmp_path / "tls", "localhost")
    pair.certificate.write_text("Bag Attributes\n    friendlyName: Prüfstand\n" + pair.certificate.read_text(), "utf-8")

    assert certificate.load(pair.certificate, pair.key) == pair


def test_a_start_that_was_killed_between_key_and_certificate_is_repeated(tmp_path: Path) -> None:
    tls = tmp_path / "tls"
    certificate.ensure(tls, "localhost")
    (tls / "cert.pem").unlink()
    (tls / "cert.new").write_text("half")
    pair = certificate.ensure(tls, "localhost")

    assert certificate.load(pair.certificate, pair.key) == pair


@pytest.mark.parametrize("broken", ["missing", "no PEM", "another key", "encrypted key"])
def test_a_pair_that_does_not_fit_is_a_fault_that_does_not_quote_it(tmp_path: Path, broken: str) -> None:
    pair = certificate.ensure(tmp_path / "one", "localhost")
    key = tmp_path / "key.pem"
    match broken:
        case "no PEM":
            key.write_text("secret text")
        case "another key":
            key.write_bytes(certificate.ensure(tmp_path / "two", "localhost").key.read_bytes())
        case "encrypted key":
            subprocess.run(
                ["openssl", "pkcs8", "-topk8", "-in", pair.key, "-out", key, "-passout", "pass:secret text"], check=True
            )
    code, (fault,) = faults_of(
        *("--listen", "127.0.0.1:0", "--store", str(tmp_path / "store")),
        *("--tls-cert", str(pair.certificate), "--tls-key", str(key)),
    )

    assert code == Exit.CONFIGURATION
    assert fault.startswith(f"vsensor: certificate or key is unusable ({pair.certificate}, {key}): ")
    assert "secret text" not in fault


def test_a_brought_certificate_is_used(tmp_path: Path) -> None:
    pair = certificate.ensure(tmp_path / "brought", "localhost")
    with Process(
        tmp_path / "store", "--tls-cert", str(pair.certificate), "--tls-key", str(pair.key), "--no-fsync"
    ) as process:
        listening = process.wait_for("listening")
        with sensor(listening["address"], pair.certificate) as one:
            one.deliver(0, section([payload(0)]), created=now)

    assert listening["sha256"] == pair.sha256
    assert not (tmp_path / "store" / "tls").exists()
    assert rows(tmp_path / "store") == [("sensor-1", "eth0", 0)]


def test_it_listens_on_ipv6(tmp_path: Path) -> None:
    with Process(tmp_path, listen="[::1]:0") as process:
        listening = process.wait_for("listening")
        with sensor(listening["address"], Path(listening["certificate"])) as one:
            assert one.deliver(0, section([payload(0)]), created=now) == Outcome.STORED

    assert listening["address"].startswith("[::1]:")


# --- the operator's token --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content,mode,fault",
    [
        (b"short", 0o600, "a token is one line of 32"),
        (b"t" * 40, 0o644, "its mode is 0644"),
        (KEY.secret.hex().encode(), 0o600, "this is an HMAC key, the token has to be another secret"),
    ],
)
@pytest.mark.parametrize("option", ["--operator-token-file", "--viewer-token-file"])
def test_a_token_that_is_none_or_the_key_itself_is_a_fault(
    tmp_path: Path, content: bytes, mode: int, fault: str, option: str
) -> None:
    good, path = token_file(tmp_path, "good", b"g" * 40), token_file(tmp_path, "token", content)
    path.chmod(mode)
    tokens = {"--operator-token-file": str(good), option: str(path)}
    words = [word for pair in tokens.items() for word in pair]
    code, (line,) = faults_of(
        *("--listen", "127.0.0.1:0", "--store", str(tmp_path / "store"), *words),
        key_hex=KEY.secret.hex().encode().hex(),
    )

    assert (code, line.startswith(f"vsensor: {option}: {path}: {fault}")) == (Exit.CONFIGURATION, True)
    assert content.decode() not in line


def token_file(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.touch(0o600)
    path.write_bytes(content)
    return path


def test_a_token_that_may_only_look_is_another_one_and_takes_an_operators(tmp_path: Path) -> None:
    token = str(token_file(tmp_path, "token", b"t" * 40))
    base = ("--listen", "127.0.0.1:0", "--store", str(tmp_path / "store"), "--viewer-token-file", token)

    assert faults_of(*base, "--operator-token-file", token)[1] == [
        "vsensor: --viewer-token-file: this is the operator's token, it has to be another secret"
    ]
    assert faults_of(*base)[1] == ["vsensor: --viewer-token-file: it takes --operator-token-file, too"]
