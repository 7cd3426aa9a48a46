"""Fixtures of the tests that look at the page with Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser, Page
from scene import TOKEN, VIEWER, Site, log_in, token_file
from test_vsensor_kit_process import Process


@pytest.fixture(scope="session", autouse=True)
def _chromium() -> None:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: make page")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    tokens = [("--operator-token-file", TOKEN), ("--viewer-token-file", VIEWER)]
    options = [part for option, token in tokens for part in (option, token_file(folder, token))]
    with Process(folder / "store", *options) as process:
        certificate = Path(process.wait_for("listening")["certificate"])
        with Browser(folder / "profile", certificate) as browser:
            yield Site(process, browser)


@pytest.fixture
def page(site: Site) -> Iterator[Page]:
    """Not logged in; at its end nothing was complained of in the console but what the test has read."""
    with site.browser.page(site.url) as opened:
        yield opened
        assert opened.complaints() == []


@pytest.fixture
def live(page: Page) -> Page:
    log_in(page)
    return page
