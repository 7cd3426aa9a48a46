"""The page, a real sensor, and a connection that is really ended: all of them in namespaces of their own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from browser import Browser, Page
from harness.connections import Pair, connected
from harness.namespaces import address, why_not, wire
from harness.programs import make_certificate
from harness.world import PORT, SENSOR_NAME, VSENSOR_NAMES, World
from scene import TOKEN, log_in, token_file

pytestmark = [pytest.mark.netns, pytest.mark.slow]

HERE, THERE = "10.7.0.1", "10.7.0.2"
ROW = f"#sensor-{SENSOR_NAME}"


@pytest.fixture
def world() -> Iterator[World]:
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="ossensor-page-") as name:  # the uploader, another user, reads in it
        folder = Path(name)
        folder.chmod(0o755)
        with World(folder, make_certificate(folder, VSENSOR_NAMES)) as made:
            wire(made.sensor, "cap0", made.generator, "cap0")
            address(made.sensor, "cap0", f"{HERE}/24")
            address(made.generator, "cap0", f"{THERE}/24")
            yield made


def order_block(page: Page, pair: Pair) -> None:
    """Of exactly this connection, by what a person would write."""
    page.click("#new-order")
    for side, end in (("source", pair.opener), ("destination", pair.acceptor)):
        host, port = end.getsockname()[:2]
        page.write(f"#order-form [name={side}]", host)
        page.write(f"#order-form [name={side}_port]", str(port))
    page.run("document.querySelector('[name=target]').value = '{\"all\":true}'; undefined")
    page.click("#order-form .primary")
    page.click("#confirm-yes")
    page.wait("document.querySelector('#order-rows tr')")


def test_a_connection_that_is_blocked_on_the_page_ends_and_the_page_says_so(world: World) -> None:
    world.start_vsensor(options=("--operator-token-file", token_file(world.folder, TOKEN)))
    sensor = world.start_sensor("cap0", changes={"ANTIGENA_TIME_PERIOD": "1", "OSSENSOR_DEBUG": "3"})
    inside = tuple(world.collector.inside())
    certificate = world.folder / "cert.pem"
    with (
        Browser(world.folder / "profile", certificate, inside) as browser,
        browser.page(f"https://10.9.0.2:{PORT}/") as page,
    ):
        log_in(page)
        page.wait(f"document.querySelector('{ROW}')")
        blocked, neighbour = connected(world.sensor, HERE, world.generator, THERE, 2)
        rate = f"document.querySelector(\"{ROW} [data-label='Packets/s']\").innerText"
        while page.run(rate) == "0":
            assert blocked.exchange()
            assert neighbour.exchange()

        order_block(page, blocked)
        sensor.wait_for("orders in force")
        with suppress(ConnectionError):
            while True:  # what is said without a pause outruns its resets
                blocked.opener.sendall(b"y")
                time.sleep(0.005)
        page.wait("document.querySelector('#order-rows').innerText.includes('closed 1')")

        assert neighbour.exchange()
        page.click("#order-rows .actions button:last-child")
        page.click("#confirm-yes")
        page.wait("!document.querySelector('#order-rows tr')")
        assert page.text(f"{ROW} [data-label='Books']").strip() == "✓ no gap"
        assert page.complaints() == []
        for pair in (blocked, neighbour):
            pair.close()
