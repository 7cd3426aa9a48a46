"""An order in words, for people: the same in the vSensor's output and in the operator's. Pure."""

from __future__ import annotations

import datetime as dt

from .actions import Action, Side


def side(given: Side) -> str:
    """As the command line takes it: ADDRESS[/LENGTH][:PORT], `*` for any address."""
    network = given.network
    if network is None:
        address = "*"
    else:
        address = str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)
    if given.port is None:
        return address
    return f"[{address}]:{given.port}" if ":" in address else f"{address}:{given.port}"


def action(given: Action) -> str:
    """What it does, and to whom."""
    protocol = "" if given.protocol == "any" else f" {given.protocol}"
    if given.kind == "quarantine":
        direction = "" if given.direction == "all" else f", {given.direction}"
        return f"quarantine {side(given.source)}{protocol}{direction}"
    return f"block {side(given.source)} <-> {side(given.destination)}{protocol}"


def time(unix_s: float) -> str:
    return dt.datetime.fromtimestamp(unix_s, tz=dt.UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
