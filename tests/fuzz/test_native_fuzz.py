"""A million hostile blocks through the native loop, compiled with AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path

import pytest

import ossensor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

NATIVE = Path(ossensor.__file__).parent / "capture" / "native"
BLOCKS = 1_000_000
# Seeds that once found something, and then a new one each time.
SEEDS = (1,)


def test_a_million_hostile_blocks_read_and_write_nothing_outside_and_come_to_an_end(tmp_path: Path) -> None:
    program = tmp_path / "blocks_fuzz"
    sources = [Path(__file__).with_name("blocks_fuzz.c"), NATIVE / "blocks.c", NATIVE / "checksum.c"]
    # At a fixed address: the heap of gcc 12's AddressSanitizer is at one, and where the kernel draws the program's from
    # 32 bits (vm.mmap_rnd_bits), one start in some ends with both at the same place.
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-pie", "-no-pie"]
    warnings = ["-Wall", "-Wextra", "-Werror"]
    compiler = ["gcc", "-std=c11", "-O1", "-g", *warnings, *sanitizers, "-I", NATIVE, *sources, "-o", program]
    subprocess.run(compiler, check=True)

    counts = [0, 0, 0]
    seeds = (*SEEDS, random.randrange(1 << 32))
    for seed in seeds:
        print("seed", seed)
        done = subprocess.run(
            [program, str(seed), str(BLOCKS // len(seeds))], capture_output=True, text=True, timeout=250, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")
        found = re.fullmatch(r"copied (\d+) full (\d+) damaged (\d+)\n", done.stdout)
        assert found is not None
        counts = [a + int(b) for a, b in zip(counts, found.groups(), strict=True)]

    print("copied, full, damaged:", counts)
    assert sum(counts) == BLOCKS
    assert min(counts) > BLOCKS // 50  # each verdict was really met
