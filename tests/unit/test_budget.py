"""OSSENSOR_MEMORY_MB among interfaces: equal shares, a floor, and never more than there is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ossensor.budget import FLOOR_MB, Budget, Share

MB = 1 << 20


def budget(total_mb: int = 256) -> Budget:
    return Budget(total_mb, ring_mb=16, buffer_mb=32)


def shares_mb(granted: dict[object, Share]) -> list[int]:
    return [share.mb for share in granted.values()]


@pytest.mark.parametrize(
    "interfaces,expected_mb",
    [(1, [48]), (5, [48] * 5), (6, [42, 42, 43, 43, 43, 43]), (10, [25, 25, 25, 25, 26, 26, 26, 26, 26, 26])],
)
def test_newcomers_of_one_moment_share_everything_equally(interfaces: int, expected_mb: list[int]) -> None:
    assert shares_mb(budget().grant(range(interfaces))) == expected_mb


def test_one_interface_gets_ring_and_buffer_as_they_were_asked_for() -> None:
    assert budget().grant(["eth0"]) == {"eth0": Share(16 * MB, 32 * MB)}


@pytest.mark.parametrize(
    "buffer_mb,slots",
    [(2, 2), (4, 4), (8, 8), (15, 15), (16, 8), (17, 8), (24, 8), (32, 8), (256, 64)],
)
def test_a_batch_may_grow_to_an_eighth_of_the_buffer_between_1_and_4_mib(buffer_mb: int, slots: int) -> None:
    assert Share(MB, buffer_mb * MB).slots == slots


def test_85_floors_fit_and_the_86th_interface_gets_nothing() -> None:
    b = budget()

    granted = b.grant(range(86))

    assert shares_mb(granted) == [3] * 84 + [4]
    assert list(granted) == list(range(85))
    assert b.left_mb == 0


def test_the_floor_is_one_mib_of_ring_and_two_of_slots() -> None:
    assert budget(FLOOR_MB).grant(["eth0"]) == {"eth0": Share(1 * MB, 2 * MB)}


@pytest.mark.parametrize("total_mb,ring_mb,buffer_mb", [(47, 15, 32), (25, 8, 17), (24, 8, 16), (10, 3, 7), (4, 1, 3)])
def test_a_smaller_share_is_split_as_the_whole_one_would_be(total_mb: int, ring_mb: int, buffer_mb: int) -> None:
    assert budget(total_mb).grant(["eth0"]) == {"eth0": Share(ring_mb * MB, buffer_mb * MB)}


def test_one_who_comes_later_gets_at_most_half_of_what_is_left_but_never_less_than_the_floor() -> None:
    b = budget(64)

    sizes = [share.mb for name in "abcdef" for share in b.grant([name]).values()]

    assert sizes == [48, 8, 4, 3]
    assert b.left_mb == 1


def test_what_was_given_back_is_given_again() -> None:
    b = budget(48)
    b.grant(["a"])
    assert b.grant(["b"]) == {}

    b.give_back("a")

    assert shares_mb(b.grant(["b"])) == [48]


def test_the_refusal_names_the_variable_and_what_would_be_needed() -> None:
    b = budget(8)
    b.grant(["a", "b", "c"])

    assert b.refusal() == (
        "not captured, no memory is left: OSSENSOR_MEMORY_MB=8 is given out to 2 interfaces,"
        " and each needs 3 MiB at least"
    )


@given(
    st.integers(FLOOR_MB, 2000),
    st.integers(1, 64),
    st.integers(4, 64),
    st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=30),
)
def test_never_more_than_the_total_and_never_less_than_the_floor(
    total_mb: int, ring_mb: int, buffer_mb: int, steps: list[tuple[int, bool]]
) -> None:
    b = Budget(total_mb, ring_mb, buffer_mb)
    held: dict[object, Share] = {}
    key = 0
    for newcomers, leave in steps:
        left_mb = b.left_mb
        granted = b.grant(range(key, key + newcomers))
        key += newcomers
        held |= granted

        assert len(granted) == min(newcomers, left_mb // FLOOR_MB)
        assert all(FLOOR_MB <= s.mb <= ring_mb + buffer_mb for s in granted.values())
        assert all(s.ring_bytes >= MB and s.buffer_bytes >= 2 * MB for s in granted.values())
        assert max(shares_mb(granted), default=0) - min(shares_mb(granted), default=0) <= 1
        if leave and held:
            gone = next(iter(held))
            del held[gone]
            b.give_back(gone)
        assert b.left_mb == total_mb - sum(s.mb for s in held.values()) >= 0


def test_descriptors_that_are_short_leave_some_interfaces_out_and_the_rest_whole() -> None:
    b = Budget(256, ring_mb=16, buffer_mb=32, descriptors=64)

    granted = b.grant(["eth0", "eth1", "eth2"])

    assert list(granted) == ["eth0", "eth1"]
    assert "RLIMIT_NOFILE" in b.refusal()
    b.give_back("eth0")
    assert list(b.grant(["eth2", "eth3"])) == ["eth2"]


def test_what_a_predecessor_gave_out_is_given_out() -> None:
    b = budget()
    b.inherited("eth0", Share(16 * MB, 32 * MB))

    assert b.left_mb == 256 - 48
    b.give_back("eth0")
    assert b.left_mb == 256
