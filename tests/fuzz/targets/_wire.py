"""Signed messages without the project's own signing: by the small vSensor of the documentation (docs/receiver.py)."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import h11

from ossensor.transport.protocol import Account
from ossensor.transport.signing import Key
from ossensor.vsensor.verify import Head


def _receiver() -> ModuleType:
    path = Path(__file__).parents[3] / "docs" / "receiver.py"
    spec = importlib.util.spec_from_file_location("receiver", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


receiver: Any = _receiver()

KEY = Key(bytes(range(32)))
KEYS = {KEY.id: KEY}
NOW_S = 1_795_000_000
EPOCH = "0123456789abcdef" * 2
NONCE = f"{'fedcba9876543210' * 2}-7"
AUTHORITY = "vsensor.test:8443"
PATH = f"/v1/sensors/sensor-1/epochs/{EPOCH}/interfaces/eth0/batches/3"

# The parameters of a signature, each at most once, in any order and in one spelling: RFC 8941 section 4.1, narrowed to
# what the protocol has. Of texts: printable ASCII, in which two characters are escaped.
_TEXT = r'"(?:[ !#-\[\]-~]|\\["\\])*"'
PARAMETERS = re.compile(rf"(?:;(?:created=(?:0|-?[1-9][0-9]{{0,14}})|(?:keyid|alg|nonce|tag)={_TEXT}))*")


_SIGNED = re.compile(rf"ossensor=(\(([^()]*)\)((?:;[a-z]+=(?:-?[0-9]+|{_TEXT}))*))")
_PARAMETER = re.compile(rf";([a-z]+)=(?:(-?[0-9]+)|({_TEXT}))")


def maybe_proven(head: Head, tag: str) -> tuple[int, str] | None:
    """Time and nonce of a request that has one signature under KEY, in its one spelling, over all that counts.

    As docs/receiver.py, but that a signature may cover more than it must, in any order, as RFC 9421 has it.
    """
    fields = dict(head.fields)
    parts = dict(receiver.request_parts(head.method, head.path, head.query, fields))
    # RFC 3986 section 6.2.3: how many zeros a port has in front changes nothing.
    parts['"@authority"'] = re.sub(r":0*443$", "", parts['"@authority"'])
    signed = _SIGNED.fullmatch(fields["signature-input"])
    if signed is None or PARAMETERS.fullmatch(signed[3]) is None:
        return None
    given = [(name, number or text[1:-1]) for name, number, text in _PARAMETER.findall(signed[3])]
    said, names = dict(given), signed[2].split(" ")
    if len(said) < len(given) or len(set(names)) < len(names) or not parts.keys() <= set(names):
        return None
    more = {f'"{name}"': value for name, value in fields.items()} | {'"@scheme"': "https"}
    values = [(name, {**more, **parts}[name]) for name in names]
    if receiver.sign(KEY.secret, values, signed[1]) != fields["signature"] or said["tag"] != tag:
        return None
    return int(said["created"]), said["nonce"]


def batch_fields(body: bytes, **others: str) -> dict[str, str]:
    """The fields of a batch's request, without its signature; `_` stands for `-`."""
    fields = {
        "host": AUTHORITY,
        "content-type": "application/x-pcapng",
        "content-length": str(len(body)),
        "ossensor-floor": "0",
        "ossensor-packets": "1",
        "ossensor-books": Account(first_packet=1, received=2).text,
        "content-digest": receiver.digest(body),
    }
    return fields | {name.replace("_", "-"): value for name, value in others.items()}


def parameters(tag: str, created_s: int = NOW_S, nonce: str = NONCE) -> str:
    return f';created={created_s};keyid="{KEY.id}";alg="hmac-sha256";nonce="{nonce}";tag="{tag}"'


def sign(method: str, path: str, query: str, fields: dict[str, str], said: str) -> dict[str, str]:
    """The fields with a signature under KEY, whose parameters are what is `said`."""
    parts = receiver.request_parts(method, path, query, fields)
    covered = f"({' '.join(name for name, _ in parts)}){said}"
    return {**fields, "signature-input": f"ossensor={covered}", "signature": receiver.sign(KEY.secret, parts, covered)}


def head_of(method: str, path: str, query: str, fields: dict[str, str]) -> Head:
    return Head(method, path, query, tuple(fields.items()))


def bytes_of(head: Head, body: bytes) -> bytes:
    target = f"{head.path}?{head.query}" if head.query else head.path
    lines = [f"{head.method} {target} HTTP/1.1", *(f"{n}: {v}" for n, v in head.fields), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def maybe_head(data: bytes) -> Head | None:
    """The head of a request in these bytes, as the vSensor's server hands it on; None when h11 refuses it."""
    connection = h11.Connection(h11.SERVER)
    try:
        connection.receive_data(data)
        event = connection.next_event()
    except h11.RemoteProtocolError:
        return None
    if not isinstance(event, h11.Request):
        return None
    path, _, query = event.target.decode("latin-1").partition("?")
    fields = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
    return Head(event.method.decode("latin-1"), path, query, fields)
