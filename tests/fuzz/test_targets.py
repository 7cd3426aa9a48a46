"""D3: each parser of bytes from outside, over its corpus and what is like it. No atheris: that is `make fuzz`.

`OSSENSOR_FUZZ_INPUTS=100000` is the long run; a failure names the seed and shows the input.
"""

from __future__ import annotations

import os
import random
import struct
import subprocess
import zlib
from pathlib import Path

import pytest
from catalogue import CORPORA, NAMES, load
from mutation import mutants

from ossensor import pcapng
from ossensor.vsensor.picking import picked
from ossensor.vsensor.section import Span

INPUTS = int(os.environ.get("OSSENSOR_FUZZ_INPUTS", "200"))
# Fixed, so that `make test` is the same each time: what is new is for fuzzers to find.
SEED = int(os.environ.get("OSSENSOR_SEED", "1"))
MOST_CORPUS_BYTES = 1 << 20


@pytest.mark.parametrize("name", NAMES)
def test_d3_whatever_it_is_given_a_parser_raises_its_declared_error_alone_and_a_second_one_agrees(name: str) -> None:
    target = load(name)
    corpus = target.corpus
    rng = random.Random(SEED ^ zlib.crc32(name.encode()))
    taken = [target.run(data) for data in corpus]
    inputs = 0
    for data in mutants(rng, corpus, INPUTS):
        inputs += 1
        try:
            taken.append(target.run(data))
        except Exception as e:
            e.add_note(f"{name}, seed {SEED}, input {inputs}: {data!r}")
            raise
    print(f"{name}: seed {SEED}, {len(corpus)} of the corpus and {inputs} changed: {sum(taken)} taken")

    assert taken[: len(target.seeds)] == [True] * len(target.seeds)
    assert not all(taken)  # some were refused, so both ways were gone


def test_d2_whatever_a_worker_writes_into_its_slots_stops_nobody_and_touches_no_other_interface() -> None:
    """As random as it gets, where the mutants above are near to what is right."""
    rng = random.Random(SEED)
    slots = load("slots")
    (bytes_,) = {len(data) // 8 * 8 for data in slots.seeds[1:]}
    sent = 0
    for _ in range(INPUTS):
        words = [_word(rng) for _ in range(bytes_ // 8)]
        sent += slots.run(
            struct.pack(f"<{len(words)}Q", *words) + rng.randbytes(rng.choice((0, 16, 16, rng.randrange(64))))
        )
    print(f"seed {SEED}, {INPUTS} memories, of {sent} something could be sent")

    assert 0 < sent < INPUTS


def _word(rng: random.Random) -> int:
    return rng.choice((0, 1, 2, 3, rng.randrange(512), 24, 512, 1 << 22, rng.randrange(2**64), 2**63, 2**64 - 1))


def test_wireshark_reads_a_file_of_all_sections_that_are_taken_to_its_end(tmp_path: Path) -> None:
    """Where their packets are as a sensor writes them, and no option has a length that its code cannot have."""
    target = load("section")
    shapes = [_maybe_shape(data) for data in target.seeds]
    changed = mutants(random.Random(SEED), target.corpus, 10 * INPUTS)
    sections = [data for data in (*target.seeds, *changed) if target.run(data) and _maybe_shape(data) in shapes]
    packets = sum(kind == pcapng.EPB for data in sections for kind, _ in pcapng.blocks(data))
    file = tmp_path / "sections.pcapng"
    file.write_bytes(b"".join(sections))
    done = subprocess.run(["capinfos", "-crMT", file], capture_output=True, text=True, check=False)
    print(f"{len(sections)} sections, {len(set(sections))} of them different, with {packets} packets")

    assert (done.returncode, done.stdout.split("\t")[1:]) == (0, [f"{packets}\n"]), done.stderr


def _maybe_shape(section: bytes) -> list[tuple[int, list[tuple[int, int]]]] | None:
    """Its blocks, with codes and lengths of their options; None when its packets cannot be extracted."""
    options_at = {pcapng.SHB: 16, pcapng.IDB: 8, pcapng.ISB: 12}
    shape = []
    try:
        list(picked(section, Span(0, 2**64), None))
        for kind, body in pcapng.blocks(section):
            at = options_at.get(kind, 20 + (int.from_bytes(body[12:16], "little") + 3 & ~3))
            shape.append((kind, [(code, len(value)) for code, value in pcapng.options(body, at)]))
    except pcapng.FormatError:
        return None
    return shape


def test_the_corpora_are_small_and_each_is_a_targets() -> None:
    files = [path for path in CORPORA.rglob("*") if path.is_file()]

    assert sum(path.stat().st_size for path in files) < MOST_CORPUS_BYTES
    assert {path.parent.name for path in files} <= set(NAMES)
