"""The table of faults stays true of the code. `make mutations` injects them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mutations import MUTATIONS, TESTS

ROOT = Path(__file__).parents[2]


def test_what_a_fault_replaces_stands_exactly_once_in_its_file() -> None:
    texts = {m.file: (ROOT / m.file).read_text() for m in MUTATIONS}

    assert [m for m in MUTATIONS if texts[m.file].count(m.old) != 1] == []


def test_no_fault_is_there_twice() -> None:
    assert len({(m.file, m.old, m.new) for m in MUTATIONS}) == len({m.fault for m in MUTATIONS}) == len(MUTATIONS)


def test_there_are_five_faults_and_a_test_for_each_subject_and_thirty_in_all() -> None:
    found = Counter(m.subject for m in MUTATIONS)

    assert set(found) == set(TESTS)
    assert min(found.values()) >= 5
    assert found.total() >= 30
    assert [test for tests in TESTS.values() for test in tests if not (ROOT / test).is_file()] == []
