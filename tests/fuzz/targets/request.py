"""A request's head, from bytes off the wire to a batch that is announced (vsensor/verify.py, transport/signing.py).

Declared: RefusedError before the signature is good; after it, an outcome. Second oracle: docs/receiver.py, which shares
no line with the project, must find the same time and nonce under the same key; and what was understood must say what
the bytes of the fields say.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

from ossensor.transport.protocol import TAG_CONTROL, TAG_DATA, Outcome
from ossensor.transport.signing import RefusedError
from ossensor.vsensor import verify
from ossensor.vsensor.verify import Head, Upload

from . import _wire


def seeds() -> Iterator[bytes]:
    for path, encoding in ((_wire.PATH, {}), (_wire.PATH.replace("eth0", "a%2Fb"), {"content_encoding": "zstd"})):
        fields = _wire.batch_fields(b"body", **encoding)
        fields = _wire.sign("PUT", path, "", fields, _wire.parameters(TAG_DATA))
        yield _wire.bytes_of(_wire.head_of("PUT", path, "", fields), b"body")
    path, fields = "/v1/sensors/sensor-1/registration", _wire.batch_fields(b"{}", content_type="application/json")
    fields = _wire.sign("POST", path, "", fields, _wire.parameters(TAG_CONTROL))
    yield _wire.bytes_of(_wire.head_of("POST", path, "", fields), b"{}")


def target(data: bytes) -> bool:
    head = _wire.maybe_head(data)
    return head is not None and judged(head)


def judged(head: Head) -> bool:
    tag = TAG_DATA if head.method == "PUT" else TAG_CONTROL
    try:
        authentic = verify.authenticate(head, _wire.KEYS, tag)
    except RefusedError:
        return False
    assert _wire.maybe_proven(head, tag) == (authentic.verified.created_s, str(authentic.verified.nonce))
    fields = dict(head.fields)
    gate = verify.Gate(_wire.NOW_S - 100.0)
    if tag == TAG_CONTROL:
        assert isinstance(gate.judge_control(head, authentic, float(_wire.NOW_S)), Outcome)
        return True
    upload = gate.judge(head, authentic, float(_wire.NOW_S))
    if isinstance(upload, Upload):
        stream = upload.batch.stream
        assert f"/v1/sensors/{stream.sensor}/epochs/{stream.epoch}/interfaces/" in head.path
        assert (unquote(head.path.split("/")[7]), head.path.split("/")[9]) == (
            stream.interface,
            str(upload.batch.sequence),
        )
        said = (
            fields["ossensor-floor"],
            fields["ossensor-packets"],
            fields["ossensor-books"],
            fields["content-length"],
        )
        assert (str(upload.floor), str(upload.packets), upload.books.text, str(upload.content_bytes)) == said
        assert fields.get("content-encoding") == ("zstd" if upload.compressed else None)
    return True
