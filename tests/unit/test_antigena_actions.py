"""An order is read back as it was written, and one that cannot be enforced is refused with everything that is wrong."""

from __future__ import annotations

import contextlib
import json
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ossensor.antigena.actions import (
    EVERYTHING,
    MAX_ACTION_BYTES,
    MAX_DURATION_S,
    MAX_REASON_CHARACTERS,
    MAX_TIME_S,
    Action,
    ActionError,
    End,
    Side,
    id_ok,
    parse_action,
)

LEAST = {
    "id": "a",
    "kind": "block",
    "source": {"network": "10.0.0.1"},
    "start_s": 1000,
    "expires_s": 1060,
}


def end(address: str, port: int) -> End:
    return End(ip_address(address), port)


def faults(**changes: Any) -> list[str]:
    with pytest.raises(ActionError) as caught:
        parse_action({name: value for name, value in (LEAST | changes).items() if value != "left out"})
    return caught.value.faults


ports = st.none() | st.integers(0, 65535)
networks = {
    4: st.builds(
        lambda bits, length: IPv4Network((bits >> (32 - length) << (32 - length), length)),
        st.integers(0, 2**32 - 1),
        st.integers(1, 32),
    ),
    6: st.builds(
        lambda bits, length: IPv6Network((bits >> (128 - length) << (128 - length), length)),
        st.integers(2**48, 2**128 - 1),
        st.integers(1, 128),
    ),
}


@st.composite
def actions(draw: st.DrawFn) -> Action:
    family = draw(st.sampled_from((4, 6)))
    kind = draw(st.sampled_from(("block", "quarantine")))
    start_s = draw(st.integers(0, MAX_TIME_S - MAX_DURATION_S))
    one = Side(draw(networks[family]), None if kind == "quarantine" else draw(ports))
    other = EVERYTHING
    if kind == "block":
        other = Side(draw(st.none() | networks[family]), draw(ports))
    if kind == "block" and draw(st.booleans()):
        one, other = other, one
    return Action(
        id=draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)),
        kind=kind,
        protocol=draw(st.sampled_from(("tcp", "udp", "any"))),
        source=one,
        destination=other,
        direction=draw(st.sampled_from(("all", "outgoing", "incoming"))) if kind == "quarantine" else "all",
        reason="".join(c for c in draw(st.text(max_size=MAX_REASON_CHARACTERS)) if c.isprintable()),
        start_s=start_s,
        expires_s=start_s + draw(st.integers(1, MAX_DURATION_S)),
    )


@given(actions())
def test_it_is_read_back_as_it_was_written(action: Action) -> None:
    text = json.dumps(action.to_json())

    assert parse_action(json.loads(text)) == action
    assert len(text) <= MAX_ACTION_BYTES


def test_the_largest_fits_into_the_bytes_that_are_promised() -> None:
    long = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128"
    side = {"network": long, "port": 65_535}
    largest = parse_action(
        {
            **LEAST,
            "id": "x" * 64,
            "source": side,
            "destination": side,
            "reason": "\U0001f600" * MAX_REASON_CHARACTERS,
            "start_s": MAX_TIME_S - MAX_DURATION_S,
            "expires_s": MAX_TIME_S,
        }
    )

    assert len(json.dumps(largest.to_json(), indent=4)) == 3521
    assert MAX_ACTION_BYTES >= 3521


def test_what_may_be_left_out_has_defaults() -> None:
    assert parse_action(LEAST) == Action(
        "a", "block", "any", Side(ip_network("10.0.0.1"), None), EVERYTHING, "all", "", 1000, 1060
    )


@pytest.mark.parametrize(
    "changes,fault",
    [
        ({"id": "left out"}, "id: None, where 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"),
        ({"id": ""}, "id: ''"),
        ({"id": "x" * 65}, "id: '"),
        ({"id": ".."}, "id: '..'"),
        ({"id": "a\n"}, "id: 'a\\n'"),
        ({"id": "\u0661"}, "id: '\\u0661'"),
        ({"id": 7}, "id: 7"),
        ({"kind": "left out"}, "kind: None, where block or quarantine is allowed"),
        ({"kind": "Block"}, "kind: 'Block'"),
        ({"kind": ["block"]}, "kind: a list"),
        ({"protocol": "icmp"}, "protocol: 'icmp', where tcp or udp or any is allowed"),
        ({"protocol": 6}, "protocol: 6"),
        ({"direction": "both"}, "direction: 'both', where all or outgoing or incoming is allowed"),
        ({"direction": "outgoing"}, "direction: only a quarantine has one"),
        ({"reason": "x" * 257}, "reason: '"),
        ({"reason": "two\nlines"}, "reason: 'two\\nlines', where a printable text of at most 256 characters is"),
        ({"reason": None}, "reason: None"),
        ({"start_s": "left out"}, "start_s: None, where a whole number from 0 to 8589934592 is allowed"),
        ({"start_s": 1000.0}, "start_s: 1000.0"),
        ({"start_s": True}, "start_s: True"),
        ({"start_s": -1}, "start_s: -1"),
        ({"start_s": "1000"}, "start_s: '1000'"),
        ({"start_s": 10**5000}, "start_s: a int"),
        ({"start_s": float("nan")}, "start_s: nan"),
        ({"start_s": MAX_TIME_S + 1}, "start_s: 8589934593"),
        ({"expires_s": 1000}, "expires_s: 1 to 2678400 seconds after start_s"),
        ({"expires_s": 999}, "expires_s: 1 to 2678400 seconds after start_s"),
        ({"expires_s": 1001 + MAX_DURATION_S}, "expires_s: 1 to 2678400 seconds after start_s"),
        ({"source": "10.0.0.1"}, "source: '10.0.0.1', where an object of network and port is allowed"),
        ({"source": []}, "source: a list"),
        ({"source": {"network": "10.0.0.1", "host": "a"}}, "source.'host': unknown, known are network, port"),
        (
            {"source": {"network": "10.0.0.1", "port": 65_536}},
            "source.port: 65536, where a whole number from 0 to 65535",
        ),
        ({"source": {"network": "10.0.0.1", "port": True}}, "source.port: True"),
        ({"source": {"network": "10.0.0.1", "port": "80"}}, "source.port: '80'"),
        ({"source": {"network": "example.com"}}, "source.network: 'example.com', where an address or ADDRESS/LENGTH"),
        ({"source": {"network": "10.0.0.1 "}}, "source.network: '10.0.0.1 '"),
        ({"source": {"network": "10.0.0.0/255.0.0.0"}}, "source.network: '10.0.0.0/255.0.0.0'"),
        ({"source": {"network": "fe80::1%eth0"}}, "source.network: 'fe80::1%eth0'"),
        ({"source": {"network": "10.0.0.5/8"}}, "source.network: 10.0.0.5/8 has host bits set"),
        ({"source": {"network": "10.0.0.0/33"}}, "source.network: '10.0.0.0/33' does not appear to be"),
        ({"source": {"network": "010.0.0.1"}}, "source.network: '010.0.0.1' does not appear to be"),
        ({"source": {"network": 167772161}}, "source.network: 167772161"),
        ({"source": {"network": "0.0.0.0/0"}}, "source.network: '0.0.0.0/0', where a network that is not everything"),
        ({"source": {"network": "::/0"}}, "source.network: '::/0', where a network that is not everything"),
        (
            {"source": {"network": "::ffff:10.0.0.1"}},
            "source.network: '::ffff:10.0.0.1', where IPv4 in its own spelling",
        ),
        ({"source": "left out"}, "source, destination: no address at all, this would match everything"),
        ({"source": {"port": 443}}, "source, destination: no address at all"),
        ({"source": None}, "source, destination: no address at all"),
        ({"destination": {"network": "fd00::1"}}, "source, destination: one is IPv4, the other IPv6"),
        ({"kind": "quarantine", "source": {"network": "10.0.0.1", "port": 80}}, "source: a quarantine is of a device"),
        ({"kind": "quarantine", "destination": {"port": 80}}, "destination: a quarantine has none"),
        ({"duration": 60}, "'duration': unknown, known are id, kind, protocol"),
        ({"x" * 1000: 1}, "'" + "x" * 76 + "...: unknown"),
        ({7: 1}, "7: unknown"),
    ],
)
def test_what_cannot_be_enforced_is_refused_in_words(changes: dict[Any, Any], fault: str) -> None:
    with pytest.raises(ActionError) as caught:
        parse_action({name: value for name, value in {**LEAST, **changes}.items() if value != "left out"})
    (found,) = caught.value.faults

    assert found.startswith(fault)
    assert len(found) < 300


def test_all_faults_are_found_at_once() -> None:
    found = faults(id="", kind="x", source={"network": "x", "port": -1, "y": 1}, start_s="", z=1)

    names = ["id", "kind", "source.'y'", "source.port", "source.network", "start_s", "'z'"]
    assert [fault.partition(": ")[0] for fault in found] == names


@pytest.mark.parametrize("given_", [None, 7, "block", [], [LEAST]])
def test_what_is_no_object_is_refused(given_: object) -> None:
    with pytest.raises(ActionError, match="an action is an object"):
        parse_action(given_)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from((*LEAST, "protocol", "destination", "direction", "reason", "new")), json_values)
@example("source", {"network": {}})
@example("source", {"network": "::" + "0" * 43})
def test_whatever_stands_in_a_member_it_is_read_or_refused_and_nothing_else(name: str, value: object) -> None:
    read = None
    with contextlib.suppress(ActionError):
        read = parse_action({**LEAST, name: value})

    assert read is None or parse_action(read.to_json()) == read


BLOCK = parse_action(
    {
        **LEAST,
        "protocol": "tcp",
        "source": {"network": "10.0.0.0/24"},
        "destination": {"network": "192.0.2.7", "port": 443},
    }
)
HERE, THERE = end("10.0.0.9", 50_000), end("192.0.2.7", 443)


def test_a_block_concerns_the_packets_of_both_ends() -> None:
    assert BLOCK.concerns("tcp", HERE, THERE)
    assert BLOCK.concerns("tcp", THERE, HERE)


@pytest.mark.parametrize(
    "protocol,one,other",
    [
        ("udp", HERE, THERE),
        ("tcp", HERE, end("192.0.2.7", 444)),
        ("tcp", HERE, end("192.0.2.6", 443)),
        ("tcp", end("10.0.1.9", 50_000), THERE),
        ("tcp", end("10.0.0.9", 443), end("192.0.2.7", 50_000)),  # the port is the other end's
        ("tcp", end("::ffff:a00:9", 50_000), end("::ffff:c000:207", 443)),
    ],
)
def test_a_block_concerns_nothing_that_differs_in_one_point(protocol: Any, one: End, other: End) -> None:
    assert not BLOCK.concerns(protocol, one, other)
    assert not BLOCK.concerns(protocol, other, one)


def test_port_zero_is_a_port_and_no_wildcard() -> None:
    zero = parse_action({**LEAST, "source": {"network": "10.0.0.9", "port": 0}})

    assert zero.source.port == 0
    assert zero.concerns("udp", end("10.0.0.9", 0), THERE)
    assert not zero.concerns("udp", HERE, THERE)


def test_a_quarantine_of_one_direction_asks_who_opened() -> None:
    device = {**LEAST, "kind": "quarantine", "source": {"network": "10.0.0.9"}}
    ordered = {way: parse_action({**device, "direction": way}) for way in ("all", "outgoing", "incoming")}

    assert [way for way, action in ordered.items() if action.opened_as_ordered(HERE, THERE)] == ["all", "outgoing"]
    assert [way for way, action in ordered.items() if action.opened_as_ordered(THERE, HERE)] == ["all", "incoming"]
    assert all(action.concerns("tcp", THERE, HERE) for action in ordered.values())


def test_it_is_in_force_from_its_start_until_before_its_end() -> None:
    assert [BLOCK.in_force(now_s) for now_s in (999.9, 1000, 1059.9, 1060)] == [False, True, True, False]


@pytest.mark.parametrize("text", ["a", "A-1_b.c", "0" * 64, "7"])
def test_a_name_of_an_order_may_stand_in_a_path(text: str) -> None:
    assert id_ok(text)


@pytest.mark.parametrize("text", ["", "-a", ".a", "_a", "a/b", "a b", "0" * 65, "a\n", "\u00e4"])
def test_a_name_that_could_be_something_else_in_a_path_is_none(text: str) -> None:
    assert not id_ok(text)
