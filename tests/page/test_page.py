"""The page in Chromium, beside a real vSensor: what a person sees of its sensors, and what they order ended."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest
from browser import Page
from scene import TOKEN, VIEWER, Actor, Site, log_in

from ossensor.antigena.token import Token

pytestmark = pytest.mark.slow

TASK = {"arn": "arn:aws:ecs:eu-west-1:111122223333:task/shop/0f9c", "cluster": "shop", "family": "web", "revision": "7"}


@pytest.fixture
def actor(site: Site, request: pytest.FixtureRequest) -> Iterator[Actor]:
    """A sensor that bears the test's name."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_")).strip("-")[:40].strip("-")
    with closing(site.actor(name, task=TASK)) as made:
        yield made


def row(name: str) -> str:
    return f"#sensor-{name}"


def cell(page: Page, actor: Actor, label: str) -> str:
    return page.text(f"{row(actor.name)} [data-label='{label}']").strip()


def fill_order(page: Page, **fields: str) -> None:
    page.click("#new-order")
    page.wait("document.querySelector('#order-dialog').open")
    for name, text in fields.items():
        page.write(f"#order-form [name={name}]", text)


# -- login ------------------------------------------------------------------------------------------------------------


def test_a_wrong_token_is_refused_in_words_and_nothing_is_shown(page: Page) -> None:
    page.wait("!document.querySelector('#login').hidden")
    page.write("#token", Token(b"w" * 40).secret.decode())
    page.click("#login-form button")

    page.wait("document.querySelector('#login-fault').innerText")
    assert page.text("#login-fault") == "This is not the operator's token."
    assert page.run("document.querySelector('#live').hidden") is True
    assert [line for line in page.complaints() if "401" not in line] == []


def test_the_vsensor_says_where_its_page_is(site: Site) -> None:
    assert site.process.wait_for("listening")["page"] == site.url


def test_the_cookie_is_for_no_script_and_no_other_site(live: Page, site: Site) -> None:
    (cookie,) = live.call("Network.getCookies", urls=[site.url])["cookies"]
    kept = {name: cookie[name] for name in ("name", "path", "secure", "httpOnly", "sameSite", "session")}

    assert kept == {
        "name": "__Host-ossensor", "path": "/", "secure": True, "httpOnly": True, "sameSite": "Strict", "session": True,
    }  # fmt: skip
    assert live.run("document.cookie") == ""
    stored = live.run("JSON.stringify([Object.keys(localStorage), Object.keys(sessionStorage)])")
    assert stored == "[[],[]]"


def test_who_comes_back_is_still_logged_in_and_who_logs_out_is_not(live: Page, site: Site) -> None:
    live.go(site.url)
    live.wait("!document.querySelector('#live').hidden")
    live.click("#logout")
    live.wait("!document.querySelector('#login').hidden")
    live.go(site.url)
    live.wait("!document.querySelector('#login').hidden")

    assert live.text("#sensor-rows") == ""


def test_the_viewer_s_token_shows_sensors_and_offers_no_orders(page: Page, actor: Actor) -> None:
    actor.introduce()
    log_in(page, VIEWER)
    page.wait(f"document.querySelector('{row(actor.name)}')")

    assert page.run("document.querySelector('#new-order').hidden") is True


def test_a_tab_orders_and_logs_out_also_after_another_has_logged_in(site: Site, page: Page) -> None:
    with site.browser.page(site.url, beside=page) as other:
        page.show()
        log_in(page)
        other.show()
        log_in(other)  # which ends the session of the first
        page.show()
        fill_order(page, source="10.0.0.98")
        page.click("#order-form .primary")
        page.click("#confirm-yes")
        page.wait("document.querySelector('#order-rows tr') || document.querySelector('#order-faults li')")

        assert page.text("#order-faults") == ""
        page.click("#order-rows .actions button:last-child")
        page.click("#confirm-yes")
        page.wait("!document.querySelector('#order-rows tr')")
        page.click("#logout")
        page.wait("!document.querySelector('#login').hidden")
    assert [line for line in page.complaints() if "403" not in line] == []


def test_tabs_that_nobody_sees_keep_no_connection_from_the_one_that_is_seen(site: Site, live: Page) -> None:
    """Browsers have six for one host, and an event stream keeps one."""
    with ExitStack() as tabs:
        for _ in range(7):
            tab = tabs.enter_context(site.browser.page(site.url, beside=live))
            tab.wait("document.querySelector('#link').dataset.state === 'live'")
        fetched = "fetch('/page/session').then(reply => reply.status)"
        assert tab.run(fetched) == 200
        live.show()
        live.run(
            "window.heard = 0; new MutationObserver(() => { heard += 1; })"
            ".observe(document.querySelector('#plot-all'), {attributes: true})"
        )
        live.wait("heard > 1")
        assert live.run(fetched) == 200


# -- sensors ----------------------------------------------------------------------------------------------------------


def test_a_sensor_appears_with_who_it_is(live: Page, actor: Actor) -> None:
    assert live.run(f"document.querySelector('{row(actor.name)}')") is None
    actor.introduce()
    live.wait(f"document.querySelector('{row(actor.name)}')")

    assert live.text(f"{row(actor.name)} th").split("\n") == [actor.name, f"ip-{actor.name}, task web"]
    assert cell(live, actor, "State") == "● live"
    assert cell(live, actor, "Interfaces") == "eth0"
    live.click(f"{row(actor.name)} button")
    details = live.text(f"{row(actor.name)}-details dl").split("\n")
    assert {*TASK.values(), "ossensor/0.1.0", f"ip-{actor.name}"} <= set(details)


def test_rates_move_and_go_back_to_nothing_and_packets_are_counted_exactly(live: Page, actor: Actor) -> None:
    actor.introduce()
    moved = (
        f"!['0', ''].includes(document.querySelector(\"{row(actor.name)} [data-label='Packets/s']\")?.innerText ?? '')"
    )
    batches = 0
    while not live.run(moved):
        actor.send(7)
        batches += 1
    live.click(f"{row(actor.name)} button")
    live.wait(f"document.querySelectorAll('{row(actor.name)}-details canvas').length === 1")
    plotted = f"document.querySelector('{row(actor.name)}-details [role=img]').getAttribute('aria-label')"

    live.wait(f"document.querySelector('{row(actor.name)}-details tbody td').innerText === '{batches * 7:,}'")
    assert cell(live, actor, "Delay").endswith(" s")
    assert cell(live, actor, "Books") == "✓ no gap"
    assert live.run(plotted).startswith("Packets a second: now ")
    live.wait(f"document.querySelector(\"{row(actor.name)} [data-label='Packets/s']\").innerText === '0'")
    live.wait(f"{plotted}.startsWith('Packets a second: now 0, at most ')")
    assert "at most 0." not in live.run(plotted)


def test_drops_show_with_their_reason_and_so_do_books_that_contradict_themselves(live: Page, actor: Actor) -> None:
    actor.introduce()
    actor.send(5, dropped=1234)
    live.wait(f"document.querySelector(\"{row(actor.name)} [data-label='Dropped']\")?.innerText.includes('1,234')")
    live.click(f"{row(actor.name)} button")

    assert live.text(f"{row(actor.name)}-details tbody li") == "kernel drops: 1,234"
    assert cell(live, actor, "Dropped") == "! 1,234"
    actor.send(5, missing=3)
    live.wait(
        f"document.querySelector(\"{row(actor.name)} [data-label='Books']\").innerText.includes('✗ not balanced')"
    )


def test_the_filter_leaves_those_that_it_names_by_name_host_or_task(live: Page, actor: Actor, site: Site) -> None:
    with closing(site.actor("another-one", host="elsewhere")) as other:
        for one in (actor, other):
            one.introduce()
            live.wait(f"document.querySelector('{row(one.name)}')")
    for sought, expected in (("elsewhere", [True, False]), ("shop", [False, True]), ("", [False, False])):
        live.write("#filter", sought)
        if not sought:
            live.run("document.querySelector('#filter').value = ''; undefined")
            live.run("document.querySelector('#filter').dispatchEvent(new Event('input')); undefined")
        hidden = [live.run(f"document.querySelector('{row(n)}').hidden") for n in (actor.name, "another-one")]
        assert hidden == expected


def test_a_name_that_looks_like_markup_is_shown_as_it_is(live: Page, site: Site) -> None:
    with closing(site.actor("marked-up", host="<img src=x onerror=alert(1)>")) as actor:
        actor.introduce()
        live.wait("document.querySelector('#sensor-marked-up')")

        assert live.text("#sensor-marked-up small") == "<img src=x onerror=alert(1)>"


def test_the_page_says_so_when_the_vsensor_is_gone_and_goes_on_when_it_is_back(site: Site, live: Page) -> None:
    """SIGKILL of the serving process; the next one knows no session."""
    before = site.process.all("serving")
    os.kill(before[-1]["pid"], signal.SIGKILL)
    live.wait("!document.querySelector('#login').hidden")

    assert live.text("#login-fault") == "The session has ended; log in again."
    log_in(live)
    site.process.wait_for("serving", len(before) + 1)  # for the tests that ask for its pid
    assert [c for c in live.complaints() if not any(w in c for w in ("401", "Failed to load", "ERR_"))] == []


def test_the_page_says_so_when_nothing_comes_though_the_connection_stands(site: Site, live: Page) -> None:
    """SIGSTOP: as with a line that is dead and that nobody has closed."""
    serving = site.process.all("serving")[-1]["pid"]
    os.kill(serving, signal.SIGSTOP)
    try:
        live.wait("document.querySelector('#link').dataset.state === 'lost'")
        assert live.text("#link") == "○ not connected; trying again"
    finally:
        os.kill(serving, signal.SIGCONT)
    live.wait("document.querySelector('#link').dataset.state === 'live'")


# -- Antigena ---------------------------------------------------------------------------------------------------------


def test_a_block_is_ordered_after_a_second_look_and_its_effect_shown_and_cleared(live: Page, actor: Actor) -> None:
    actor.introduce()
    live.wait(f"document.querySelector('{row(actor.name)}')")
    fill_order(live, source="10.0.3.7", destination="198.51.100.9", destination_port="443", reason="beacon")
    live.run(f"document.querySelector('[name=target]').value = JSON.stringify({{sensor: '{actor.name}'}}); undefined")
    live.click("#order-form .primary")
    live.wait("document.querySelector('#confirm').open")
    words = f"Block 10.0.3.7 ↔ 198.51.100.9:443, at {actor.name}, for 10 min. Connections that match are ended at once."
    assert live.text("#confirm-text") == words
    assert actor.report()["actions"] == []  # nothing yet
    live.click("#confirm-yes")
    live.wait("document.querySelector('#order-rows tr')")

    orders = actor.report()
    (action,) = orders["actions"]
    assert (action["source"]["network"], action["destination"]["port"], action["reason"]) == (
        "10.0.3.7/32",
        443,
        "beacon",
    )
    shown = f"[data-order='{action['id']}']"
    live.wait(f"document.querySelector(\"{shown} [data-label='Effect']\").innerText.includes('no sensor has answered')")
    actor.report(orders["book"], orders["version"], actions={action["id"]: {"matched": 3, "closed": 2}})
    live.wait(f"document.querySelector(\"{shown} [data-label='Effect']\").innerText.includes('matched')")
    assert live.text(f"{shown} [data-label='Effect']").strip() == f"{actor.name}: matched 3, closed 2"

    live.click(f"{shown} .actions button:first-child")
    live.wait("document.querySelector('#confirm').open")
    live.write("#confirm-amount", "2")
    live.run("document.querySelector('#confirm-unit').value = '3600'; undefined")
    live.click("#confirm-yes")
    live.wait(f"/^2 h (9|10) min$/.test(document.querySelector(\"{shown} [data-label='Ends in'] div\").innerText)")

    live.click(f"{shown} .actions button:last-child")
    live.wait("document.querySelector('#confirm').open")
    live.click("#confirm button[value=no]")
    assert len(actor.report()["actions"]) == 1
    live.click(f"{shown} .actions button:last-child")
    live.wait("document.querySelector('#confirm').open")
    live.click("#confirm-yes")
    live.wait("!document.querySelector('#order-rows tr')")
    assert actor.report()["actions"] == []


def test_a_quarantine_is_ordered_for_a_task_family(live: Page, actor: Actor) -> None:
    actor.introduce()
    live.wait(f"document.querySelector('{row(actor.name)}')")
    live.click("#new-order")
    live.click("[name=kind][value=quarantine]")
    live.write("#order-form [name=source]", "fd00::7")
    live.run("document.querySelector('[name=target]').value = JSON.stringify({family: 'web'}); undefined")
    live.run("document.querySelector('[name=direction]').value = 'outgoing'; undefined")
    live.click("#order-form .primary")
    live.wait("document.querySelector('#confirm').open")
    assert live.text("#confirm-text").startswith("Quarantine fd00::7, what it opens, at task family web, for 10 min.")
    live.click("#confirm-yes")
    live.wait("document.querySelector('#order-rows tr')")

    (action,) = actor.report()["actions"]
    assert (action["kind"], action["direction"], action["source"]["network"]) == (
        "quarantine",
        "outgoing",
        "fd00::7/128",
    )
    live.click("#order-rows .actions button:last-child")
    live.click("#confirm-yes")
    live.wait("!document.querySelector('#order-rows tr')")


def test_an_order_that_is_refused_says_every_fault_and_keeps_what_was_written(live: Page) -> None:
    fill_order(live, source="10.0.3.300", destination="nowhere")
    live.click("#order-form .primary")
    live.wait("document.querySelector('#confirm').open")
    live.click("#confirm-yes")
    live.wait("document.querySelector('#order-faults li')")

    faults = live.text("#order-faults")
    assert "10.0.3.300" in faults
    assert "nowhere" in faults
    assert live.run("document.querySelector('#order-form [name=source]').value") == "10.0.3.300"
    assert [line for line in live.complaints() if "422" not in line] == []


def test_an_order_that_is_half_written_is_gone_with_the_session(site: Site, live: Page) -> None:
    with site.browser.page(site.url, beside=live) as other:
        other.wait("!document.querySelector('#live').hidden")
        live.show()
        fill_order(live, source="10.0.3.3", reason="mine")
        live.click("#order-form .primary")
        live.wait("document.querySelector('#confirm').open")
        other.show()
        other.click("#logout")
        live.show()
        live.wait("!document.querySelector('#login').hidden")
        live.run("new Promise(done => setTimeout(done))")  # what the dialog's end brings with it
        dialogs = live.run("[...document.querySelectorAll('dialog')].map(one => one.open)")
        written = live.run("[...document.querySelectorAll('#order-form input[name]')].map(one => one.value)")

    assert dialogs == [False, False]
    assert [text for text in written if text in {"10.0.3.3", "mine"}] == []
    assert [line for line in live.complaints() if "401" not in line] == []


@pytest.mark.parametrize(
    "answer,said",
    [
        ("new Response('<html>Bad gateway', {status: 502})", "Status 502"),
        ("new Response(new ReadableStream({start(c) { c.error(); }}))", "The vSensor cannot be reached."),
    ],
    ids=["a balancer's", "half a reply"],
)
def test_an_answer_that_is_none_is_told_at_the_order(live: Page, answer: str, said: str) -> None:
    fill_order(live, source="10.0.3.3")
    live.run(f"(real => {{ fetch = async (p, o) => o.method === 'POST' ? {answer} : real(p, o); }})(fetch); undefined")
    live.click("#order-form .primary")
    live.click("#confirm-yes")
    live.wait("document.querySelector('#order-faults li')")

    assert live.text("#order-faults") == said


def test_what_the_form_can_see_to_be_wrong_is_not_asked_about(live: Page) -> None:
    fill_order(live, source="10.0.3.3", source_port="http", amount="0")
    live.click("#order-form .primary")
    live.wait("document.querySelectorAll('#order-faults li').length === 2")

    assert live.text("#order-faults").split("\n") == ["Port: http is no number", "For: a whole number above zero"]
    assert live.run("document.querySelector('#confirm').open") is False


# -- for everybody ----------------------------------------------------------------------------------------------------


def test_a_block_is_ordered_and_cleared_with_the_keyboard_alone(page: Page, actor: Actor) -> None:
    actor.introduce()
    page.wait("document.activeElement.id === 'token'")
    page.call("Input.insertText", text=TOKEN.secret.decode())
    page.key("Enter")
    page.wait(f"document.querySelector('{row(actor.name)}')")

    def tab_to(what: str) -> None:
        for _ in range(60):
            if page.focused() == what:
                return
            page.key("Tab")
        raise AssertionError(f"{what}: not reached by Tab")

    tab_to("new-order")
    page.key("Enter")
    page.wait("document.activeElement.name === 'source'")
    page.call("Input.insertText", text="10.0.0.99")
    page.key("Enter")
    page.wait("document.querySelector('#confirm').open")
    assert page.focused() == "Cancel"  # a stray Enter orders nothing
    page.key("Tab")
    page.key("Enter")
    page.wait("document.querySelector('#order-rows tr')")
    tab_to("Clear…")
    page.key("Enter")
    page.wait("document.querySelector('#confirm').open")
    page.key("Escape")
    page.wait("!document.querySelector('#confirm').open")
    assert page.focused() == "Clear…"
    page.key("Enter")
    page.key("Tab")
    page.key("Enter")
    page.wait("!document.querySelector('#order-rows tr')")


def test_where_the_focus_is_can_be_seen_everywhere(live: Page, actor: Actor) -> None:
    actor.introduce()
    live.wait(f"document.querySelector('{row(actor.name)}')")
    live.run("document.activeElement.blur()")
    seen = {}
    for _ in range(12):
        live.key("Tab")
        style = "(s => s.outlineStyle + ' ' + s.outlineWidth)(getComputedStyle(document.activeElement))"
        seen[live.focused()] = live.run(style)

    for name in ("BODY", "main"):  # where a skip link leads to, and no control
        seen.pop(name, None)
    assert set(seen.values()) == {"solid 3px"}
    assert {"logout", "filter", "new-order", actor.name} <= set(seen)


def test_a_screen_reader_is_given_names_headings_and_a_table(live: Page, actor: Actor) -> None:
    actor.introduce()
    live.wait(f"document.querySelector('{row(actor.name)}')")
    for width in (1200, 390):  # a phone's cards are the same table
        live.size(width, 800, phone=width < 400)
        live.wait(f"innerWidth === {width}")
        tree = live.tree()
        of = {role: [node["name"] for node in tree if node["role"] == role] for role in {n["role"] for n in tree}}

        assert [n for n in tree if n["focusable"] and not n["name"] and n["role"] not in {"RootWebArea", "main"}] == []
        assert of["heading"] == ["vSensor", "Now", "Sensors", "Antigena"]
        assert "Sensors" in of["table"]
        assert of["columnheader"][:9] == [
            "Sensor", "State", "Interfaces", "Packets/s", "Bit/s", "Dropped", "Delay", "Books", "Last seen",
        ]  # fmt: skip
        assert actor.name in " ".join(of["rowheader"])
        assert any(name.startswith("Packets a second: now") for name in of["image"])


def test_what_changes_is_said_politely_and_rates_are_not(live: Page, site: Site) -> None:
    with closing(site.actor("first-one")) as first, closing(site.actor("newcomer")) as newcomer:
        first.introduce()
        live.wait("document.querySelector('#sensor-first-one')")
        live.run(
            "window.all_said = []; (node => new MutationObserver(() => all_said.push(node.textContent))"
            ".observe(node, {childList: true, characterData: true, subtree: true}))(document.querySelector('#said'))"
        )
        newcomer.introduce()
        live.wait("all_said.some(text => text.includes('newcomer has appeared'))")
        newcomer.send(3)
        live.wait("document.querySelector(\"#sensor-newcomer [data-label='Packets/s']\").innerText !== '0'")

    said = {one for text in live.run("all_said") for one in text.split(". ")}
    # Sensors of earlier tests may go silent meanwhile, three minutes after their last word.
    assert {one for one in said if not one.endswith(" has gone silent")} == {"newcomer has appeared"}
    assert live.run("document.querySelector('#said').getAttribute('aria-live')") == "polite"


@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_nothing_runs_out_of_the_page_at_any_width(live: Page, actor: Actor, width: int) -> None:
    """WCAG 2.2, 1.4.10: 320 CSS pixels, scrolled in one direction."""
    actor.introduce()
    actor.send(3, dropped=1)
    live.size(width, 800, phone=width < 500)
    live.wait(f"document.querySelector('{row(actor.name)}')")
    live.click(f"{row(actor.name)} button")
    live.wait(f"document.querySelector('{row(actor.name)}-details canvas')")

    live.wait("document.documentElement.scrollWidth <= innerWidth")
