from __future__ import annotations

from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import certifi
import pytest

from ossensor.errors import ConfigurationError
from ossensor.settings import Loaded, Settings, load
from ossensor.transport.protocol import sensor_name_ok
from ossensor.values import flaw, sanitised
from ossensor.variables import describe


def loaded_with(variable: str, text: str) -> Loaded:
    """What an environment of the required variables and this one gives, on a machine with lo, eth0 and eth1."""
    required = {"VSENSOR_HOSTNAME": "v.example", "VSENSOR_HMAC_KEY": "k" * 32, "OSSENSOR_CONFIG_PATH": "/dev/null/no"}
    return load(
        required | {variable: text},
        bpf_fault=lambda expression: "bad filter" if "bad" in expression else None,
        interface_names=lambda: ["lo", "eth0", "eth1"],
    )


# Variable, text, attribute of Settings, value.
ACCEPTED: list[tuple[str, str, str, object]] = [
    ("VSENSOR_HOSTNAME", "10.0.0.1", "vsensor_hostname", "10.0.0.1"),
    ("VSENSOR_HOSTNAME", "a-b.c_d.example.", "vsensor_hostname", "a-b.c_d.example."),
    ("VSENSOR_HOSTNAME", "[2001:db8::1]", "vsensor_hostname", "[2001:db8::1]"),
    ("VSENSOR_PORT", "1", "vsensor_port", 1),
    ("VSENSOR_PORT", "65535", "vsensor_port", 65535),
    ("OSSENSOR_NETWORK_DEVICE", "eth0", "network_device", ("eth0",)),
    ("OSSENSOR_NETWORK_DEVICE", " eth1\n eth0 eth1", "network_device", ("eth1", "eth0")),
    ("OSSENSOR_NETWORK_DEVICE", "default", "network_device", ("default",)),
    ("OSSENSOR_NETWORK_DEVICE", "  ", "network_device", None),
    ("OSSENSOR_DEBUG", "0", "debug", 0),
    ("OSSENSOR_DEBUG", "5", "debug", 5),
    *[("ANTIGENA_ENABLED", text, "antigena_enabled", True) for text in ("true", "TRUE", "1", "yes", "On")],
    *[("ANTIGENA_ENABLED", text, "antigena_enabled", False) for text in ("false", "False", "0", "no", "OFF")],
    ("ANTIGENA_TIME_PERIOD", "3600", "antigena_time_period_s", 3600),
    ("OSSENSOR_ANTIGENA_MODE", "observe", "antigena_mode", "observe"),
    (
        "OSSENSOR_ANTIGENA_PROTECT",
        "10.0.0.0/8  2001:db8::/32\n10.1.2.3",
        "antigena_protect",
        (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("10.1.2.3/32")),
    ),
    ("NETWORK_DEVICE_EXCLUDELIST", "^veth  eth7\t[[:digit:]]$", "exclude", ("^veth", "eth7", "[[:digit:]]$")),
    ("NETWORK_DEVICE_INCLUDELIST", "^eth", "include", ("^eth",)),
    ("NETWORK_DEVICE_WHITELIST", "^eth", "include", ("^eth",)),
    ("NETWORK_DEVICE_BLACKLIST", "^veth", "exclude", ("^veth",)),
    ("BPF", "tcp port 80", "bpf", "tcp port 80"),
    ("OSSENSOR_SENSOR_NAME", "a.B_c-9", "sensor_name", "a.B_c-9"),
    ("OSSENSOR_ENGINE", "pypcap", "engine", "pypcap"),
    ("OSSENSOR_ENGINE", "ring", "engine", "ring"),
    ("OSSENSOR_SNAPLEN", "64", "snaplen", 64),
    ("OSSENSOR_SNAPLEN", "262144", "snaplen", 262_144),
    ("OSSENSOR_COMPLETE_CHECKSUMS", "no", "complete_checksums", False),
    ("OSSENSOR_MEMORY_MB", "3", "memory_mb", 3),
    ("OSSENSOR_BATCH_MS", "10", "batch_ms", 10),
    ("OSSENSOR_SPOOL_DIR", "/var/spool/ossensor", "spool_dir", Path("/var/spool/ossensor")),
    ("OSSENSOR_SPOOL_MB", "4", "spool_mb", 4),
    ("OSSENSOR_METRICS_ADDRESS", "127.0.0.1:9464", "metrics_address", ("127.0.0.1", 9464)),
    ("OSSENSOR_METRICS_ADDRESS", "[::1]:65535", "metrics_address", ("::1", 65535)),
    ("OSSENSOR_COMPRESSION", "off", "compression", (0, False)),
    ("OSSENSOR_COMPRESSION", "auto", "compression", (1, False)),
    ("OSSENSOR_COMPRESSION", "19", "compression", (19, True)),
    ("OSSENSOR_RING_MB", "1024", "ring_mb", 1024),
    ("OSSENSOR_BUFFER_MB", "4", "buffer_mb", 4),
    ("OSSENSOR_DRAIN_SECONDS", "600", "drain_s", 600),
    ("OSSENSOR_STATUS_SOCKET", "/run/ossensor/status", "status_socket", "/run/ossensor/status"),
    ("OSSENSOR_STATUS_SOCKET", "@" + "x" * 106, "status_socket", "@" + "x" * 106),
    ("OSSENSOR_STATUS_SOCKET", "off", "status_socket", ""),
    ("OSSENSOR_LOG_FORMAT", "json", "log_format", "json"),
    ("OSSENSOR_USER", "nobody", "user", "nobody"),
    ("OSSENSOR_USER", "1", "user", "1"),
    ("OSSENSOR_CAPTURE_CREDENTIAL_ENDPOINTS", "true", "capture_credential_endpoints", True),
    ("VSENSOR_TLS", "ca", "tls", "ca"),
    ("VSENSOR_HMAC_KEY_NEXT", "another key of 32 bytes or more.", "hmac_key_next", b"another key of 32 bytes or more."),
    ("VSENSOR_CA_FILE", certifi.where(), "ca_file", Path(certifi.where())),
]


@pytest.mark.parametrize("variable, text, attribute, value", ACCEPTED)
def test_a_text_that_is_allowed_has_its_value(variable: str, text: str, attribute: str, value: object) -> None:
    loaded = loaded_with(variable, text)

    assert value == getattr(loaded.settings, attribute)
    assert "environment" in loaded.sources.values()


# Variable, and texts that it may not have.
REFUSED: list[tuple[str, tuple[str, ...]]] = [
    (
        "VSENSOR_HOSTNAME",
        (
            *(
                "a:b",
                "v.example:443",
                "https://v.example",
                "v.example/x",
                "a b",
                " a",
                "a\n",
                "::1",
                "[::1",
                "[::1]:443",
            ),
            *(
                "[fe80::1%eth0]",
                "[1.2.3.4]",
                "a..b",
                "-a",
                ".",
                "a@b",
                "a?b",
                "b\u00fccher.example",
                "a" * 64,
                "a." * 127 + "a",
            ),
        ),
    ),
    *[
        (
            variable,
            (str(low - 1), str(high + 1), "-1", "+5", " 5", "5 ", "05", "1_0", "5.0", "five", "\u0665", "1" * 30),
        )
        for variable, low, high in (
            ("VSENSOR_PORT", 1, 65535),
            ("ANTIGENA_TIME_PERIOD", 1, 3600),
            ("OSSENSOR_BATCH_MS", 10, 60_000),
            ("OSSENSOR_RING_MB", 1, 1024),
            ("OSSENSOR_BUFFER_MB", 4, 4096),
            ("OSSENSOR_DRAIN_SECONDS", 1, 600),
        )
    ],
    ("OSSENSOR_DEBUG", ("6", "-1", "loud", "01")),
    ("OSSENSOR_NETWORK_DEVICE", ("nosuch0", "eth0 nosuch0", "default eth0")),
    ("NETWORK_DEVICE_EXCLUDELIST", ("[", "^eth (", "a{2,1}", "(^a)+", "^eth\bveth", "\u200bveth")),
    ("NETWORK_DEVICE_INCLUDELIST", ("*", "\\")),
    ("BPF", ("bad",)),
    ("ANTIGENA_ENABLED", ("maybe", "2", "t", "y", " true")),
    ("OSSENSOR_CAPTURE_CREDENTIAL_ENDPOINTS", ("maybe",)),
    ("OSSENSOR_SENSOR_NAME", ("-a", "a/b", "a" * 64, "a b", "\u00e4", "..")),
    ("OSSENSOR_ENGINE", ("rings", "AUTO")),
    ("OSSENSOR_SNAPLEN", ("63", "262145")),
    ("OSSENSOR_MEMORY_MB", ("2", "-1")),
    ("OSSENSOR_COMPLETE_CHECKSUMS", ("maybe",)),
    ("OSSENSOR_LOG_FORMAT", ("xml", "Text")),
    ("OSSENSOR_USER", ("root", "0", "00", "01", "4294967295", "no-such-user", "-1", "\u0661")),
    ("OSSENSOR_SPOOL_MB", ("3", "1048577")),
    (
        "OSSENSOR_METRICS_ADDRESS",
        ("9464", ":9464", "localhost:9464", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:9464", "[127.0.0.1]:1"),
    ),
    ("OSSENSOR_COMPRESSION", ("0", "20", "on", "AUTO", "03", "3.5")),
    ("VSENSOR_TLS", ("off", "none", "KEY")),
    ("VSENSOR_CA_FILE", ("/nosuch/ca.pem", "/", "/dev/null")),
    ("OSSENSOR_STATUS_SOCKET", ("status", "@", "/", "OFF", "@" + "x" * 107, "/" + "\u00e4" * 54)),
    ("OSSENSOR_CONFIG_PATH", ("/", "/dev/null")),
]


@pytest.mark.parametrize("variable, text", [(variable, text) for variable, texts in REFUSED for text in texts])
def test_a_text_that_is_not_allowed_is_the_one_fault_with_name_and_text_and_what_is_allowed(
    variable: str, text: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        loaded_with(variable, text)

    (fault,) = caught.value.faults

    assert fault.startswith(f"{variable}: ")
    assert repr(text)[:200] in fault or text in fault
    assert variable == "OSSENSOR_CONFIG_PATH" or "; allowed: " in fault
    assert "\n" not in fault


def test_the_table_has_every_variable_once_with_meaning_and_what_is_allowed() -> None:
    rows = describe()

    assert len(rows) == len({row.name for row in rows}) == len(fields(Settings)) + 2  # a key has two variables
    assert [row.name for row in rows if not row.meaning or not row.allowed] == []
    # The documentation's table is made from it, and the config file has a line for each.
    assert [row.name for row in rows if "\n" in row.meaning + row.allowed + row.default] == []


@pytest.mark.parametrize(
    "host_name,expected",
    [
        ("web-1", "web-1"),
        ("ip-10-0-0-1.eu-west-1.compute.internal", "ip-10-0-0-1.eu-west-1.compute.internal"),
        ("-a b/c\u00e4", "a-b-c-"),
        ("x" * 64, "x" * 63),
        ("\u00e4\u00f6", "sensor"),
        ("", "sensor"),
        ("...", "sensor"),
    ],
)
def test_any_host_name_makes_a_sensor_name(host_name: str, expected: str) -> None:
    assert expected == sanitised(host_name)
    assert sensor_name_ok(expected)


@pytest.mark.parametrize("text,found", [("a", None), ("\u00e4\U0001f40d", None), ("\0", "has a NUL character")])
def test_ordinary_text_has_no_flaw(text: str, found: str | None) -> None:
    assert found == flaw(text)
