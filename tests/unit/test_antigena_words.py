"""Orders in words."""

from __future__ import annotations

from typing import Any

import pytest

from ossensor.antigena import words
from ossensor.antigena.actions import parse_action


@pytest.mark.parametrize(
    "members,said",
    [
        (
            {
                "kind": "block",
                "source": {"network": "10.0.0.1"},
                "destination": {"network": "192.0.2.0/24", "port": 443},
            },
            "block 10.0.0.1 <-> 192.0.2.0/24:443",
        ),
        (
            {"kind": "block", "protocol": "udp", "source": {"network": "fd00::1", "port": 53}},
            "block [fd00::1]:53 <-> * udp",
        ),
        (
            {"kind": "block", "source": {"network": "fd00::/8"}, "destination": {"port": 22}},
            "block fd00::/8 <-> *:22",
        ),
        ({"kind": "quarantine", "source": {"network": "10.0.0.1"}}, "quarantine 10.0.0.1"),
        (
            {"kind": "quarantine", "source": {"network": "10.0.0.1"}, "direction": "outgoing", "protocol": "tcp"},
            "quarantine 10.0.0.1 tcp, outgoing",
        ),
    ],
)
def test_an_order_reads_as_the_command_line_takes_it(members: dict[str, Any], said: str) -> None:
    assert words.action(parse_action({"id": "a", "start_s": 0, "expires_s": 60, **members})) == said


def test_a_time_is_of_no_place() -> None:
    assert words.time(1_795_424_479.9) == "2026-11-23 09:01:19 UTC"
