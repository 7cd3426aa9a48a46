"""What an operator may write: whatever it is, it is an order that reads back equal, or all that is wrong with it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ossensor.transport.orders import Orders
from ossensor.vsensor.orderbook import RejectedError, Target
from ossensor.vsensor.orderform import read_extension, read_object, read_order, written

NOW_S = 1_795_000_000
GOOD: dict[str, Any] = {
    "target": {"sensor": "web-1"},
    "duration_s": 60,
    "action": {
        "id": "a",
        "kind": "block",
        "protocol": "tcp",
        "direction": "all",
        "reason": "beacon",
        "source": {"network": "10.0.0.0/8", "port": 5},
        "destination": {"network": "192.0.2.1"},
        "start_s": NOW_S,
    },
}
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
ANYTHING = st.recursive(
    SCALARS | st.sampled_from(["10.0.0.1", "all", "quarantine", "::1", NOW_S, 60, 0]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def paths(value: Any, so_far: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [so_far] if so_far else []
    for name in value if isinstance(value, dict) else ():
        found += paths(value[name], (*so_far, name))
    return found


@settings(max_examples=600, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(paths(GOOD)), ANYTHING, st.booleans()), max_size=3))
def test_an_order_changed_anywhere_reads_back_equal_or_says_what_is_wrong(
    changes: list[tuple[tuple[str, ...], Any, bool]],
) -> None:
    asked = json.loads(json.dumps(GOOD))
    for path, value, drop in changes:
        holder = asked
        for name in path[:-1]:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.pop(path[-1], None) if drop else holder.__setitem__(path[-1], value)
    try:
        entry = read_order(asked, NOW_S, lambda: "made-up")
    except RejectedError as e:
        said = [fault.isprintable() and len(fault) < 300 for fault in e.faults]
        assert (bool(changes), set(said)) == (True, {True})
        return
    again = {name: value for name, value in written(entry).items() if name != "version"}
    assert read_order(again, NOW_S, str) == entry
    # And it passes both ways over the wire.
    assert Orders.parse(Orders("0" * 32, 1, (entry.action.to_json(),)).body).actions == (entry.action.to_json(),)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_a_body_is_an_object_or_refused(body: bytes) -> None:
    for read in (lambda given: read_order(given, NOW_S, str), read_extension, Target.parse):
        try:
            found = read(read_object(body))
        except RejectedError as e:
            found = e.faults
        assert found
