"""The live state of many sensors is made a little at a time: all of it, while others have their turns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from ossensor.transport.protocol import Account, BatchId, Stream
from ossensor.vsensor import glimpse
from ossensor.vsensor.live import Live

SENSORS = 1000


@pytest.fixture
def live() -> Live:
    made = Live(lambda: 1_795_000_000.0)
    for number in range(SENSORS):
        made.stored(BatchId(Stream(f"s{number}", "0" * 32, "eth0"), 0), 10, 1000, Account(), None)
    return made


async def parsed(live: Live) -> Any:
    return json.loads(await glimpse.text(live))


@pytest.mark.parametrize("make", [glimpse.snapshot, parsed])
def test_it_is_all_of_the_snapshot(live: Live, make: Callable[[Live], Coroutine[Any, Any, Any]]) -> None:
    assert asyncio.run(make(live)) == live.snapshot()
    assert asyncio.run(make(Live(lambda: 5.0))) == Live(lambda: 5.0).snapshot()


@pytest.mark.parametrize("make", [glimpse.snapshot, parsed])
def test_others_have_their_turns_meanwhile_and_may_change_it(
    live: Live, monkeypatch: pytest.MonkeyPatch, make: Callable[[Live], Coroutine[Any, Any, Any]]
) -> None:
    monkeypatch.setattr(glimpse, "AT_ONCE_S", 0.0)

    async def act() -> Any:
        making, turns = asyncio.create_task(make(live)), 0
        while not making.done():
            await asyncio.sleep(0)
            if turns == 10:
                live._sensors.pop("s999")
                live.stored(BatchId(Stream("t", "0" * 32, "eth0"), 0), 10, 1000, Account(), None)
            turns += 1
        return turns, await making

    turns, made = asyncio.run(act())

    assert turns >= SENSORS - 1
    assert made["sensors"].keys() == {f"s{number}" for number in range(SENSORS - 1)}
