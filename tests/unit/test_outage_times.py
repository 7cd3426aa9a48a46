"""Outages of interfaces, as time."""

from __future__ import annotations

from ossensor.outages import Outages


def test_an_outage_is_as_long_as_from_its_first_moment_to_its_end_and_is_told_once() -> None:
    outages = Outages()
    outages.begin("eth0", 10.0)
    outages.begin("eth0", 15.0)
    outages.begin("eth1", 12.0)

    assert [outages.maybe_end_s(name, 20.0) for name in ("eth0", "eth0", "eth1", "lo")] == [10.0, None, 8.0, None]


def test_of_more_names_than_can_be_remembered_the_oldest_are_forgotten() -> None:
    outages = Outages()
    for n in range(4098):
        outages.begin(f"veth{n}", float(n))

    assert [outages.maybe_end_s(f"veth{n}", 5000.0) for n in (0, 1, 2, 4097)] == [None, None, 4998.0, 903.0]
