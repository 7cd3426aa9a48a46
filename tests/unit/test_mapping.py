"""Shared memory that can be of huge pages: where it lies, how long it stays, what it is made of."""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ossensor.mapping import Mapping
from ossensor.region import Region

MB = 1 << 20


@pytest.fixture
def fd() -> Iterator[int]:
    made = os.memfd_create("mapping-test")
    os.posix_fallocate(made, 0, 4 * MB)
    yield made
    os.close(made)


def reserved() -> set[str]:
    """Where nothing may be read or written, for two megabytes and more: of a reservation, and of other threads' heaps.

    Other mappings come and go as the interpreter has it.
    """
    found = re.findall(r"^(\w+)-(\w+) ---p", Path("/proc/self/maps").read_text(), re.MULTILINE)
    return {first for first, last in found if int(last, 16) - int(first, 16) >= 2 * MB}


def mapped() -> list[str]:
    return [line for line in Path("/proc/self/maps").read_text().splitlines() if "mapping-test" in line]


def test_it_lies_where_a_huge_page_fits(fd: int) -> None:
    address = ctypes.addressof(ctypes.c_char.from_buffer(Mapping(fd).view))

    assert address % (2 * MB) == 0


def test_of_what_was_reserved_for_it_nothing_stays_mapped(fd: int) -> None:
    mapping = Mapping(fd)

    (line,) = mapped()
    first, last = (int(n, 16) for n in re.findall(r"^(\w+)-(\w+)", line)[0])

    assert last - first == len(mapping.view) == 4 * MB


def test_two_mappings_of_a_file_are_one_memory(fd: int) -> None:
    one, other = Mapping(fd), Mapping(fd)

    one.view[4 * MB - 1] = 7
    one.allocate(fd)

    assert other.view[4 * MB - 1] == 7


def test_a_slice_keeps_the_memory_and_it_goes_with_the_last_one(fd: int) -> None:
    mapping = Mapping(fd)
    mapping.view[MB] = 9
    piece = mapping.view[MB : MB + 1]
    mapping.close()
    del mapping
    gc.collect()

    assert (piece[0], len(mapped())) == (9, 1)

    del piece
    gc.collect()
    assert mapped() == []


def test_a_file_that_cannot_be_mapped_says_so_and_leaves_nothing_reserved(fd: int) -> None:
    only_to_read = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    before = reserved()

    with pytest.raises(PermissionError):
        Mapping(only_to_read)

    assert reserved() <= before
    os.close(only_to_read)


def collapses(mapping: Mapping) -> bool:
    """Whether the kernel makes huge pages of shared memory: since Linux 6.1, and where some are free."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(mapping.view))
    madv_collapse = 25
    length = ctypes.c_size_t(len(mapping.view))
    return ctypes.CDLL(None).madvise(ctypes.c_void_p(address), length, madv_collapse) == 0


def makes_huge_pages() -> bool:
    """Whether it does so now, for as many as the slots below."""
    fd = os.memfd_create("mapping-test")
    try:
        os.posix_fallocate(fd, 0, 32 * MB)
        return collapses(Mapping(fd))
    finally:
        os.close(fd)


def test_all_of_a_file_that_was_a_hole_has_memory_afterwards_and_what_was_written_stays() -> None:
    fd = os.memfd_create("mapping-test")
    os.ftruncate(fd, 5 * MB + 100)
    mapping = Mapping(fd)
    mapping.view[0], mapping.view[5 * MB + 99] = 3, 4

    mapping.allocate(fd)

    assert os.fstat(fd).st_blocks * 512 == 5 * MB + mmap.PAGESIZE
    assert (mapping.view[0], mapping.view[5 * MB + 99]) == (3, 4)
    os.close(fd)


def huge_kb(region: Region) -> int:
    """Of its memory, what lies on huge pages."""
    parts = Path("/proc/self/smaps").read_text().split("VmFlags")
    (mine,) = [part for part in parts if f" {os.fstat(region.fd).st_ino} " in part and "ossensor-slots" in part]
    (found,) = re.findall(r"ShmemPmdMapped: *(\d+) kB", mine)
    return int(found)


def test_slots_are_on_huge_pages_where_the_kernel_has_them_and_fill_the_buffer_exactly() -> None:
    """Others take huge pages, too, between our asking and our having them: so, three attempts."""
    found = []
    while len(found) < 3 and 32768 not in found:
        if not makes_huge_pages():
            pytest.skip("the kernel makes no huge pages of shared memory (Linux before 6.1, or none are free)")
        region = Region.within(32 * MB, 8)
        try:
            for slot in range(region.count):
                region.populate(slot)
            assert os.fstat(region.fd).st_size == 32 * MB
            found.append(huge_kb(region))
        finally:
            region.close()
            os.close(region.fd)

    assert found[-1] == 32768
