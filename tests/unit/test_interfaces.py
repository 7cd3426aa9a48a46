from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest

from ossensor import interfaces as module
from ossensor.interfaces import (
    Decision,
    Interface,
    Rules,
    default_route_interfaces,
    enumerate_interfaces,
)
from ossensor.settings import InterfaceSettings

LO = Interface("lo", 1, loopback=True, up=True)
ETH0 = Interface("eth0", 2, loopback=False, up=True)  # has the default route
ETH7 = Interface("eth7", 3, loopback=False, up=True)
VETH = Interface("veth1a2b", 4, loopback=False, up=False)
MACHINE = (LO, ETH0, ETH7, VETH)
ROUTES = {"eth0"}

DEVICES = {"unset": None, "eth7_and_lo": ("eth7", "lo"), "default": ("default",)}
EXCLUDES = {"none": (), "eth7": ("eth7",), "lo": ("^lo$",)}
INCLUDES = {"none": (), "^eth": ("^eth",), "everything": (".",)}

# What is captured for each device, include list, exclude list: written by hand, the other half of the comparison.
TABLE = {
    ("unset", "none", "none"): "eth0 eth7 veth1a2b",
    ("unset", "none", "eth7"): "eth0 veth1a2b",
    ("unset", "none", "lo"): "eth0 eth7 veth1a2b",
    ("unset", "^eth", "none"): "eth0 eth7",
    ("unset", "^eth", "eth7"): "eth0",
    ("unset", "^eth", "lo"): "eth0 eth7",
    ("unset", "everything", "none"): "lo eth0 eth7 veth1a2b",
    ("unset", "everything", "eth7"): "lo eth0 veth1a2b",
    ("unset", "everything", "lo"): "eth0 eth7 veth1a2b",
    ("eth7_and_lo", "none", "none"): "lo eth7",
    ("eth7_and_lo", "none", "eth7"): "lo",
    ("eth7_and_lo", "none", "lo"): "eth7",
    ("eth7_and_lo", "^eth", "none"): "eth7",
    ("eth7_and_lo", "^eth", "eth7"): "",
    ("eth7_and_lo", "^eth", "lo"): "eth7",
    ("eth7_and_lo", "everything", "none"): "lo eth7",
    ("eth7_and_lo", "everything", "eth7"): "lo",
    ("eth7_and_lo", "everything", "lo"): "eth7",
    ("default", "none", "none"): "eth0",
    ("default", "none", "eth7"): "eth0",
    ("default", "none", "lo"): "eth0",
    ("default", "^eth", "none"): "eth0",
    ("default", "^eth", "eth7"): "eth0",
    ("default", "^eth", "lo"): "eth0",
    ("default", "everything", "none"): "eth0",
    ("default", "everything", "eth7"): "eth0",
    ("default", "everything", "lo"): "eth0",
}


def test_the_table_below_has_every_combination() -> None:
    assert set(itertools.product(DEVICES, INCLUDES, EXCLUDES)) == set(TABLE)


@pytest.mark.parametrize("device, include, exclude", TABLE)
def test_what_is_captured_follows_the_table(device: str, include: str, exclude: str) -> None:
    rules = Rules.of(DEVICES[device], EXCLUDES[exclude], INCLUDES[include])

    assert TABLE[device, include, exclude].split() == [i.name for i in MACHINE if rules.decide(i, ROUTES).captured]


@pytest.mark.parametrize(
    "rules, interface, expected",
    [
        (Rules(), ETH0, Decision(captured=True, why="no rule leaves it out")),
        (
            Rules(),
            LO,
            Decision(
                captured=False,
                why="is loopback, which only a name in OSSENSOR_NETWORK_DEVICE or a pattern of"
                " NETWORK_DEVICE_INCLUDELIST chooses",
            ),
        ),
        (Rules.of(("lo",)), LO, Decision(captured=True, why="is named by OSSENSOR_NETWORK_DEVICE")),
        (Rules.of(("lo",)), ETH0, Decision(captured=False, why="is not named by OSSENSOR_NETWORK_DEVICE")),
        (
            Rules.of(("default",)),
            ETH0,
            Decision(captured=True, why="has a default route (OSSENSOR_NETWORK_DEVICE=default)"),
        ),
        (
            Rules.of(("default",)),
            ETH7,
            Decision(captured=False, why="has no default route (OSSENSOR_NETWORK_DEVICE=default)"),
        ),
        (
            Rules.of(None, ("x", "^veth", "1"), ("^veth",)),
            VETH,
            Decision(captured=False, why='matches NETWORK_DEVICE_EXCLUDELIST pattern "^veth"'),
        ),
        (
            Rules.of(None, (), ("^x", "h7$", "^eth")),
            ETH7,
            Decision(captured=True, why='matches NETWORK_DEVICE_INCLUDELIST pattern "h7$"'),
        ),
        (
            Rules.of(None, (), ("^eth",)),
            VETH,
            Decision(captured=False, why="matches no NETWORK_DEVICE_INCLUDELIST pattern"),
        ),
        (
            Rules.of(None, (), ("lo",)),
            LO,
            Decision(captured=True, why='matches NETWORK_DEVICE_INCLUDELIST pattern "lo"'),
        ),
    ],
)
def test_the_reason_names_the_rule(rules: Rules, interface: Interface, expected: Decision) -> None:
    assert expected == rules.decide(interface, ROUTES)


def test_an_interface_that_is_down_is_decided_as_if_it_were_up() -> None:
    down = Interface("eth0", 2, loopback=False, up=False)

    assert Rules().decide(ETH0, ROUTES) == Rules().decide(down, ROUTES)


def test_loopback_is_a_property_of_the_interface_and_not_its_name() -> None:
    assert Rules().decide(Interface("lo", 9, loopback=False, up=True), set()).captured
    assert not Rules().decide(Interface("eth0", 9, loopback=True, up=True), set()).captured


def test_ten_thousand_interfaces_are_decided_alike_by_rules_made_once() -> None:
    rules = Rules.of(None, ("[13579]$",), ("^veth[[:xdigit:]]+$",))
    names = [f"veth{number:x}" for number in range(10_000)]

    captured = [n for n in names if rules.decide(Interface(n, 1, loopback=False, up=True), set()).captured]

    assert [name for name in names if name[-1] not in "13579"] == captured


# -- what the kernel says ---------------------------------------------------------------------------------------------


def test_enumeration_agrees_with_sysfs() -> None:
    expected = set()
    for path in Path("/sys/class/net").iterdir():
        flags = int((path / "flags").read_text(), 16)
        expected.add(
            Interface(path.name, int((path / "ifindex").read_text()), loopback=bool(flags & 8), up=bool(flags & 1))
        )

    found = enumerate_interfaces()

    assert expected == set(found)
    assert [i.index for i in found] == sorted(i.index for i in found)
    assert [i.name for i in found if i.loopback] == ["lo"]


def test_an_interface_that_vanishes_between_the_two_questions_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    (real,) = [i for i in enumerate_interfaces() if i.loopback]
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(7, "gone0"), (real.index, real.name)])

    assert enumerate_interfaces() == [real]


def test_an_error_that_does_not_mean_gone_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> bytes:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(module.fcntl, "ioctl", refuse)

    with pytest.raises(PermissionError):
        enumerate_interfaces()


IPV4 = b"""\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth1\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth2\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
eth3\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
*\t00000000\t00000000\t0200\t0\t0\t0\t00000000\t0\t0\t0
eth4\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0
eth5\t00000000\t00000000\t0002\t0\t0\t0\t00000000\t0\t0\t0
br\xff\xc2\x85\t00000000\t00000000\t0001\t0\t0\t0\t00000000\t0\t0\t0
"""

_ANY = b"00000000000000000000000000000000"
_GATEWAY = b"fd000000000000000000000000000001"
_METRICS = b"00000400 00000002 00000000"
IPV6 = b"\n".join(
    (
        b"%s 00 %s 00 %s %s 00000003     eth0" % (_ANY, _ANY, _GATEWAY, _METRICS),
        b"%s 40 %s 00 %s %s 00000001     eth1" % (_GATEWAY, _ANY, _ANY, _METRICS),
        b"%s 01 %s 00 %s %s 00000001     eth2" % (_ANY, _ANY, _ANY, _METRICS),
        b"%s 00 %s 00 %s %s 00200200       lo" % (_ANY, _ANY, _ANY, _METRICS),
        b"%s 00 %s 00 %s %s 00200201     eth3" % (_ANY, _ANY, _ANY, _METRICS),
        b"%s 00 %s 00 %s %s 00000001     tun0" % (_ANY, _ANY, _ANY, _METRICS),
        b"",
    )
)


def test_default_routes_are_those_to_everywhere_that_are_up_and_do_not_reject() -> None:
    assert module._of_ipv4(IPV4) == {"eth0", "eth1", os.fsdecode(b"br\xff\xc2\x85")}
    assert module._of_ipv6(IPV6) == {"eth0", "tun0"}
    assert module._of_ipv4(b"") == module._of_ipv6(b"") == set()


def test_default_route_interfaces_are_of_both_families_without_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {"route": IPV4 + b"lo\t00000000\t0\t0001\t0\t0\t0\t00000000\t0\t0\t0\n", "ipv6_route": IPV6}
    monkeypatch.setattr(module, "_proc", tables.__getitem__)

    assert default_route_interfaces() == {"eth0", "eth1", "tun0", os.fsdecode(b"br\xff\xc2\x85")}


def test_a_kernel_without_ipv6_has_no_table_and_that_is_no_error() -> None:
    assert module._proc("nosuch_route") == b""
    assert module._proc("route").startswith(b"Iface")


def test_rules_are_those_of_the_settings() -> None:
    rules = Rules.from_settings(InterfaceSettings(("eth7", "lo"), ("^veth", "7$"), (".",), []))

    assert rules.device == ("eth7", "lo")
    assert [[one.pattern for one in listed] for listed in (rules.exclude, rules.include)] == [["^veth", "7$"], ["."]]
