"""A file's memory in this process, laid so that the kernel can make it of huge pages.

Python's mmap lets the kernel choose the address, and for a memfd it chooses one at which no huge page fits: address and
offset in the file must agree in their lower 21 bits. Hence mmap(2) itself, over a reservation that is 2 MiB larger.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from contextlib import suppress
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PAGESIZE, PROT_READ, PROT_WRITE
from typing import Final

# asm-generic/mman-common.h
_MAP_FIXED: Final = 0x10
_MADV_POPULATE_WRITE: Final = 23
_MADV_COLLAPSE: Final = 25
_FAILED: Final = ctypes.c_void_p(-1).value
# A page table's worth of pages of 4 KiB. Where huge pages have another size, this aligns for nothing.
_HUGE_BYTES: Final = 2 << 20

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Mapping:
    """The whole file, readable and writable, shared with whoever else maps it."""

    def __init__(self, fd: int, length: int | None = None) -> None:
        """Raises OSError. The descriptor stays the caller's to close. `length`: of a ring, which cannot be asked."""
        length = os.fstat(fd).st_size if length is None else length
        self._start = _aligned(fd, length)
        memory = (ctypes.c_ubyte * length).from_address(self._start)
        # Whoever holds a slice holds this array with it, and the mapping goes when the last of them does; not at the
        # interpreter's exit, where a thread may still be reading it.
        weakref.finalize(memory, _libc.munmap, self._start, length).atexit = False
        self.view = memoryview(memory).cast("B")

    def allocate(self, fd: int) -> None:
        """Gives the file all its memory now, in huge pages as far as there are any to have.

        Raises OSError (ENOSPC, ENOMEM), rather than SIGBUS later.

        A section is hashed and encrypted by another core than the one that wrote it, and on small pages a third of that
        time goes into page tables (SHA-256, seconds per GB, in a virtual machine: 0.80 against 0.56). MADV_COLLAPSE
        (Linux 6.1) asks for no privilege, no reservation, and leave of no setting but shmem_enabled=deny; MADV_HUGEPAGE
        does nothing for a memfd where that setting is Debian's, never.

        Huge pages before small ones: made of small pages, each is cleared and then copied (50 regions of 4 MiB: 128 ms;
        so: 22 ms, which is all that stands between fifty new interfaces and their capture). But the kernel collapses
        nothing that is quite empty (khugepaged.c, collapse_file), hence one byte for each.
        """
        length = len(self.view)
        for start in range(0, length, _HUGE_BYTES):
            os.pwrite(fd, os.pread(fd, 1, start), start)
        self._advise(0, length, _MADV_COLLAPSE)
        os.posix_fallocate(fd, 0, length)

    def populate(self, first: int, end: int) -> None:
        """Enters the pages that hold those bytes into this process's page table."""
        first -= first % PAGESIZE
        self._advise(first, end - first, _MADV_POPULATE_WRITE)

    def _advise(self, first: int, length: int, advice: int) -> None:
        # It is no more than advice: EINVAL from a kernel that does not know it, ENOMEM where no huge page is free.
        _libc.madvise(self._start + first, length, advice)

    def close(self) -> None:
        """Lets go of it. Slices that were handed out keep the memory, until they are gone."""
        with suppress(BufferError):
            self.view.release()


def _aligned(fd: int, length: int) -> int:
    """Where the file is now."""
    room = length + _HUGE_BYTES
    reserved = _mmap(None, room, 0, MAP_PRIVATE | MAP_ANONYMOUS, -1)
    start = reserved + -reserved % _HUGE_BYTES
    try:
        _mmap(start, length, PROT_READ | PROT_WRITE, MAP_SHARED | _MAP_FIXED, fd)
    except OSError:
        _libc.munmap(reserved, room)
        raise
    end = start + length + -length % PAGESIZE
    for first, last in ((reserved, start), (end, reserved + room)):
        if last > first:
            _libc.munmap(first, last - first)
    return start


def _mmap(address: int | None, length: int, protection: int, flags: int, fd: int) -> int:
    got: int | None = _libc.mmap(address, length, protection, flags, fd, 0)
    if got is None or got == _FAILED:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return got
