"""Makes docs/screenshots again: `.venv/bin/python tests/page/pictures.py`, after `make page`. Some forty seconds."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

TESTS: Final = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / "unit")]

from browser import Browser, Page  # noqa: E402
from scene import TOKEN, Site, log_in, token_file  # noqa: E402
from test_vsensor_kit_process import Process  # noqa: E402

PICTURES: Final = TESTS.parent / "docs" / "screenshots"
SECONDS: Final = 40
TASK: Final = {"cluster": "shop", "family": "web", "revision": "7", "availability_zone": "eu-west-1a"}


def order(page: Page) -> None:
    page.click("#new-order")
    fields = {
        "source": "10.0.3.7",
        "destination": "198.51.100.9",
        "destination_port": "443",
        "reason": "beacon, case 17",
    }
    for name, text in fields.items():
        page.write(f"#order-form [name={name}]", text)
    page.run("document.querySelector('[name=target]').value = '{\"all\":true}'; undefined")
    page.click("#order-form .primary")
    page.wait("document.querySelector('#confirm').open")


def main() -> None:
    seeded = random.Random(11)
    PICTURES.mkdir(exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        options = ("--operator-token-file", token_file(folder, TOKEN))
        process = stack.enter_context(Process(folder / "store", *options))
        certificate = Path(process.wait_for("listening")["certificate"])
        browser = stack.enter_context(Browser(folder / "profile", certificate))
        site = Site(process, browser)
        page = stack.enter_context(browser.page(site.url))
        log_in(page)
        tasks = ({**TASK}, {**TASK, "family": "orders"}, {})
        names = ("web-0f9c41", "orders-77ab02", "bastion")
        actors = [stack.enter_context(closing(site.actor(n, task=t))) for n, t in zip(names, tasks, strict=True)]
        for actor in actors:
            actor.introduce()
        actors[1].send(10, dropped=1312)
        page.wait("document.querySelectorAll('#sensor-rows tr').length === 3")
        order(page)
        page.picture(PICTURES / "confirm.png")
        page.click("#confirm-yes")
        end_s = time.monotonic() + SECONDS
        level = 60.0
        while time.monotonic() < end_s:
            level = min(160.0, max(20.0, level + seeded.uniform(-12, 12)))
            for share, actor in zip((1.0, 0.5, 0.1), actors, strict=True):
                actor.send(int(level * share) + 1, size=seeded.choice((120, 700, 1400)))
        ordered = actors[0].report()
        (action,) = ordered["actions"]
        for actor, counts in zip(actors[:2], ({"matched": 12, "closed": 4}, {}), strict=True):
            actor.report(ordered["book"], ordered["version"], actions={action["id"]: counts})
        page.wait("document.querySelector('#order-rows').innerText.includes('matched')")
        page.click("#sensor-orders-77ab02 button")
        page.run("scrollTo(0, 0)")
        for scheme in ("light", "dark"):
            page.scheme(scheme)
            for actor in actors:
                actor.send(40)
            page.wait("document.querySelector('#orders').offsetHeight > 0")
            page.picture(PICTURES / f"{scheme}.png", whole=True)
        page.scheme("light")
        page.click("#sensor-orders-77ab02 button")
        page.size(390, 1100, phone=True)
        page.wait("innerWidth === 390 && document.querySelector('#plot-all canvas').clientWidth < 390")
        page.run("scrollTo(0, 0)")
        page.picture(PICTURES / "phone.png")


main()
