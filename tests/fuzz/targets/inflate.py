"""A compressed batch (vsensor/section.py, inflate).

Declared: SectionError. Second oracle: zstd's streaming decompressor, which goes another way through the library, and
learns the end of the frame from the frame: the same bytes, and nothing behind them.
"""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from ossensor.vsensor import section
from ossensor.vsensor.section import SectionError


def seeds() -> Iterator[bytes]:
    for level, options in ((1, {}), (3, {"write_checksum": True}), (19, {"write_dict_id": False})):
        yield zstandard.ZstdCompressor(level=level, **options).compress(bytes(range(256)) * 3 + bytes(500))
    yield zstandard.ZstdCompressor().compress(bytes(range(256)))


def target(data: bytes) -> bool:
    try:
        told = section.inflated_bytes(data)
        opened = section.inflate(data)
    except SectionError:
        return False
    assert len(opened) == told <= 8 << 20
    stream = zstandard.ZstdDecompressor(max_window_size=8 << 20).decompressobj()
    assert (stream.decompress(data), stream.unused_data) == (opened, b"")
    return True
