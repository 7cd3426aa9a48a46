"""When a batch is compressed: what the last sample gained decides, and one in sixteen is a new sample."""

from __future__ import annotations

import os

import pytest
import zstandard

from ossensor.transport.compression import Advice, Policy, compressor


def test_the_first_batch_is_a_sample() -> None:
    assert Advice().worth_trying(1 << 20)


@pytest.mark.parametrize("section_bytes,expected", [(0, False), (511, False), (512, True)])
def test_a_small_batch_is_never_worth_it(section_bytes: int, *, expected: bool) -> None:
    assert Advice().worth_trying(section_bytes) is expected


@pytest.mark.parametrize(
    "compressed_bytes,tried",
    [
        pytest.param(500, 32, id="half the size"),
        pytest.param(1000 * 100 // 120, 32, id="just what pays"),
        pytest.param(900, 2, id="a tenth less, as encrypted traffic"),
        pytest.param(1004, 2, id="larger than before"),
    ],
)
def test_after_a_sample_every_batch_is_tried_or_one_in_sixteen(compressed_bytes: int, tried: int) -> None:
    advice = Advice()
    advice.learn(1000, compressed_bytes)

    assert [advice.worth_trying(1000) for _ in range(32)].count(True) == tried


def test_the_sixteenth_batch_is_the_one_that_is_tried_again() -> None:
    advice = Advice()
    advice.learn(1000, 1000)

    assert [n for n in range(1, 40) if advice.worth_trying(1000)] == [16, 32]


def test_small_batches_do_not_use_up_the_samples() -> None:
    advice = Advice()
    advice.learn(1000, 1000)
    for _ in range(100):
        advice.worth_trying(100)

    assert [n for n in range(1, 20) if advice.worth_trying(1000)] == [16]


def test_a_good_sample_brings_compression_back() -> None:
    advice = Advice()
    advice.learn(1000, 1000)
    advice.learn(1000, 700)

    assert [advice.worth_trying(1000) for _ in range(20)] == [True] * 20


def test_nothing_compressed_to_nothing_is_no_division_by_zero() -> None:
    advice = Advice()
    advice.learn(1000, 0)

    assert advice.worth_trying(1000)


def test_a_compressor_takes_a_memoryview_and_writes_the_size_that_a_receiver_checks_first() -> None:
    section = os.urandom(100) * 50
    compressed = compressor().compress(memoryview(section))

    assert zstandard.get_frame_parameters(compressed).content_size == len(section)
    assert zstandard.ZstdDecompressor().decompress(compressed) == section


def test_off_tries_nothing_and_a_level_tries_everything_but_what_is_small() -> None:
    off, nine = Advice(Policy.parse("off")), Advice(Policy.parse("9"))
    nine.learn(1000, 1004)

    assert [off.worth_trying(1 << 20) for _ in range(32)] == [False] * 32
    assert [nine.worth_trying(size) for size in (511, 512, 1 << 20)] == [False, True, True]


@pytest.mark.parametrize(
    "level, most_mib", [("auto", 1.4), ("1", 1.4), ("6", 6), ("11", 25), ("12", 70), ("15", 70), ("19", 70)]
)
def test_a_compressor_takes_no_more_memory_than_the_page_says(level: str, most_mib: float) -> None:
    made = compressor(Policy.parse(level))
    made.compress(os.urandom(1 << 20) * 4)  # the largest slot

    assert made.memory_size() <= most_mib * (1 << 20)
    made.compress(b"x" * 100)
    assert made.memory_size() <= most_mib * (1 << 20)


def test_a_higher_level_compresses_more() -> None:
    text = b"".join(b"%d squared is %d; " % (n, n * n) for n in range(20_000))
    sizes = [len(compressor(Policy.parse(level)).compress(text)) for level in ("1", "19")]

    assert sizes[0] > sizes[1]
