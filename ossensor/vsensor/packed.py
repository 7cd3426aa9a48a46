"""A closed file of the store, compressed so that any part of it can be read alone.

The format is zstd's own seekable one (contrib/seekable_format/zstd_seekable_compression_format.md): frames of equal
content one after the other, then a table of their sizes in a skippable frame. `zstd -d` makes the original of it, and
Wireshark opens it as it is; neither needs the index.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NamedTuple, Self

import zstandard

# What is read too much at the two ends of a batch. Frames of 64 KiB would compress mixed traffic to 1/1.44, of 4 MiB to
# 1/1.48; these, to 1/1.477.
FRAME_BYTES: Final = 256 << 10
# zstd 3: 1/1.52 where 1 gives 1/1.48 and 9 gives 1/1.55, at half the speed of the one and three times the other's.
_LEVEL: Final = 3

_SKIPPABLE: Final = struct.Struct("<II")  # magic, bytes that follow
_SKIPPABLE_MAGIC: Final = 0x184D2A5E
_ENTRY: Final = struct.Struct("<II")  # compressed, decompressed
_FOOTER: Final = struct.Struct("<IBI")  # frames, descriptor, magic
_FOOTER_MAGIC: Final = 0x8F92EAB1
_FRAMES_MAX: Final = 1 << 27  # the format's


class PackedError(ValueError):
    """The file is not in the format, or damaged."""


def pack(source: int, target: int) -> int:
    """Writes all of `source`, a descriptor, to `target`; the bytes written. Raises OSError, or PackedError.

    Each frame is opened again before it counts: the original goes when this has returned, so what a bug or a bad
    memory cell made of it must be found now.
    """
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True, write_content_size=True)
    decompressor = zstandard.ZstdDecompressor()
    table = []
    with os.fdopen(os.dup(target), "wb") as out:
        for chunk in _chunks(source):
            frame = compressor.compress(chunk)
            if decompressor.decompress(frame) != chunk:
                raise PackedError("zstd did not give back what it was given")
            out.write(frame)
            table.append(_ENTRY.pack(len(frame), len(chunk)))
        entries = b"".join(table)
        out.write(_SKIPPABLE.pack(_SKIPPABLE_MAGIC, len(entries) + _FOOTER.size))
        out.write(entries + _FOOTER.pack(len(table), 0, _FOOTER_MAGIC))
        return out.tell()


def _chunks(source: int) -> Iterator[bytes]:
    offset = 0
    while chunk := os.pread(source, FRAME_BYTES, offset):
        yield chunk
        offset += len(chunk)


class Frames(NamedTuple):
    """Where each frame begins in the file and in the original; one element more than there are frames."""

    packed: list[int]
    original: list[int]

    @classmethod
    def of(cls, fd: int) -> Self:
        """The frames of an open file. Raises OSError, or PackedError."""
        size = os.fstat(fd).st_size
        footer = os.pread(fd, _FOOTER.size, max(0, size - _FOOTER.size))
        if len(footer) != _FOOTER.size:
            raise PackedError("it is too short for its table")
        frames, descriptor, magic = _FOOTER.unpack(footer)
        table_bytes = frames * _ENTRY.size
        at = size - _FOOTER.size - table_bytes
        if magic != _FOOTER_MAGIC or descriptor or frames > _FRAMES_MAX or at < _SKIPPABLE.size:
            raise PackedError("it does not end with a table of its frames")
        head_and_table = os.pread(fd, _SKIPPABLE.size + table_bytes, at - _SKIPPABLE.size)
        # Told by nothing that is read here; but without it `zstd -d` would not know where the frames end.
        if head_and_table[: _SKIPPABLE.size] != _SKIPPABLE.pack(_SKIPPABLE_MAGIC, table_bytes + _FOOTER.size):
            raise PackedError("its table is not in a frame that zstd passes over")
        sizes = list(_ENTRY.iter_unpack(head_and_table[_SKIPPABLE.size :]))
        found = cls(
            [0, *accumulate(packed for packed, _ in sizes)], [0, *accumulate(original for _, original in sizes)]
        )
        if len(sizes) != frames or found.packed[-1] != at - _SKIPPABLE.size:
            raise PackedError("its table does not fit it")
        return found

    @property
    def length(self) -> int:
        """Bytes of the original."""
        return self.original[-1]

    @property
    def table_bytes(self) -> int:
        """Bytes that were read to know all this."""
        return _FOOTER.size + _SKIPPABLE.size + _ENTRY.size * (len(self.packed) - 1)

    def covering(self, offset: int, length: int) -> range:
        """The numbers of the frames that hold this part of the original; fewer at its end."""
        end = min(offset + length, self.length)
        if offset >= end:
            return range(0)
        return range(bisect_right(self.original, offset) - 1, bisect_right(self.original, end - 1))

    def size(self, number: int) -> int:
        """Bytes of the file that one frame takes."""
        return self.packed[number + 1] - self.packed[number]

    def read(self, fd: int, number: int) -> bytes:
        """What one frame holds of the original. Raises OSError, or PackedError."""
        frame = os.pread(fd, self.size(number), self.packed[number])
        return _opened(frame, self.original[number + 1] - self.original[number])


def _opened(frame: bytes, length: int) -> bytes:
    try:
        # The frame says how much memory it needs, and a damaged one may say any number.
        if zstandard.get_frame_parameters(frame).content_size != length:
            raise PackedError("a frame of it is not as long as its table says")
        # Extra data: a flipped bit in the frame's header says that no checksum follows, and four bytes are left over.
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as e:
        raise PackedError(f"a frame of it is damaged: {e}") from e
