"""An operator beside the vSensor: a token, and `ossensor antigena`."""

from __future__ import annotations

import json
import secrets
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

    def said(self, name: str = "one") -> dict[str, Any]:
        """What the sensor has told of the order."""
        return dict(self.orders()[name]["sensors"].get(SENSOR_NAME, {}))

    def counts(self) -> dict[str, int]:
        return dict(self.said().get("counts", {}))
