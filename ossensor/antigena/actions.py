"""What the vSensor may order ended: one model, which both ends hold an order against. Pure.

Invariant: an Action that exists may be enforced as it stands. It names an address, its addresses are of one family, and
it ends. So nothing that comes after asks for that again.

A *block* ends connections between two sides, whichever of them sends: a side that names nothing matches every end, so
the field's "block connection" and "block matching connections" are one kind. A *quarantine* is of a device, `source`:
all its connections, or those that it opened (`outgoing`), or those that others opened to it (`incoming`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, Final, Literal, NamedTuple, TypeAlias, get_args

from ossensor.errors import TheirsError

Kind: TypeAlias = Literal["block", "quarantine"]
Protocol: TypeAlias = Literal["tcp", "udp", "any"]  # any: either; nothing else can be ended from outside
Direction: TypeAlias = Literal["all", "outgoing", "incoming"]
Network: TypeAlias = IPv4Network | IPv6Network
Address: TypeAlias = IPv4Address | IPv6Address

# In force at once at one sensor. Every packet of the host passes the kernel filters of all of them, so this bounds what
# Antigena can cost the host: 256 orders are a few thousand BPF instructions, microseconds a packet.
MAX_ACTIONS: Final = 256
# Room for a UUID (36) and for a SHA-256 in hexadecimal (64); an id is a word in log lines and metrics.
MAX_ID_CHARACTERS: Final = 64
# A sentence: it is repeated in every exchange, log line and audit record.
MAX_REASON_CHARACTERS: Final = 256
# An order is extended by somebody who still means it. What shall hold for longer belongs into a firewall.
MAX_DURATION_S: Final = 31 * 86_400
# The year 2242; milliseconds given for seconds lie beyond it.
MAX_TIME_S: Final = 2**33
# What `to_json` gives, as JSON in ASCII: a character of the reason takes at most 12 bytes (two escapes of a surrogate
# pair), everything else less than 600. With MAX_ACTIONS, a megabyte bounds all orders.
MAX_ACTION_BYTES: Final = 4096

_ID: Final = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_ID_CHARACTERS - 1}}}")
# ip_network also takes netmasks, zones and numbers; an order has one spelling that people and programs agree on.
_NETWORK: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}(/(0|[1-9][0-9]{0,2}))?")
_SHOWN_CHARACTERS: Final = 80
_MAPPED: Final = IPv6Network("::ffff:0:0/96")


def id_ok(text: str) -> bool:
    """True for what an order may be called, and so for what may stand in a path."""
    return _ID.fullmatch(text) is not None


class ActionError(TheirsError):
    """An order that cannot be enforced. Carries every fault found, one line each."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class End(NamedTuple):
    """One end of a connection that was seen."""

    address: Address
    port: int


@dataclass(frozen=True, slots=True)
class Side:
    """What an order says of one end; None matches every address, or every port."""

    network: Network | None = None
    port: int | None = None

    def holds(self, end: End) -> bool:
        if self.port is not None and self.port != end.port:
            return False
        # False, not an error, for an address of the other family (ipaddress compares versions first).
        return self.network is None or end.address in self.network


EVERYTHING: Final = Side()


@dataclass(frozen=True, slots=True)
class Action:
    """One order. Times are seconds since 1970 by the vSensor's clock; in force from `start_s` until before `expires_s`.

    Built from members that are each right alone (parse_action sees to that); ActionError when they are wrong together.
    """

    id: str
    kind: Kind
    protocol: Protocol
    source: Side
    destination: Side
    direction: Direction
    reason: str
    start_s: int
    expires_s: int

    def __post_init__(self) -> None:
        if faults := _faults_together(self):
            raise ActionError(faults)

    @property
    def family(self) -> Literal[4, 6]:
        """The one IP version whose packets it concerns."""
        return next(side.network.version for side in (self.source, self.destination) if side.network is not None)

    def in_force(self, now_s: float) -> bool:
        return self.start_s <= now_s < self.expires_s

    def concerns(self, protocol: Literal["tcp", "udp"], one: End, other: End) -> bool:
        """Whether a connection between these ends may be one that it ends, whichever sends.

        For a quarantine of one direction, who opened the connection decides in the end: see `opened_as_ordered`.
        """
        if self.protocol not in {"any", protocol} or one.address.version != self.family:
            return False
        return (self.source.holds(one) and self.destination.holds(other)) or (
            self.source.holds(other) and self.destination.holds(one)
        )

    def opened_as_ordered(self, opener: End, other: End) -> bool:
        """Whether its direction is that of a connection of its device's that `opener` opened."""
        if self.direction == "outgoing":
            return self.source.holds(opener)
        if self.direction == "incoming":
            return self.source.holds(other)
        return True

    def to_json(self) -> dict[str, Any]:
        """What `parse_action` reads back as an equal Action, fit for json.dumps."""
        return {
            "id": self.id,
            "kind": self.kind,
            "protocol": self.protocol,
            "source": _side_to_json(self.source),
            "destination": _side_to_json(self.destination),
            "direction": self.direction,
            "reason": self.reason,
            "start_s": self.start_s,
            "expires_s": self.expires_s,
        }


_MEMBERS: Final = tuple(field.name for field in fields(Action))
_SIDE_MEMBERS: Final = tuple(field.name for field in fields(Side))


def parse_action(given: object) -> Action:
    """The order that a decoded JSON object describes.

    Members that may be left out: `protocol` (any), `source`, `destination`, `direction` (all), `reason`. A member that
    is unknown is a fault: it could be a condition that this version would fail to keep. Raises ActionError.
    """
    if not isinstance(given, Mapping):
        raise ActionError([f"an action is an object, not {_shown(given)}"])
    reader = _Reader(given)
    values: dict[str, Any] = {
        "id": reader.text("id", _ID, "1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit"),
        "kind": reader.choice("kind", get_args(Kind), None),
        "protocol": reader.choice("protocol", get_args(Protocol), "any"),
        "source": reader.side("source"),
        "destination": reader.side("destination"),
        "direction": reader.choice("direction", get_args(Direction), "all"),
        "reason": reader.reason(),
        "start_s": reader.number("start_s", given, MAX_TIME_S),
        "expires_s": reader.number("expires_s", given, MAX_TIME_S),
    }
    reader.strangers("", given, _MEMBERS)
    if reader.faults:
        raise ActionError(reader.faults)
    return Action(**values)


def _faults_together(action: Action) -> list[str]:
    """What is wrong with members that are each right alone."""
    faults = []
    networks = [side.network for side in (action.source, action.destination) if side.network is not None]
    if not networks:
        faults.append("source, destination: no address at all, this would match everything")
    if len({network.version for network in networks}) > 1:
        faults.append("source, destination: one is IPv4, the other IPv6")
    if action.kind == "quarantine":
        if action.source.network is None or action.source.port is not None:
            faults.append("source: a quarantine is of a device, which is an address without a port")
        if action.destination != EVERYTHING:
            faults.append("destination: a quarantine has none, it concerns everybody that the device talks to")
    elif action.direction != "all":
        faults.append("direction: only a quarantine has one, a block concerns both")
    if not 0 < action.expires_s - action.start_s <= MAX_DURATION_S:
        faults.append(f"expires_s: 1 to {MAX_DURATION_S} seconds after start_s")
    return faults


class _Reader:
    """Reads members of one object, and remembers what is wrong with them instead of raising at the first."""

    def __init__(self, given: Mapping[Any, Any]) -> None:
        self._given = given
        self.faults: list[str] = []

    def _fault(self, name: str, value: object, allowed: str) -> None:
        self.faults.append(f"{name}: {_shown(value)}, where {allowed} is allowed")

    def text(self, name: str, pattern: re.Pattern[str], allowed: str) -> str:
        value = self._given.get(name)
        if isinstance(value, str) and pattern.fullmatch(value):
            return value
        self._fault(name, value, allowed)
        return ""

    def reason(self) -> str:
        value = self._given.get("reason", "")
        if isinstance(value, str) and len(value) <= MAX_REASON_CHARACTERS and value.isprintable():
            return value
        self._fault("reason", value, f"a printable text of at most {MAX_REASON_CHARACTERS} characters")
        return ""

    def choice(self, name: str, allowed: tuple[str, ...], default: str | None) -> str:
        value = self._given.get(name, default)
        if isinstance(value, str) and value in allowed:
            return value
        self._fault(name, value, " or ".join(allowed))
        return ""

    def number(self, name: str, given: Mapping[Any, Any], largest: int, prefix: str = "") -> int:
        value = given.get(name)
        if type(value) is int and 0 <= value <= largest:  # a bool is an int to isinstance
            return value
        self._fault(f"{prefix}{name}", value, f"a whole number from 0 to {largest}")
        return 0

    def side(self, name: str) -> Side:
        given = self._given.get(name)
        if given is None:
            return EVERYTHING
        if not isinstance(given, Mapping):
            self._fault(name, given, "an object of network and port")
            return EVERYTHING
        self.strangers(f"{name}.", given, _SIDE_MEMBERS)
        port = None
        if given.get("port") is not None:
            port = self.number("port", given, 65_535, f"{name}.")
        return Side(self._network(f"{name}.network", given.get("network")), port)

    def _network(self, name: str, value: object) -> Network | None:
        if value is None:
            return None
        network: Network | None = None
        if isinstance(value, str) and _NETWORK.fullmatch(value):
            try:
                network = ip_network(value)
            except ValueError as e:
                # Its message says what is wrong, host bits that are set for one: 10.0.0.5/8 may have meant 10.0.0.5.
                self.faults.append(f"{name}: {e}")
                return None
        if network is None:
            self._fault(name, value, "an address or ADDRESS/LENGTH")
        elif network.prefixlen == 0:
            self._fault(name, value, "a network that is not everything (leave it out for that)")
        elif isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
            self._fault(name, value, "IPv4 in its own spelling only, as on the wire,")
        return network

    def strangers(self, prefix: str, given: Mapping[Any, Any], known: tuple[str, ...]) -> None:
        for name in given:
            if name not in known:
                self.faults.append(f"{prefix}{_shown(name)}: unknown, known are {', '.join(known)}")


def _side_to_json(side: Side) -> dict[str, Any]:
    return {"network": None if side.network is None else str(side.network), "port": side.port}


def _shown(value: object) -> str:
    """The value, short enough for a line: what came may be anything."""
    if isinstance(value, str):
        value = value[: _SHOWN_CHARACTERS + 1]
    elif not isinstance(value, int | float | None) or (isinstance(value, int) and value.bit_length() > 64):
        return f"a {type(value).__name__}"  # also because a long number refuses to become text (sys.int_info)
    shown = ascii(value)
    return shown if len(shown) <= _SHOWN_CHARACTERS else shown[: _SHOWN_CHARACTERS - 3] + "..."
