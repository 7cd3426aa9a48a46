"""The memory of a slot queue: what its words hold, and what is no such memory."""

from __future__ import annotations

import os
import resource
import struct
from pathlib import Path

import pytest

from ossensor.accounting import SUPERVISOR_REASONS, Reason
from ossensor.region import MOST_BLOCKS, Commit, Control, Region

SLOT_BYTES = 4096


@pytest.mark.parametrize(
    "commit",
    [
        Commit(0, 0, 0),
        Commit(2**24 - 4, 0, 0),
        Commit(0, 2**26 - 1, 0),
        Commit(0, 0, MOST_BLOCKS),
        Commit(2**24 - 4, 2**26 - 1, MOST_BLOCKS),
    ],
)
def test_a_commit_word_holds_the_most_of_each_beside_the_others(commit: Commit) -> None:
    assert Commit.unpack(commit.pack()) == commit
    assert commit.pack() < 2**64


@pytest.mark.parametrize(
    "limit,longest", [(0, SLOT_BYTES), (4095, 4088), (4096, 4096), (4097, 4096), (2**40, 4096), (8, 8)]
)
def test_a_section_is_as_long_as_the_slot_or_the_limit_in_whole_words(region: Region, limit: int, longest: int) -> None:
    region.limit_sections(limit)

    assert region.section_bytes() == longest


def test_the_supervisors_counts_are_shown_as_they_were_given_and_none_below_nothing(region: Region) -> None:
    region.set_totals(7, 3, {Reason.WORKER_DIED: -1, Reason.SHUTDOWN: 5})

    assert SUPERVISOR_REASONS == (Reason.WORKER_DIED, Reason.INTERFACE_GONE, Reason.SHUTDOWN)
    assert region.totals() == (7, 3, {Reason.WORKER_DIED: 0, Reason.INTERFACE_GONE: 0, Reason.SHUTDOWN: 5})


def test_the_epochs_kernel_counts_are_there_until_the_next_epoch(region: Region) -> None:
    region.set_kernel_counts(7, 3)
    told = [region.kernel_counts()]
    region.begin_epoch()

    assert [*told, region.kernel_counts()] == [(7, 3), (0, 0)]


def test_a_reading_that_another_life_finds_under_way_is_lost_until_the_next_epoch(region: Region) -> None:
    told = []
    for step in ("begin_reading", "take_up_reading", "begin_reading", "end_reading", "begin_epoch"):
        getattr(region, step)()
        told.append(region.reading_lost)
    region.begin_reading()
    region.end_reading()
    region.take_up_reading()  # there is none under way

    assert [*told, region.reading_lost] == [False, True, True, True, False, False]


@pytest.mark.parametrize(
    "lost, counts, committed, last",
    [
        (False, (7, 3), 9, (7, 3)),  # a count that contradicts itself is shown as it is
        (True, (7, 3), 9, (12, 3)),
        (True, (15, 3), 9, (15, 3)),
        (True, (7, 3), 2**64 - 1, (2**64 - 1, 3)),  # a compromised worker's
    ],
)
def test_where_a_reading_was_lost_the_last_section_counts_what_was_captured(
    region: Region, *, lost: bool, counts: tuple[int, int], committed: int, last: tuple[int, int]
) -> None:
    region.set_kernel_counts(*counts)
    region.set_control(Control.COMMITTED, committed)
    region.set_control(Control.READING, 2 * lost)

    assert (region.last_counts(), region.kernel_counts()) == (last, counts)


def test_memory_that_is_not_given_is_refused_at_once_and_leaves_no_descriptor_behind() -> None:
    def descriptors() -> set[str]:
        return {path.name for path in Path("/proc/self/fd").iterdir()}

    before = descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SLOT_BYTES, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            Region.create(2, SLOT_BYTES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert descriptors() <= before  # others may have closed one of theirs


def test_a_filters_text_is_cut_to_what_the_page_holds_and_each_has_a_version_of_its_own(region: Region) -> None:
    versions = [region.filter_version]
    for text, held in (("tcp", "tcp"), ("x" * 5000, "x" * 3072), ("", "")):
        region.set_filter_text(text)
        versions.append(region.filter_version)

        assert region.filter_text() == (versions[-1], held)
    assert versions == [0, 2, 4, 6]


def test_a_filters_text_is_read_again_after_a_writer_that_was_killed_in_the_middle(region: Region) -> None:
    region.set_filter_text("tcp")
    region.set_control(Control.FILTER_VERSION, region.filter_version + 1)  # where it was killed
    torn = region.filter_text()
    region.set_filter_text("udp")

    assert (torn, region.filter_text()) == (None, (4, "udp"))


def test_a_filters_text_that_is_replaced_while_it_is_read_is_not_told(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.set_filter_text("tcp")
    seen = iter([2, 4])
    with monkeypatch.context() as replaced:
        replaced.setattr(Region, "filter_version", property(lambda _: next(seen)))
        torn = region.filter_text()

    assert (torn, region.filter_text()) == (None, (2, "tcp"))


def test_whether_the_epoch_ends_is_told_and_the_next_one_does_not(region: Region) -> None:
    told = [region.ending]
    for on in (True, False, True):
        region.set_ending(on=on)
        told.append(region.ending)
    region.begin_epoch()

    assert [*told, region.ending] == [False, True, False, True, False]


@pytest.mark.parametrize("total", [3 * 4096, 1 << 20, (1 << 20) + 4095, 5 << 20])
def test_a_region_within_a_limit_uses_all_of_it_but_for_the_words_that_do_not_divide(total: int) -> None:
    memory = Region.within(total, 3)
    try:
        assert 0 <= total - os.fstat(memory.fd).st_size < 3 * 8 + 8
        assert memory.slot_bytes % 8 == 0
    finally:
        memory.close()
        os.close(memory.fd)


@pytest.mark.parametrize(
    "words,size,message",
    [
        pytest.param((0x31544F4C534E, 2, 4096), 16384, "no slot region", id="another magic"),
        pytest.param((0, 0, 0), 8192, "no slot region", id="zeros"),
        pytest.param((0x31544F4C534F, 3, 4096), 16384, "contradicts", id="fewer slots than it says"),
        pytest.param((0x31544F4C534F, 1, 4096), 16384, "contradicts", id="more slots than it says"),
        pytest.param((0x31544F4C534F, 2, 4096), 16384 + 4096, "contradicts", id="longer"),
    ],
)
def test_a_descriptor_of_anything_else_is_no_region(words: tuple[int, ...], size: int, message: str) -> None:
    fd = os.memfd_create("other")
    try:
        os.ftruncate(fd, size)
        os.pwrite(fd, struct.pack("<QQQ", *words), 0)
        with pytest.raises(ValueError, match=message):
            Region(fd)
    finally:
        os.close(fd)
