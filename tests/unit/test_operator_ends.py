"""An end of a connection as people type it."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from ossensor.antigena import words
from ossensor.antigena.actions import Side
from ossensor.operator.ends import read_end


@pytest.mark.parametrize(
    "text,side",
    [
        ("10.0.0.1", {"network": "10.0.0.1"}),
        ("10.0.0.0/8", {"network": "10.0.0.0/8"}),
        ("10.0.0.1:443", {"network": "10.0.0.1", "port": 443}),
        ("10.0.0.0/8:0", {"network": "10.0.0.0/8", "port": 0}),
        ("*", {"network": None}),
        ("*:53", {"network": None, "port": 53}),
        ("2001:db8::1", {"network": "2001:db8::1"}),
        ("2001:db8::/32", {"network": "2001:db8::/32"}),
        ("[2001:db8::1]", {"network": "2001:db8::1"}),
        ("[2001:db8::1]:443", {"network": "2001:db8::1", "port": 443}),
        ("[2001:db8::/32]:443", {"network": "2001:db8::/32", "port": 443}),
    ],
)
def test_an_end_is_read(text: str, side: dict[str, Any]) -> None:
    assert read_end(text) == side


@pytest.mark.parametrize(
    "text", ["", ":", ":53", "10.0.0.1:", "10.0.0.1:x", "10.0.0.1:-1", "10.0.0.1:053", "[::1", "[]:1", "[::1]x"]
)
def test_what_is_no_end_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not ADDRESS"):
        read_end(text)


def test_a_device_has_no_port() -> None:
    with pytest.raises(ValueError, match=r"is not ADDRESS\[/LENGTH\]$"):
        read_end("10.0.0.1:443", ports=False)


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "10.0.0.0/8:443", "*:53", "2001:db8::1", "[2001:db8::]:1", "[2001:db8::/32]:9"]
)
def test_what_is_shown_can_be_typed(text: str) -> None:
    read = read_end(text)
    network = None if read["network"] is None else ip_network(read["network"])

    assert words.side(Side(network, read.get("port"))) == text
