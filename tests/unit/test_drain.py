"""How long the uploader goes on after it was told to finish, by a clock of ours."""

from __future__ import annotations

from ossensor.workers.drain import Drain


def test_when_nothing_moves_it_leaves_after_two_and_a_half_seconds() -> None:
    drain = Drain(100.0)

    assert not drain.over(102.5, 0, can_rescue=False)
    assert drain.over(102.6, 0, can_rescue=False)


def test_what_moves_is_waited_for() -> None:
    drain = Drain(100.0)
    drain.moved(110.0)

    assert not drain.over(112.5, 0, can_rescue=False)
    assert drain.over(112.6, 0, can_rescue=False)


def test_a_slow_line_moves_by_sixty_four_kibibytes_and_not_by_a_handshake() -> None:
    drain = Drain(100.0)

    assert not drain.over(102.0, 64 << 10, can_rescue=False)
    assert not drain.over(104.5, (128 << 10) - 1, can_rescue=False)
    assert drain.over(104.6, (128 << 10) - 1, can_rescue=False)


def test_a_connection_that_was_replaced_begins_at_nothing_again() -> None:
    drain = Drain(100.0)
    drain.over(101.0, 1 << 20, can_rescue=False)
    drain.over(102.0, 0, can_rescue=False)

    assert not drain.over(103.0, 64 << 10, can_rescue=False)
    assert not drain.over(105.5, 64 << 10, can_rescue=False)


def test_where_there_is_a_disk_what_is_left_is_rescued_and_that_is_given_its_time() -> None:
    drain = Drain(100.0)

    assert (drain.over(102.6, 0, can_rescue=True), drain.rescuing) == (False, True)
    assert not drain.over(102.6 + 6.5, 0, can_rescue=True)
    assert drain.over(102.6 + 6.6, 0, can_rescue=True)
