"""The page's door: what is served to whom, how a browser is let in with a token, and what its session may."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_vsensor_kit import NOW_S, Running
from test_vsensor_operator import BLOCK, ONE, TOKEN, Operator, trail

from ossensor.antigena.token import Token
from ossensor.vsensor import attempts, pagefiles
from ossensor.vsensor.events import PERIOD_S
from ossensor.vsensor.operator import PATH
from ossensor.vsensor.sessions import IDLE_S, LONGEST_S

VIEWER = Token(b"viewer-token-of-forty-characters-0000000")
LOGIN, SESSION = "/page/login", "/page/session"


class Browsing(Operator):
    """A browser: it keeps its cookie, shows it, and its page knows the CSRF token."""

    def __init__(self, server: Running) -> None:
        super().__init__(server, authorization=None)
        self.cookie = self.csrf = ""

    def ask(self, method: str, path: str = PATH, given: object = None, **fields: Any) -> tuple[int, Any]:
        shown = {"Cookie": self.cookie, "X-CSRF-Token": self.csrf, **fields}
        status, said = super().ask(method, path, given, **{n: v for n, v in shown.items() if v})
        if "set-cookie" in self.fields:
            self.cookie = self.fields["set-cookie"].partition(";")[0]
        return status, said

    def log_in(self, token: Token = TOKEN, **fields: str) -> tuple[int, Any]:
        status, said = self.ask("POST", LOGIN, {"token": token.secret.decode()}, **fields)
        self.csrf = said["csrf"] if status == 200 else ""
        return status, said

    def order(self, **fields: str) -> tuple[int, Any]:
        return self.ask("POST", PATH, {"target": ONE, "duration_s": 60, "action": BLOCK}, **fields)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with Running(tmp_path / "store", operator_token=TOKEN, viewer_token=VIEWER) as running:
        yield running


@pytest.fixture
def browser(server: Running) -> Browsing:
    return Browsing(server)


# -- files ------------------------------------------------------------------------------------------------------------


def get(server: Running, path: str, **fields: str) -> tuple[int, bytes, dict[str, str]]:
    context = Operator(server).context
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=context, timeout=120)
    connection.request("GET", path, headers=fields)
    response = connection.getresponse()
    content = response.read()
    found = {name.lower(): value for name, value in response.getheaders()}
    connection.close()
    return response.status, content, found


def test_the_page_is_served_to_anybody_with_every_header_and_its_files_are_what_is_in_the_package(
    server: Running,
) -> None:
    for path, name in (("/", "index.html"), *((f"/page/{name}", name) for name in pagefiles.load())):
        status, content, fields = get(server, path)
        expected = {field.lower(): value for field, value in pagefiles.HEADERS.items()}

        assert (status, content) == (200, pagefiles.load()[name].content)
        assert {field: fields[field] for field in expected} == expected
        assert "strict-transport-security" not in fields


def test_a_file_that_the_browser_has_is_not_sent_again(server: Running) -> None:
    tag = get(server, "/page/app.js")[2]["etag"]

    assert get(server, "/page/app.js", **{"If-None-Match": tag})[:2] == (304, b"")
    assert get(server, "/page/app.js", **{"If-None-Match": '"another"'})[0] == 200


@pytest.mark.parametrize(
    "path", ["/page/", "/page", "/page/uplot.LICENSE", "/page/../command.py", "/page/..%2fcommand.py", "/index.html"]
)
def test_nothing_else_is_served(server: Running, path: str) -> None:
    assert get(server, path)[:2] == (404, b"")


def test_without_an_operator_s_token_there_is_no_page(tmp_path: Path) -> None:
    with Running(tmp_path / "store") as server:
        assert [get(server, path)[:2] for path in ("/", "/page/app.js", SESSION)] == [(404, b"")] * 3


# -- login ------------------------------------------------------------------------------------------------------------


def test_a_token_opens_a_session_which_looks_and_orders_and_the_trail_says_who(
    server: Running, browser: Browsing
) -> None:
    status, said = browser.log_in()
    flags = browser.fields["set-cookie"].partition(";")[2]

    assert (status, said["may_order"], said["ends_s"]) == (200, True, NOW_S + IDLE_S)
    assert flags == " Path=/; Secure; HttpOnly; SameSite=Strict"
    assert browser.ask("GET", SESSION) == (200, said)
    assert browser.fields["cache-control"] == "no-store"
    assert browser.ask("GET", "/v1/sensors")[0] == 200
    assert browser.order()[0] == 201
    assert browser.ask("DELETE", f"{PATH}/a")[0] == 200
    events = [(line["event"], line["token"], line["peer"]) for line in trail(server)]
    assert events == [(what, TOKEN.id, "127.0.0.1") for what in ("login", "order", "clear")]


def test_who_is_not_logged_in_asks_for_the_session_as_often_as_he_likes_and_is_no_suspect(
    server: Running, browser: Browsing
) -> None:
    assert {browser.ask("GET", SESSION) for _ in range(attempts.BURST * 2)} == {(200, None)}
    assert browser.log_in()[0] == 200
    assert [line["event"] for line in trail(server)] == ["login"]


def test_wrong_tokens_are_refused_counted_with_the_others_and_then_barred(server: Running, browser: Browsing) -> None:
    wrong = Token(b"x" * 40)

    assert [browser.log_in(wrong)[0] for _ in range(attempts.BURST + 1)] == [401] * attempts.BURST + [429]
    assert browser.cookie == ""
    assert browser.log_in() == (429, None)
    assert int(browser.fields["retry-after"]) > 0
    assert Operator(server).ask("GET")[0] == 429
    line = trail(server)[0]
    assert line == {"event": "unauthorised", "peer": "127.0.0.1", "request": f"POST {LOGIN}", "left_out": 0}


def test_a_session_works_on_when_its_address_is_barred_for_wrong_tokens(browser: Browsing, server: Running) -> None:
    browser.log_in()
    other = Browsing(server)
    for _ in range(attempts.BURST + 1):
        other.log_in(Token(b"x" * 40))

    assert [browser.ask("GET")[0], other.log_in()[0]] == [200, 429]


@pytest.mark.parametrize("origin", ["cross-site", "same-site", "none"])
def test_another_site_logs_nobody_in(browser: Browsing, origin: str) -> None:
    assert browser.log_in(**{"Sec-Fetch-Site": origin})[0] == 403
    assert browser.log_in(**{"Sec-Fetch-Site": "same-origin"})[0] == 200


@pytest.mark.parametrize(
    "body,status",
    [
        (b"", 422),
        (b"no JSON", 422),
        (b'{"token": 1}', 422),
        (b'{"token": "\\u00e4"}', 422),
        (b'{"token": "a", "token": "b"}', 422),
        (b'{"token": "a", "more": 1}', 422),
        (b'{"token": "' + b"x" * 2048 + b'"}', 413),
    ],
)
def test_what_is_no_login_is_refused_and_what_was_given_is_not_shown(
    browser: Browsing, body: bytes, status: int
) -> None:
    refused, said = browser.ask("POST", LOGIN, raw=body)

    assert refused == status
    assert said is None or "x" * 10 not in json.dumps(said)


def test_a_login_of_another_type_or_of_unknown_length_is_refused(browser: Browsing) -> None:
    content = json.dumps({"token": TOKEN.secret.decode()}).encode()

    assert browser.ask("POST", LOGIN, raw=content, **{"Content-Type": "text/plain"})[0] == 415
    assert browser.ask("POST", LOGIN, raw=content, **{"Transfer-Encoding": "chunked"})[0] == 411


def test_logging_in_again_ends_the_session_before(browser: Browsing) -> None:
    browser.log_in()
    before = browser.cookie
    browser.log_in()
    after, browser.cookie = browser.cookie, before

    assert browser.ask("GET", SESSION) == (200, None)
    browser.cookie = after
    assert browser.ask("GET", SESSION)[1]["may_order"] is True


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_change_without_the_session_s_csrf_token_is_refused_and_nothing_happens(browser: Browsing) -> None:
    browser.log_in()

    for wrong in ("", "x" * 43):
        browser.csrf, right = wrong, browser.csrf
        assert browser.order()[0] == 403
        assert browser.ask("DELETE", SESSION)[0] == 403
        browser.csrf = right
    assert browser.ask("GET")[1]["orders"] == []
    assert browser.order()[0] == 201


def test_a_session_of_the_viewer_s_token_looks_and_orders_nothing(browser: Browsing) -> None:
    assert browser.log_in(VIEWER)[1]["may_order"] is False
    assert [browser.ask("GET", path)[0] for path in ("/v1/sensors", PATH)] == [200, 200]
    assert browser.order() == (403, {"faults": ["this session may only look"]})


def test_a_session_ends_when_nothing_is_done_though_its_page_goes_on_fetching(
    server: Running, browser: Browsing
) -> None:
    browser.log_in()
    server.clock.now_s = NOW_S + IDLE_S - 1
    assert browser.ask("GET")[0] == 200
    server.clock.now_s = NOW_S + IDLE_S

    assert [browser.ask("GET")[0] for _ in range(attempts.BURST * 2)] == [401] * attempts.BURST * 2
    assert browser.ask("GET", SESSION) == (200, None)
    assert browser.log_in()[0] == 200  # a session that ended is no wrong token


def test_who_does_something_stays_to_the_longest_time(server: Running, browser: Browsing) -> None:
    browser.log_in()
    for step in range(1, int(LONGEST_S / IDLE_S * 2)):
        server.clock.now_s = NOW_S + step * IDLE_S / 2
        assert browser.ask("POST", SESSION, {})[0] == 200
    server.clock.now_s = NOW_S + LONGEST_S

    assert browser.ask("POST", SESSION, {})[0] == 401


def test_who_logs_out_is_out(server: Running, browser: Browsing) -> None:
    browser.log_in()
    cookie = browser.cookie
    assert browser.ask("DELETE", SESSION) == (200, None)
    assert browser.fields["set-cookie"].endswith("Max-Age=0")
    browser.cookie = cookie

    assert [browser.ask("GET", SESSION), browser.ask("GET")] == [(200, None), (401, None)]
    assert [line["event"] for line in trail(server)] == ["login", "logout"]


def test_events_end_with_the_session(server: Running, browser: Browsing) -> None:
    browser.log_in()
    began_s = time.monotonic()
    connection = http.client.HTTPSConnection("127.0.0.1", server.port, context=browser.context, timeout=120)
    connection.request("GET", "/v1/events", headers={"Cookie": browser.cookie})
    response = connection.getresponse()
    assert response.readline() == b"event: snapshot\n"
    browser.ask("DELETE", SESSION)
    took_s = time.monotonic() - began_s

    rest = response.read()  # to the end, which comes
    assert rest.count(b"event: snapshot") <= 1 + took_s / PERIOD_S
    connection.close()


def test_a_token_beside_a_cookie_is_what_counts(browser: Browsing) -> None:
    browser.log_in(VIEWER)

    assert browser.order(Authorization=TOKEN.header)[0] == 201
