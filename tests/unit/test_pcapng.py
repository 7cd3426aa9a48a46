"""pcapng sections: what the writer makes, as our reader and tshark see it, and what the reader refuses."""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ossensor import pcapng
from ossensor.pcapng import CLOSING_BYTES, EPB_OVERHEAD, FormatError, Packet, Section

NAME = "eth0"
FILTER = "tcp port 80 and not host 192.0.2.1"
PROLOGUE = pcapng.section_header("ossensor 0.1.0") + pcapng.interface_description(NAME, 1, 262_144, FILTER, "Linux")
START_NS = 1_795_000_000_123_456_789
FRAME = bytes.fromhex("ffffffffffff02000000000188b5") + b"distinct payload"

PACKETS = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=200), st.integers(0, 2**32 - 1)), max_size=20
)


def section(packets: list[tuple[int, bytes, int]], prologue: bytes = PROLOGUE, room: int = 1 << 16) -> bytes:
    view = memoryview(bytearray(room))
    writer = Section.open(view, prologue)
    for packet in packets:
        assert writer.add(*packet)
    return bytes(view[: writer.close(START_NS, START_NS + 5, 100, 7)])


def options(data: bytes) -> dict[int, bytes]:
    """The options of a block, read by other code than what wrote them."""
    found = {}
    at = 0
    while True:
        code, length = struct.unpack_from("<HH", data, at)
        if code == 0:
            assert (length, at + 4) == (0, len(data))
            return found
        found[code] = data[at + 4 : at + 4 + length]
        at += 4 + length + -length % 4


@settings(derandomize=True, max_examples=60, deadline=None)
@given(PACKETS)
def test_the_reader_gives_back_every_packet_of_a_section(packets: list[tuple[int, bytes, int]]) -> None:
    expected = [Packet(0, ts, original, data) for ts, data, original in packets]

    assert expected == list(pcapng.packets(section(packets)))


def test_a_section_is_a_header_an_interface_the_packets_and_statistics() -> None:
    kinds = [kind for kind, _ in pcapng.blocks(section([(1, b"a", 1), (2, b"bc", 2)]))]

    assert kinds == [pcapng.SHB, pcapng.IDB, pcapng.EPB, pcapng.EPB, pcapng.ISB]


def test_the_section_length_is_open_until_close_and_exact_after() -> None:
    view = memoryview(bytearray(4096))
    writer = Section.open(view, PROLOGUE)
    assert struct.unpack_from("<q", view, 16) == (-1,)
    writer.add(1, FRAME, len(FRAME))
    length = writer.close(1, 1, 1, 0)

    header_bytes = len(pcapng.section_header("ossensor 0.1.0"))
    assert (length - header_bytes,) == struct.unpack_from("<q", view, 16)


def test_the_interface_block_carries_name_link_type_resolution_filter_and_system() -> None:
    _, idb, _ = pcapng.blocks(section([]))

    assert struct.unpack_from("<HHI", idb.body) == (1, 0, 262_144)
    expected = {2: b"eth0", 9: b"\x09", 11: b"\0" + FILTER.encode(), 12: b"Linux"}
    assert expected == options(bytes(idb.body[8:]))


def test_without_a_filter_there_is_no_filter_option() -> None:
    (block,) = pcapng.blocks(pcapng.interface_description("lo", 1, 64, "", "Linux"))

    assert {2, 9, 12} == options(bytes(block.body[8:])).keys()


def test_the_statistics_block_carries_the_counts_and_the_span() -> None:
    *_, isb = pcapng.blocks(section([]))
    high, low = START_NS + 5 >> 32, START_NS + 5 & 0xFFFFFFFF

    assert (0, high, low) == struct.unpack_from("<III", isb.body)
    expected = {
        2: struct.pack("<II", START_NS >> 32, START_NS & 0xFFFFFFFF),
        3: struct.pack("<II", high, low),
        4: struct.pack("<Q", 100),
        5: struct.pack("<Q", 7),
    }
    assert expected == options(bytes(isb.body[12:]))


def test_close_repeated_over_the_same_packets_gives_the_same_bytes() -> None:
    view = memoryview(bytearray(4096))
    writer = Section.open(view, PROLOGUE)
    writer.add(1, FRAME, len(FRAME))
    first = bytes(view[: writer.close(1, 2, 3, 4)])

    assert first == bytes(view[: writer.close(1, 2, 3, 4)])


def test_a_successor_closes_a_section_from_its_used_bytes_alone() -> None:
    view = memoryview(bytearray(4096))
    writer = Section.open(view, PROLOGUE)
    writer.add(1, FRAME, len(FRAME))
    used = writer.used
    writer.add(2, b"never committed", 15)  # the killed writer's last, torn packet

    length = Section(view, used).close(START_NS, START_NS + 5, 100, 7)

    assert section([(1, FRAME, len(FRAME))]) == bytes(view[:length])


@settings(derandomize=True, max_examples=150, deadline=None)
@given(st.integers(len(PROLOGUE) + CLOSING_BYTES, 2000), st.lists(st.integers(0, 300), max_size=30))
def test_add_refuses_exactly_what_does_not_fit_and_leaves_room_for_closing(room: int, sizes: list[int]) -> None:
    view = memoryview(bytearray(b"\xaa" * room))
    writer = Section.open(view, PROLOGUE)
    used = len(PROLOGUE)
    for size in sizes:
        before = bytes(view)
        block = 32 + (size + 3) // 4 * 4
        fits = used + block <= room - CLOSING_BYTES
        used += block if fits else 0

        assert fits == writer.add(1, bytes(size), size)
        assert used == writer.used
        if not fits:
            assert before == bytes(view)
    assert b"\xaa" * (room - used) == bytes(view[used:])
    assert used + CLOSING_BYTES == writer.close(0, 0, 0, 0) <= room


@settings(derandomize=True, max_examples=100, deadline=None)
@given(st.integers(0, 3000), st.integers(1, 400))
def test_the_promised_number_of_largest_blocks_fits_and_no_more(extra: int, snaplen: int) -> None:
    room = len(PROLOGUE) + CLOSING_BYTES + extra
    block_bytes = pcapng.largest_block(snaplen)
    writer = Section.open(memoryview(bytearray(room)), PROLOGUE)
    promised = pcapng.blocks_in_empty_section(room, PROLOGUE, block_bytes)

    assert promised == writer.blocks_that_fit(block_bytes)
    assert [True] * promised + [False] == [writer.add(1, bytes(snaplen), snaplen) for _ in range(promised + 1)]


@pytest.mark.parametrize("captured", range(5))
def test_the_largest_block_of_a_snap_length_is_what_such_a_packet_takes(captured: int) -> None:
    view = memoryview(bytearray(4096))
    writer = Section.open(view, PROLOGUE)
    writer.add(1, bytes(captured), captured)

    assert pcapng.largest_block(captured) == writer.used - len(PROLOGUE)


def test_open_refuses_a_view_one_byte_too_small_and_takes_one_that_is_just_right() -> None:
    smallest = len(PROLOGUE) + CLOSING_BYTES
    with pytest.raises(ValueError, match="smaller"):
        Section.open(memoryview(bytearray(smallest - 1)), PROLOGUE)

    assert len(PROLOGUE) == Section.open(memoryview(bytearray(smallest)), PROLOGUE).used


def test_old_bytes_of_a_reused_slot_do_not_show_in_the_padding() -> None:
    view = memoryview(bytearray(b"\xff" * 4096))
    writer = Section.open(view, PROLOGUE)
    for size in range(1, 8):
        writer.add(1, b"\x11" * size, size)
    length = writer.close(1, 1, 1, 0)

    assert b"\xff" not in bytes(view[len(PROLOGUE) : length])


SHB = pcapng.section_header("x")
EPB_OF_4 = struct.pack("<IIIIIII", pcapng.EPB, 36, 0, 0, 0, 4, 4) + b"data" + struct.pack("<I", 36)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(SHB[:-1], id="cut in the last length"),
        pytest.param(SHB + b"\0" * 11, id="too few bytes for a block"),
        pytest.param(struct.pack("<III", 1, 8, 8), id="length below the smallest block"),
        pytest.param(struct.pack("<II2sI", 1, 14, b"xx", 14), id="length that is no multiple of four"),
        pytest.param(struct.pack("<III", 1, 16, 16), id="length past the end"),
        pytest.param(struct.pack("<III", 1, 12, 16), id="two lengths that differ"),
        pytest.param(SHB[:8] + SHB[8:12][::-1] + SHB[12:], id="big-endian section"),
        pytest.param(struct.pack("<III", pcapng.SHB, 12, 12), id="section header without its magic"),
        pytest.param(SHB + struct.pack("<III", pcapng.EPB, 12, 12), id="packet block without its fixed part"),
        pytest.param(SHB + EPB_OF_4[:20] + b"\x05" + EPB_OF_4[21:], id="packet longer than its block"),
    ],
)
def test_the_reader_refuses(data: bytes) -> None:
    with pytest.raises(FormatError):
        list(pcapng.packets(data))


def test_the_untouched_parts_of_the_refusals_are_readable() -> None:
    assert [Packet(0, 0, 4, b"data")] == list(pcapng.packets(SHB + EPB_OF_4))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_random_bytes_raise_nothing_but_format_errors(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        list(pcapng.packets(data))


@pytest.mark.slow
def test_altered_sections_raise_nothing_but_format_errors_and_never_show_more_than_was_there() -> None:
    seed = 20261123
    print("seed", seed)
    rng = random.Random(seed)
    original = section([(n, bytes([n]) * n, n) for n in range(1, 12)])
    refused = 0
    for _ in range(5000):
        data = bytearray(original)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        del data[rng.choice([len(data), rng.randrange(len(data))]) :]
        try:
            shown = list(pcapng.packets(bytes(data)))
        except FormatError:
            refused += 1
        else:
            assert sum(EPB_OVERHEAD + len(p.data) for p in shown) <= len(data)
    print("refused", refused)
    assert 1000 < refused < 5000


COLUMNS = ("frame.time_epoch", "frame.len", "frame.cap_len", "frame.interface_name")


def tshark(tmp_path: Path, data: bytes, columns: tuple[str, ...] = COLUMNS) -> list[str]:
    file = tmp_path / "x.pcapng"
    file.write_bytes(data)
    fields = [argument for name in columns for argument in ("-e", name)]
    done = subprocess.run(
        ["tshark", "-n", "-r", str(file), "-T", "fields", *fields], capture_output=True, text=True, check=True
    )
    assert "cut short" not in done.stderr
    return done.stdout.splitlines()


@pytest.mark.slow
def test_tshark_reads_count_lengths_names_and_nanoseconds_of_a_section(tmp_path: Path) -> None:
    sizes = [14, 60, 1514, 9000, 65_226]
    packets = [(START_NS + n, FRAME[:14] + bytes(size - 14), size + n) for n, size in enumerate(sizes)]

    expected = [f"1795000000.{123_456_789 + n}\t{size + n}\t{size}\teth0" for n, size in enumerate(sizes)]
    assert expected == tshark(tmp_path, section(packets, room=1 << 18))


@pytest.mark.slow
def test_sections_that_follow_one_another_are_one_file_to_us_and_to_tshark(tmp_path: Path) -> None:
    """All of one interface, as the vSensor stores them: tshark 4.0 takes names from the first section for the rest."""
    prologue = SHB + pcapng.interface_description("wlan-ü", 1, 262_144, "", "Linux")
    data = b"".join(section([(START_NS + n, FRAME, 30 + n)] * n, prologue) for n in (1, 2, 0, 3))

    lines = [f"1795000000.{123_456_789 + n}\t{30 + n}\t30\twlan-ü" for n in (1, 2, 3) for _ in range(n)]
    assert lines == tshark(tmp_path, data)
    assert tshark(tmp_path, data, ("frame.section_number",)) == ["1", "2", "2", "4", "4", "4"]
    assert [p.ts_ns - START_NS for p in pcapng.packets(data)] == [1, 2, 2, 3, 3, 3]


# -- options ----------------------------------------------------------------------------------------------------------


def bodies(data: bytes, kind: int) -> list[memoryview]:
    return [block.body for block in pcapng.blocks(data) if block.kind == kind]


def test_the_statistics_are_read_back_as_they_were_written() -> None:
    (body,) = bodies(section([(START_NS, b"a", 1)]), pcapng.ISB)

    assert pcapng.statistics_of(body) == pcapng.Statistics(100, 7, START_NS, START_NS + 5)


def test_statistics_that_say_nothing_or_say_it_in_other_lengths_are_none() -> None:
    short = struct.pack("<III HHI", 0, 0, 0, 4, 4, 7)  # ifrecv of four bytes, without an end of options

    assert [pcapng.statistics_of(body) for body in (bytes(12), short)] == [pcapng.Statistics(None, None)] * 2


def test_an_interface_that_is_renamed_keeps_everything_else() -> None:
    (body,) = bodies(PROLOGUE, pcapng.IDB)
    renamed = pcapng.renamed(bytes(body), "eth0@a-longer-name")

    assert options(renamed[8:]) == options(bytes(body)[8:]) | {2: b"eth0@a-longer-name"}
    assert renamed[:8] == bytes(body)[:8]


def test_options_end_where_they_say_or_with_the_block_and_none_is_longer_than_it() -> None:
    ended = struct.pack("<HH2sxx HH HHI", 1, 2, b"hi", 0, 0, 9, 4, 7)
    open_ended = struct.pack("<HH2sxx", 1, 2, b"hi")

    assert [list(pcapng.options(body, 0)) for body in (ended, open_ended, b"", bytes(3))] == [[(1, b"hi")]] * 2 + [
        []
    ] * 2
    with pytest.raises(FormatError, match="an option longer than its block"):
        list(pcapng.options(struct.pack("<HH", 1, 5) + bytes(4), 0))
