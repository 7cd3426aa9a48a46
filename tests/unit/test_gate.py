"""What the supervisor does when the uploader names addresses, without any interface."""

from __future__ import annotations

from collections.abc import Iterable
from unittest.mock import Mock

from ossensor.errors import ConfigurationError
from ossensor.filters import Flow
from ossensor.gate import Gate

A, B, C = (Flow(f"2001:db8::{n}", 8440 + n) for n in (1, 2, 3))


class _Bank:
    """A filter bank whose programs hold two flows."""

    described = ""

    def __init__(self, flows: Iterable[Flow] = ()) -> None:
        self.flows = frozenset(flows)
        if len(self.flows) > 2:
            raise ConfigurationError(["BPF: too long for the kernel"])

    def with_flows(self, flows: Iterable[Flow]) -> _Bank:
        return _Bank(flows)


def test_addresses_of_before_stay_out_as_long_as_the_program_has_room_and_never_keep_new_ones_from_it() -> None:
    keeper = Mock()
    gate = Gate(_Bank(), keeper)  # type: ignore[arg-type]

    found = [(gate.guard(wanted, []), set(gate.bank.flows)) for wanted in ([A], [B], [C], [A, B, C])]

    assert found == [(True, {A}), (True, {A, B}), (True, {C}), (False, {C})]
    assert [set(call.args[0]) for call in keeper.keep.call_args_list] == [{A}, {A, B}, {C}]
