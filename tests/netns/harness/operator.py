"""An operator beside the vSensor: a token, and `ossensor antigena`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.programs import OSSENSOR, environment
from harness.world import PORT, SENSOR_NAME, World


class Operator:
    """Speaks to the vSensor that was started with `options`."""

    def __init__(self, world: World, certificate: Path) -> None:
        self._world = world
        self._certificate = certificate
        self._token = world.folder / "token"
        self._token.touch(0o600)
        self._token.write_text(secrets.token_urlsafe(32))

    @property
    def options(self) -> tuple[str, ...]:
        return ("--operator-token-file", str(self._token))

    def __call__(self, *argv: str) -> dict[str, Any]:
        """What `ossensor antigena` answered."""
        url = f"https://10.9.0.2:{PORT}"
        where = ("--url", url, "--token-file", self._token, "--ca-file", self._certificate, "--json")
        said = self._world.collector.run(OSSENSOR, "antigena", *argv, *where, env=environment({}))
        answer: dict[str, Any] = json.loads(said)
        return answer

    def block(self, *sides: str, seconds: int = 600, name: str = "one") -> None:
        self("block", *sides, "--duration", str(seconds), "--reason", "a test", "--id", name, "--all")

    def orders(self) -> dict[str, Any]:
        """The list, by id."""
        return {one["action"]["id"]: one for one in self("list")["orders"]}

    @staticmethod
    def said_of(order: Mapping[str, Any]) -> dict[str, Any]:
        """What the sensor has told of one of the list."""
        return dict(order["sensors"].get(SENSOR_NAME, {}))

    def said(self, name: str = "one") -> dict[str, Any]:
        """What the sensor has told of the order."""
        return self.said_of(self.orders()[name])

    def counts(self, name: str = "one") -> dict[str, int]:
        return dict(self.said(name).get("counts", {}))
