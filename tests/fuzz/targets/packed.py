"""A compressed file of the store (vsensor/packed.py).

Declared: PackedError. Second oracle: zstd's streaming reader over the whole file, which is what `zstd -d` does, and
knows nothing of the table.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing

import zstandard

from ossensor.vsensor import packed
from ossensor.vsensor.packed import Frames, PackedError

from ._files import memory_file, open_memory_file


def seeds() -> Iterator[bytes]:
    for content in (b"", b"a small file", bytes(300_000)):
        with memory_file(content) as source, memory_file(b"") as out:
            packed.pack(source, out)
            yield os.pread(out, 1 << 20, 0)


def target(data: bytes) -> bool:
    fd = open_memory_file(data)
    try:
        frames = Frames.of(fd)
        opened = b"".join(frames.read(fd, number) for number in range(len(frames.packed) - 1))
    except PackedError:
        return False
    finally:
        os.close(fd)
    assert len(opened) == frames.length
    with closing(zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data), read_across_frames=True)) as whole:
        assert whole.read() == opened
    return True
