"""What passes for a section, and what is left out."""

from __future__ import annotations

import random
import struct

import pytest
import zstandard
from test_vsensor_kit import payload, split
from test_vsensor_kit import section as make_section

from ossensor import pcapng
from ossensor.transport.protocol import MAX_SECTION_BYTES, Outcome
from ossensor.vsensor.section import SectionError, Span, check, inflate, inflated_bytes, span

GOOD = make_section([payload(0, 61), payload(1, 14)])
SHB = 28
IDB = 20
ISB = 24


def refused(body: bytes) -> Outcome | None:
    try:
        check(body)
    except SectionError as e:
        return e.outcome
    return None


@pytest.mark.parametrize("payloads", [[], [b""], [payload(0)], [payload(i, i) for i in range(200)]])
def test_whole_sections_pass(payloads: list[bytes]) -> None:
    check(make_section(payloads))


def _with(offset: int, fmt: str, value: int) -> bytes:
    body = bytearray(GOOD)
    struct.pack_into(fmt, body, offset, value)
    return bytes(body)


def _longer_behind() -> bytes:
    """A last block that says at its end that it began where it did, and at its start that it is shorter."""
    body = bytearray(GOOD + bytes(8) + struct.pack("<I", ISB + 12))
    struct.pack_into("<q", body, 16, len(body) - SHB)
    return bytes(body)


DAMAGED = {
    "other first block": _with(0, "<I", 6),
    "SHB length 0": _with(4, "<I", 0),
    "SHB length odd": _with(4, "<I", SHB + 1),
    "SHB length over the end": _with(4, "<I", 1 << 31),
    "SHB trailing length": _with(SHB - 4, "<I", SHB + 4),
    "big-endian": _with(8, ">I", 0x1A2B3C4D),
    "version 2": _with(12, "<H", 2),
    "section length unspecified": _with(16, "<q", -1),
    "section length short": _with(16, "<q", len(GOOD) - SHB - 4),
    "section length long": _with(16, "<q", len(GOOD) - SHB + 4),
    "no IDB": _with(SHB, "<I", 6),
    "IDB length over the end": _with(SHB + 4, "<I", len(GOOD)),
    "IDB trailing length": _with(SHB + IDB - 4, "<I", 24),
    "last block no ISB": _with(len(GOOD) - ISB, "<I", 6),
    "ISB leading length": _with(len(GOOD) - ISB + 4, "<I", ISB - 4),
    "ISB trailing length 0": _with(len(GOOD) - 4, "<I", 0),
    "ISB trailing length into the IDB": _with(len(GOOD) - 4, "<I", len(GOOD) - SHB),
    "ISB trailing length over the start": _with(len(GOOD) - 4, "<I", len(GOOD) + 4),
    "ISB trailing length huge": _with(len(GOOD) - 4, "<I", 0xFFFFFFFC),
    "ISB whole, and something behind it": _longer_behind(),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_section_whose_ends_do_not_fit_is_malformed(name: str) -> None:
    assert refused(DAMAGED[name]) == Outcome.MALFORMED


def test_a_section_cut_at_any_byte_is_malformed() -> None:
    assert {refused(GOOD[:n]) for n in range(len(GOOD))} == {Outcome.MALFORMED}


def test_a_section_over_the_limit_is_too_large() -> None:
    assert refused(bytes(MAX_SECTION_BYTES + 1)) == Outcome.TOO_LARGE


def test_random_damage_at_the_ends_never_raises_anything_else_and_what_passes_can_stand_in_a_file() -> None:
    generator = random.Random(20261123)
    passed = 0
    for _ in range(20_000):
        body = bytearray(GOOD)
        for _ in range(generator.randint(1, 3)):
            places = [*range(SHB + IDB), *range(len(GOOD) - ISB, len(GOOD))]
            body[generator.choice(places)] ^= 1 << generator.randrange(8)
        if refused(bytes(body)) is None:
            passed += 1
            assert split(bytes(body) + GOOD) == [bytes(body), GOOD]
    print(f"seed 20261123: {passed} of 20000 passed")

    assert 0 < passed < 20_000


def _zstd(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


def test_a_frame_is_inflated_whole() -> None:
    body = make_section([payload(i, 500) for i in range(100)])

    assert (inflated_bytes(_zstd(body)), inflate(_zstd(body))) == (len(body), body)
    assert inflate(bytearray(_zstd(body))) == body


def _lying(size: int) -> bytes:
    """A frame of 10,240 bytes that declares another size: the field is rewritten with four bytes (RFC 8878 3.1.1.1)."""
    frame = _zstd(bytes(range(256)) * 40)
    assert zstandard.get_frame_parameters(frame).content_size == 10240
    assert frame[4] == 0x60  # single segment, a field of two bytes
    return frame[:4] + bytes([0xA0]) + size.to_bytes(4, "little") + frame[7:]


def _emptied(data: bytes) -> bytes:
    """A frame of this data that declares, in its one byte for that, that it holds nothing."""
    frame = _zstd(data[:200])
    assert frame[4:6] == bytes([0x20, 200])
    return frame[:5] + b"\0" + frame[6:]


def _undeclared(data: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor().compressobj()
    return compressor.compress(data) + compressor.flush()


def test_the_lying_frame_is_good_when_it_tells_the_truth() -> None:
    assert inflate(_lying(10240)) == bytes(range(256)) * 40


SKIPPABLE = b"\x50\x2a\x4d\x18" + b"\4\0\0\0abcd"
FRAMES = {
    "nothing": (b"", Outcome.MALFORMED),
    "magic only": (b"\x28\xb5\x2f\xfd", Outcome.MALFORMED),
    "declares one byte less": (_lying(10239), Outcome.MALFORMED),
    "declares one byte more": (_lying(10241), Outcome.MALFORMED),
    "declares one byte": (_lying(1), Outcome.MALFORMED),
    "declares the limit": (_lying(MAX_SECTION_BYTES), Outcome.MALFORMED),
    "declares more than the limit": (_lying(MAX_SECTION_BYTES + 1), Outcome.TOO_LARGE),
    "declares 4 GiB": (_lying(2**32 - 1), Outcome.TOO_LARGE),
    "is empty, with something in it": (_emptied(GOOD), Outcome.MALFORMED),
    "declares nothing": (_undeclared(GOOD), Outcome.MALFORMED),
    "declares nothing, too large": (_undeclared(bytes(MAX_SECTION_BYTES + 1)), Outcome.MALFORMED),
    "skippable frame": (SKIPPABLE, Outcome.MALFORMED),
    "skippable frame first": (SKIPPABLE + _zstd(GOOD), Outcome.MALFORMED),
    "skippable frame behind": (_zstd(GOOD) + SKIPPABLE, Outcome.MALFORMED),
    "empty frame behind": (_zstd(GOOD) + _zstd(b""), Outcome.MALFORMED),
}


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_is_not_one_honest_frame_is_refused(name: str) -> None:
    frame, outcome = FRAMES[name]
    with pytest.raises(SectionError) as error:
        inflate(frame)

    assert error.value.outcome == outcome


def test_a_frame_cut_at_any_byte_is_malformed() -> None:
    frame = _zstd(GOOD)
    outcomes = set()
    for n in range(len(frame)):
        with pytest.raises(SectionError) as error:
            inflate(frame[:n])
        outcomes.add(error.value.outcome)

    assert outcomes == {Outcome.MALFORMED}


# -- between which times its packets lie ------------------------------------------------------------------------------


def stamped(times: list[int], start_ns: int, end_ns: int) -> bytes:
    view = memoryview(bytearray(4096))
    writer = pcapng.Section.open(
        view, pcapng.section_header("x") + pcapng.interface_description("eth0", 1, 100, "", "")
    )
    for ts_ns in times:
        assert writer.add(ts_ns, b"packet", 6)
    return bytes(view[: writer.close(start_ns, end_ns, 0, 0)])


def test_the_span_is_what_the_statistics_say_or_that_of_the_packets_where_they_say_nothing_that_can_be() -> None:
    late = 2**63 + 5

    assert span(stamped([50, 20, 30], 10, 60)) == Span(10, 60)
    assert span(stamped([50, 20, 30], 60, 10)) == Span(20, 50)
    assert span(stamped([late], late, late)) == span(stamped([late], 1, 0)) == Span(2**63 - 1, 2**63 - 1)
    assert span(GOOD) == Span(0, 1)  # without times in its statistics


def test_a_section_without_packets_has_no_span() -> None:
    other = struct.pack("<IIII", 0xBAD, 16, 0, 16)  # a block of a kind that holds no packet
    body = bytearray(stamped([], 1, 0))
    at = len(body) - pcapng.CLOSING_BYTES
    with_other = bytes(body[:at]) + other + bytes(body[at:])

    assert [span(stamped([], 10, 60)), span(with_other)] == [None, None]


def test_a_section_that_must_be_walked_and_cannot_be_is_malformed() -> None:
    body = bytearray(stamped([50], 1, 0))
    struct.pack_into("<I", body, len(body) - pcapng.CLOSING_BYTES - 4, 0)  # the packet's second length

    with pytest.raises(SectionError, match="differ") as refused:
        span(body)

    assert refused.value.outcome is Outcome.MALFORMED


def test_an_option_longer_than_its_block_is_malformed_in_each_block_that_has_some() -> None:
    body = stamped([50], 10, 60)
    idb = struct.unpack_from("<I", body, 4)[0]
    isb = len(body) - struct.unpack_from("<I", body, len(body) - 4)[0]
    options = {"SHB": 24, "IDB": idb + 16, "ISB": isb + 20}  # behind the fixed parts
    damaged = {block: bytearray(body) for block in options}
    for block, at in options.items():
        struct.pack_into("<H", damaged[block], at + 2, 0xFFFF)

    assert refused(body) is None
    assert {block: refused(bytes(one)) for block, one in damaged.items()} == dict.fromkeys(options, Outcome.MALFORMED)
