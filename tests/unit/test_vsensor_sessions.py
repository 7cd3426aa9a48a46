"""Sessions of the page: how long they are good for, what shows one, and what another site cannot do with it."""

from __future__ import annotations

import pytest

from ossensor.vsensor.sessions import (
    COOKIE,
    IDLE_S,
    LONGEST_S,
    SESSIONS_MAX,
    Sessions,
    forget_cookie,
    set_cookie,
)

T = 1_000_000.0


def opened(sessions: Sessions, now_s: float = T) -> str:
    return sessions.open("token-id", now_s, may_order=True)[0]


def cookie(name: str) -> list[str]:
    return [f"{COOKIE}={name}"]


def test_a_session_is_found_by_its_cookie_and_may_what_its_token_may() -> None:
    sessions = Sessions()
    name, session = sessions.open("token-id", T, may_order=False)

    assert sessions.find(cookie(name), T) is session
    assert (session.token, session.may_order) == ("token-id", False)
    assert len({name, session.csrf, *sessions.open("token-id", T, may_order=True)[:1]}) == 3


def test_a_session_ends_when_its_person_was_idle_for_so_long_whatever_its_page_fetches() -> None:
    sessions = Sessions()
    name = opened(sessions)

    assert sessions.find(cookie(name), T + IDLE_S - 1) is not None  # looking on keeps it no longer
    assert sessions.find(cookie(name), T + IDLE_S) is None
    assert sessions.find(cookie(name), T) is None  # and it does not come back with the clock


def test_who_does_something_stays_until_the_longest_time_and_not_longer() -> None:
    sessions = Sessions()
    name = opened(sessions)
    now_s = T
    while now_s + IDLE_S / 2 < T + LONGEST_S:
        now_s += IDLE_S / 2
        assert sessions.find(cookie(name), now_s, active=True) is not None

    assert sessions.find(cookie(name), T + LONGEST_S - 1, active=True) is not None
    assert sessions.find(cookie(name), T + LONGEST_S) is None


def test_a_closed_session_is_no_session_and_another_stays() -> None:
    sessions = Sessions()
    one, other = opened(sessions), opened(sessions)

    sessions.close(cookie(one))
    sessions.close(cookie(one))

    assert sessions.find(cookie(one), T) is None
    assert sessions.find(cookie(other), T) is not None


def test_of_too_many_the_least_active_goes() -> None:
    sessions = Sessions()
    names = [opened(sessions) for _ in range(SESSIONS_MAX)]
    sessions.find(cookie(names[0]), T + 1, active=True)

    names.append(opened(sessions))

    found = [sessions.find(cookie(name), T + 1) is not None for name in names]
    assert found == [True, False, *[True] * (SESSIONS_MAX - 1)]


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(lambda _: [], id="none"),
        pytest.param(lambda name: [f"ossensor={name}"], id="another name"),
        pytest.param(lambda name: [f"{COOKIE.upper()}={name}"], id="another spelling"),
        pytest.param(lambda name: [f"{COOKIE}={name[:-1]}"], id="cut"),
        pytest.param(lambda name: [f"{COOKIE}={name}x"], id="longer"),
        pytest.param(lambda name: [f"{COOKIE}={name[:-1]}\xe4"], id="not ASCII"),
        pytest.param(lambda name: [f"{COOKIE}={name}; {COOKIE}={name}"], id="twice"),
        pytest.param(lambda name: [f"{COOKIE}={name}", f"{COOKIE}={name}"], id="in two fields"),
        pytest.param(lambda _: [f"{COOKIE}={'A' * 43}"], id="invented"),
    ],
)
def test_what_does_not_show_one_session_shows_none(shown) -> None:  # noqa: ANN001 - a table of lambdas
    sessions = Sessions()

    assert sessions.find(shown(opened(sessions)), T) is None


def test_other_cookies_beside_it_do_not_matter() -> None:
    sessions = Sessions()
    name = opened(sessions)

    assert sessions.find([f"theme=dark; {COOKIE}={name}; a=b"], T) is not None


def test_only_the_session_s_own_csrf_token_shown_once_means_it() -> None:
    sessions = Sessions()
    _, session = sessions.open("token-id", T, may_order=True)
    _, other = sessions.open("token-id", T, may_order=True)

    shown = ([session.csrf], [], [""], [other.csrf], [session.csrf] * 2, ["\xe4"])
    assert [session.meant(values) for values in shown] == [True, False, False, False, False, False]


def test_the_cookie_has_what_its_prefix_demands_and_no_script_reads_it() -> None:
    assert set_cookie("x") == "__Host-ossensor=x; Path=/; Secure; HttpOnly; SameSite=Strict"
    assert forget_cookie() == "__Host-ossensor=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"


def test_no_secret_of_a_session_is_in_its_repr() -> None:
    sessions = Sessions()
    name, session = sessions.open("token-id", T, may_order=True)

    assert session.csrf not in repr(session)
    assert name not in repr(vars(sessions))
