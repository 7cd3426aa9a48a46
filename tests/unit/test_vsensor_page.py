"""The page's files: which there are, what a browser is told about them, and that what they show can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import ossensor
from ossensor.vsensor import pagefiles

PAGE = Path(ossensor.__file__).parent / "vsensor" / "page"
FILES = pagefiles.load()
OURS = {name: file.content.decode() for name, file in FILES.items() if not name.startswith("uplot.")}


def test_the_page_is_these_files_and_each_is_small() -> None:
    scripts = {"app.js", "dom.js", "orders.js", "plot.js", "sensors.js", "server.js", "text.js"}

    assert set(FILES) == {"index.html", "style.css", "icon.svg", "uplot.min.js", "uplot.min.css", *scripts}
    assert sum(len(file.content) for file in FILES.values()) < 128 << 10  # over a phone's network, at once
    assert max(text.count("\n") for text in OURS.values()) < 400


def test_what_was_taken_from_elsewhere_is_unchanged_and_its_licence_lies_beside_it() -> None:
    """uPlot 1.6.32, as its npm package has it."""
    tags = {name: FILES[name].tag for name in ("uplot.min.js", "uplot.min.css")}

    assert tags == {
        "uplot.min.js": '"19c8d4c6ad88929a79f4ae49d6f71615"',
        "uplot.min.css": '"df630c6a8d6f8eeaff264b50f73ce5b1"',
    }
    assert "MIT" in (PAGE / "uplot.LICENSE").read_text()


def test_everything_that_a_file_names_is_there_and_nothing_is_fetched_from_elsewhere() -> None:
    linked = {
        name for text in OURS.values() for name in re.findall(r'(?:(?:src|href)="/page/|from "\./)([^"]+)"', text)
    }
    addresses = {a for text in OURS.values() for a in re.findall(r"(?:https?:)?//[\w.-]+\.[a-z]+", text)}

    assert linked - set(FILES) == set()
    assert linked >= {"app.js", "dom.js", "style.css", "uplot.min.js", "icon.svg"}
    assert addresses == {"http://www.w3.org"}  # a name, of SVG


def test_no_file_has_what_the_policy_forbids() -> None:
    """Inline script and style, handlers in markup, and text that is taken for markup."""
    inline = r"<script(?![^>]* src=)|<style|\sstyle=|\son[a-z]+=\""
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function"

    assert {n: found for n, text in OURS.items() if (found := re.findall(f"{inline}|{markup}", text))} == {}


def test_the_policy_lets_nothing_in_but_our_own_files_and_nobody_frame_them() -> None:
    policy = dict(part.split(" ", 1) for part in FILES["index.html"].headers["Content-Security-Policy"].split("; "))

    assert policy["default-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
    assert {file.headers["X-Content-Type-Options"] for file in FILES.values()} == {"nosniff"}
    assert {file.headers["Referrer-Policy"] for file in FILES.values()} == {"no-referrer"}


# -- what can be seen -------------------------------------------------------------------------------------------------


def colours() -> list[dict[str, str]]:
    """Light, and dark: by the names that the style sheet has for them."""
    light, dark = re.findall(r":root \{(.*?)\n *\}", OURS["style.css"], flags=re.DOTALL)
    found = [dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", block)) for block in (light, dark)]
    assert found[0].keys() == found[1].keys()
    return found


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


INK = [(ink, ground) for ink in ("ink", "soft", "accent", "good", "warn", "bad") for ground in ("page", "card")]


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for_and_every_control_s_border(scheme: int) -> None:
    named = colours()[scheme]
    pairs = [*INK, ("on-accent", "accent"), ("on-bad", "bad")]
    texts = {(text, ground): contrast(named[text], named[ground]) for text, ground in pairs}
    borders = {ground: contrast(named["edge"], named[ground]) for ground in ("page", "card")}

    assert {pair: ratio for pair, ratio in texts.items() if ratio < 4.5} == {}
    assert {ground: ratio for ground, ratio in borders.items() if ratio < 3} == {}


def test_every_control_of_the_page_has_a_name() -> None:
    """A label around it or for it; a button its text."""
    html = OURS["index.html"]
    named = set(re.findall(r'<label for="([^"]+)"', html))
    inside = "".join(re.findall(r"<label(?: class=\"[^\"]*\")?(?: hidden)?>.*?</label>", html, flags=re.DOTALL))
    controls = re.findall(r"<(?:input|select)\b[^>]*>", html)

    assert [c for c in controls if c not in inside and not set(re.findall(r'id="([^"]+)"', c)) & named] == []
    assert len(controls) == 16
