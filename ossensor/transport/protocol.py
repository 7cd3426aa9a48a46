"""Version 1 of the protocol between sensor and vSensor: paths, field names, limits and the table of refusals.

Both sides import this module and nothing else of each other, so a limit cannot differ between them. The text for
people who write another vSensor is docs/protocol.md.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from enum import Enum
from typing import Final, NamedTuple, TypeGuard
from urllib.parse import quote, unquote

CONTENT_TYPE: Final = "application/x-pcapng"
CONTROL_TYPE: Final = "application/json"

# Signed fields of ours. Everything that begins with the prefix must be covered by the signature (signing.py).
FIELD_PREFIX: Final = "ossensor-"
FIELD_FLOOR: Final = "ossensor-floor"  # lowest sequence of this stream that is not settled yet, at the sensor
FIELD_PACKETS: Final = "ossensor-packets"  # packets in the section
FIELD_BOOKS: Final = "ossensor-books"  # an Account: what the sensor's books say of the stream as of this batch
FIELD_TIME: Final = "ossensor-time"  # reply: the vSensor's clock, Unix seconds
FIELD_OUTCOME: Final = "ossensor-outcome"  # reply: an Outcome's value
FIELD_CERTIFICATE: Final = "ossensor-certificate"  # reply to a registration: SHA-256 of the vSensor's certificate, hex

# A tag separates channels: what was signed for one is refused on another (RFC 9421 section 2.3, "tag").
TAG_DATA: Final = "ossensor-data"
TAG_DATA_REPLY: Final = "ossensor-data-reply"
TAG_CONTROL: Final = "ossensor-control"
TAG_CONTROL_REPLY: Final = "ossensor-control-reply"
TAG_ORDER: Final = "ossensor-order"  # the exchange about Antigena, which acts on the user's traffic
TAG_ORDER_REPLY: Final = "ossensor-order-reply"

# 60 s either way: Hawk's and Standard Webhooks' order of magnitude; NTP-less containers drift by seconds, not minutes.
WINDOW_S: Final = 60

# A slot is at most 4 MiB; zstd's worst case adds 0.4 %. Twice that leaves room without letting a peer fill memory.
MAX_SECTION_BYTES: Final = 8 << 20
MAX_BODY_BYTES: Final = 8 << 20
# What a receiver must take, whatever it says: the largest packet (OSSENSOR_SNAPLEN, 256 KiB) and what is around it have
# to fit, and the smallest slot is of that size.
LEAST_SECTION_BYTES: Final = 1 << 20
MAX_CONTROL_BYTES: Final = 16 << 10  # a registration is some hundred bytes
# A thousand actions of some 300 bytes, with a reason of a line each; and what a sensor has to say of each.
MAX_ORDERS_BYTES: Final = 1 << 20
MAX_REPORT_BYTES: Final = 1 << 20
TEXT_CHARACTERS_MAX: Final = 512  # of what a sensor says of itself, and of what it did: a line
# A filter that people write has some hundred characters; the kernel takes 4,096 instructions.
MAX_FILTER_CHARACTERS: Final = 2048
MAX_SEQUENCE: Final = 2**63 - 1  # SQLite's integers are signed

_SENSOR = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_EPOCH = re.compile(r"[0-9a-f]{32}")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")
_PATH = re.compile(r"/v1/sensors/([^/]+)/epochs/([^/]+)/interfaces/([^/]+)/batches/([^/]+)")
_CONTROL_PATH = re.compile(r"/v1/sensors/([^/]+)/(registration|introduction|antigena)")
_ACCOUNT_BYTES_MAX = 256
_INTERFACE_BYTES_MAX = 15  # IFNAMSIZ less the NUL


class MalformedError(ValueError):
    """A path, name or number that this protocol does not allow."""


def sensor_name_ok(name: str) -> bool:
    """True when `name` can stand in a path and name a folder: a letter or digit, then `A-Za-z0-9._-`."""
    return _SENSOR.fullmatch(name) is not None


def interface_name_ok(name: str) -> bool:
    """True for what the kernel's dev_valid_name() allows, less control characters, which no path should carry."""
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= _INTERFACE_BYTES_MAX
        and name not in {".", ".."}
        and not any(c in "/:" or c.isspace() or not c.isprintable() for c in name)
    )


def parse_number(text: str) -> int:
    """The non-negative integer that `text` spells in its one canonical form.

    int() also takes spaces, signs, underscores and digits of other scripts; a signed field must mean one thing.
    """
    if _NUMBER.fullmatch(text) is None or int(text) > MAX_SEQUENCE:
        raise MalformedError(f"not a canonical non-negative integer: {text[:40]!r}")
    return int(text)


class Stream(NamedTuple):
    """One capture socket's life, seen from the wire: batches of a stream are stored in sequence order."""

    sensor: str
    epoch: str
    interface: str


@dataclass(frozen=True, slots=True)
class BatchId:
    """What makes a batch itself, whatever number of times it is sent."""

    stream: Stream
    sequence: int

    @property
    def path(self) -> str:
        sensor, epoch, interface = self.stream
        return f"/v1/sensors/{sensor}/epochs/{epoch}/interfaces/{quote(interface, safe='')}/batches/{self.sequence}"

    @classmethod
    def from_path(cls, path: str) -> BatchId:
        """The identity that `path`, still percent-encoded, names.

        Raises MalformedError, also for a spelling that `path` would not have produced: a batch has one path, so that
        one signature cannot be read as two batches.
        """
        match = _PATH.fullmatch(path)
        if match is None:
            raise MalformedError("no such resource")
        sensor, epoch, interface, sequence = match.groups()
        try:
            interface = unquote(interface, errors="strict")
        except UnicodeDecodeError as e:
            raise MalformedError("the interface's name is not UTF-8") from e
        if not sensor_name_ok(sensor) or _EPOCH.fullmatch(epoch) is None or not interface_name_ok(interface):
            raise MalformedError("sensor, epoch or interface is malformed")
        batch = cls(Stream(sensor, epoch, interface), parse_number(sequence))
        if batch.path != path:
            raise MalformedError("the path is not in its canonical spelling")
        return batch


def registration_path(sensor: str) -> str:
    return f"/v1/sensors/{sensor}/registration"


def introduction_path(sensor: str) -> str:
    return f"/v1/sensors/{sensor}/introduction"


def antigena_path(sensor: str) -> str:
    return f"/v1/sensors/{sensor}/antigena"


def control_sensor(path: str) -> str:
    """The sensor that the path of a control request names. Raises MalformedError for any other path."""
    match = _CONTROL_PATH.fullmatch(path)
    if match is None or not sensor_name_ok(match[1]):
        raise MalformedError("no such resource")
    return match[1]


@dataclass(frozen=True, slots=True)
class Account:
    """The sensor's books of a stream as of one batch, in packets; what `ossensor audit` holds the store against.

    `received` includes `kernel_drops`. Both are read about once a second, so they lag; in the final batch they are
    exact. What the uploader dropped is counted since the sensor took up the interface, over all epochs.
    """

    first_packet: int = 0  # packets of the stream in earlier sequences
    received: int = 0
    kernel_drops: int = 0
    final: int = 0  # 1: the capture ended with this batch
    rejected: int = 0
    too_large: int = 0
    corrupt: int = 0

    @property
    def text(self) -> str:
        """As in the field: a dictionary of integers (RFC 8941 section 3.2), all of them, in this order."""
        return ", ".join(f"{spelled}={getattr(self, name)}" for name, spelled in _ACCOUNT_NAMES)

    @classmethod
    def parse(cls, text: str) -> Account:
        """The account that spells so. Raises MalformedError for any other spelling."""
        if len(text) > _ACCOUNT_BYTES_MAX:
            raise MalformedError("the books are too long")
        account = cls(*(parse_number(pair.partition("=")[2]) for pair in text.split(", ")[: len(_ACCOUNT_NAMES)]))
        if account.text != text or account.final > 1:
            raise MalformedError("the books are not in their canonical spelling")
        return account


_ACCOUNT_NAMES: Final = tuple((f.name, f.name.replace("_", "-")) for f in fields(Account))


@dataclass(frozen=True, slots=True)
class Limits:
    """What a vSensor takes at most; 0 where it does not say."""

    batch_bytes: int = 0  # of a section, opened
    window: int = 0  # batches of one stream on their way

    @classmethod
    def parse(cls, values: object) -> Limits:
        """Raises MalformedError for what is no limit, or below what every vSensor must take."""
        if not isinstance(values, dict):
            raise MalformedError("the limits are no JSON object")
        least = {"batch_bytes": LEAST_SECTION_BYTES, "window": 1}
        given = {name: values[name] for name in least if name in values}
        if any(type(value) is not int or value < least[name] for name, value in given.items()):
            raise MalformedError(f"a limit is none, or below {least}")
        return cls(**given)


_NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a vSensor asks of a sensor, in its reply to a registration. An empty body asks for nothing."""

    packet_filter: str = ""  # in libpcap's language; what it refuses is not sent
    direct: str = ""  # ADDRESS:PORT where this vSensor is reached past its load balancer; judged by who would go there
    limits: Limits = _NO_LIMITS

    @property
    def body(self) -> bytes:
        asked = {name: value for name, value in asdict(self).items() if value}
        if limits := {name: value for name, value in asdict(self.limits).items() if value}:
            asked["limits"] = limits
        else:
            del asked["limits"]
        return json.dumps(asked).encode() if asked else b""

    @classmethod
    def parse(cls, body: bytes) -> Welcome:
        """The welcome in a body; members that this version does not know are passed over. Raises MalformedError."""
        if not body:
            return cls()
        try:
            values = json.loads(body)
        except (ValueError, RecursionError) as e:
            raise MalformedError("the welcome is no JSON") from e
        if not isinstance(values, dict):
            raise MalformedError("the welcome is no JSON object")
        text = values.get("packet_filter", "")
        if not packet_filter_ok(text):
            raise MalformedError("the welcome's packet filter is no printable text, or too long")
        # Not malformed as a whole: the sensor can do without, and what cannot be read is no address either.
        direct = values.get("direct", "")
        direct = direct if packet_filter_ok(direct) else "(no printable text)"
        return cls(text, direct, Limits.parse(values.get("limits", {})))


def text(value: object) -> str:
    """The text, if it can stand in a line of a log or on a page. Raises MalformedError."""
    if not isinstance(value, str) or len(value) > TEXT_CHARACTERS_MAX or not value.isprintable():
        raise MalformedError("a member is no printable text, or too long")
    return value


def packet_filter_ok(text: object) -> TypeGuard[str]:
    """True for text that can stand in a line of a log: printable ASCII, and not longer than anybody writes."""
    return isinstance(text, str) and len(text) <= MAX_FILTER_CHARACTERS and text.isascii() and text.isprintable()


class Outcome(Enum):
    """What a signed reply says of a request. What a sensor makes of it is in retry.py."""

    STORED = "stored"
    PRESENT = "present"
    REGISTERED = "registered"
    MALFORMED = "malformed"
    TOO_LARGE = "too-large"
    STALE = "stale"
    REPLAYED = "replayed"
    ALTERED = "altered"
    OUT_OF_ORDER = "out-of-order"
    BUSY = "busy"
    STORE_FAILED = "store-failed"

    @property
    def status(self) -> int:
        return _STATUS[self]

    @property
    def acknowledged(self) -> bool:
        """True when the batch is durable at the vSensor."""
        return self in {Outcome.STORED, Outcome.PRESENT}


_STATUS: Final = {
    Outcome.STORED: 201,
    Outcome.PRESENT: 200,
    Outcome.REGISTERED: 200,
    Outcome.MALFORMED: 422,
    Outcome.TOO_LARGE: 413,
    Outcome.STALE: 401,
    Outcome.REPLAYED: 401,
    Outcome.ALTERED: 400,
    Outcome.OUT_OF_ORDER: 425,  # RFC 8470 "Too Early": a predecessor has not arrived
    Outcome.BUSY: 503,
    Outcome.STORE_FAILED: 507,
}
