"""Every link of the documents leads to a file, or a heading, that is there; so does what code says is in one."""

from __future__ import annotations

import os
import re
from pathlib import Path

from documented import BLOCK, PAGES, ROOT

_LINK = re.compile(r'(?:\]\(|src=")([^)"\s]+)')


def _anchors(text: str) -> set[str]:
    """As GitHub makes them of headings."""
    titles = re.findall(r"^#+ (.*)$", BLOCK.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_link_leads_somewhere() -> None:
    dead = []
    for page, text in PAGES.items():
        for link in _LINK.findall(BLOCK.sub("", text)):
            target, _, anchor = link.partition("#")
            if link.startswith("https://"):
                continue
            path = os.path.normpath(ROOT / page / ".." / target) if target else str(ROOT / page)
            linked = PAGES.get(os.path.relpath(path, ROOT), "")
            if not Path(path).exists() or (anchor and anchor not in _anchors(linked)):
                dead.append((page, link))

    assert dead == []


def test_no_page_is_out_of_reach() -> None:
    linked = {
        os.path.relpath(os.path.normpath(ROOT / page / ".." / link.partition("#")[0]), ROOT)
        for page, text in PAGES.items()
        for link in _LINK.findall(text)
    }

    assert set(PAGES) - linked - {"README.md", "CHANGELOG.md"} == set()
