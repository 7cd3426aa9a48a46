"""What a holder of the key may say, and mean nothing by it: a request whose parts are given, and then signed.

The first line is method and target, the others replace or add fields; a line `;...` replaces the signature's
parameters. Declared and second oracles: as in request.py. And since any bytes get a good signature here: what is
believed must be in the one spelling that RFC 8941 gives it, or two readers could read two requests.
"""

from __future__ import annotations

from collections.abc import Iterator

from ossensor.transport.protocol import TAG_CONTROL, TAG_DATA

from . import _wire
from .request import judged


def seeds() -> Iterator[bytes]:
    yield f"PUT {_wire.PATH}".encode()
    yield b"POST /v1/sensors/s/introduction\ncontent-type: application/json"
    yield f"PUT {_wire.PATH}\nossensor-floor: 3\nossensor-new: 1\ncontent-encoding: zstd".encode()
    yield f"PUT {_wire.PATH}\n{_wire.parameters(TAG_DATA)}".encode()
    yield (
        b'PUT /?x=1\n;tag="ossensor-data";alg="hmac-sha256";nonce="'
        + _wire.NONCE.encode()
        + b'"'
        + (f';keyid="{_wire.KEY.id}";created=-5'.encode())
    )


def target(data: bytes) -> bool:
    line, *others = data.decode("latin-1").split("\n")
    method, _, where = line.partition(" ")
    path, _, query = where.partition("?")
    fields, said = _wire.batch_fields(b"body"), _wire.parameters(TAG_DATA if method == "PUT" else TAG_CONTROL)
    for other in others:
        if other.startswith(";"):
            said = other
        else:
            name, _, value = other.partition(": ")
            fields[name.lower()] = value
    fields = _wire.sign(method, path, query, fields, said)
    head = _wire.maybe_head(_wire.bytes_of(_wire.head_of(method, path, query, fields), b"body"))
    taken = head is not None and judged(head)
    assert not taken or _wire.PARAMETERS.fullmatch(said)
    return taken
