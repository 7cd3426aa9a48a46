"""What of the settings is the same for each port."""

from __future__ import annotations

import pytest

from ossensor.recipe import Recipe


@pytest.mark.parametrize("batch_ms,timeout_ms", [(1, 1), (3, 1), (50, 25), (199, 99), (200, 100), (60_000, 100)])
def test_the_kernel_keeps_a_block_for_half_a_batchs_age_and_a_tenth_of_a_second_at_most(
    batch_ms: int, timeout_ms: int
) -> None:
    assert Recipe("ring", batch_ms, 65_535, complete_checksums=True, application="x").block_timeout_ms == timeout_ms
