"""The page of results: tables, plots and the list of what is slower, from given figures."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    before = set(sys.modules)
    import page as made  # noqa: PLC0415

    yield made
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


def cpu(ns: float) -> dict[str, Any]:
    return {"ns": ns, "least_ns": ns - 1, "most_ns": ns + 1, "dropped": 0, "sent": 9, "lost": 0, "s_per_gb": ns / 663}


RUN = {
    "mb_per_cpu_s": 200.0,
    "mb_per_s": 90.0,
    "memory_mib": 120.0,
    "floor": {"SHA-256": 0.5, "write": 0.75},
    "parts_ms": {"SHA-256": 0.5, "TLS": 0.5},
    "cpu_ms_per_batch": 5.0,
}
RESULTS: dict[str, Any] = {
    "about": {"when": "2026-11-28", "commit": "0123456"},
    "capture": {
        "64": {"mean": 64, "cpu": {"ring": cpu(40), "tcpdump": cpu(50)}},
        "1400": {"mean": 1400, "cpu": {"ring": cpu(300), "tcpdump": cpu(200)}},
    },
    "ingest": [RUN],
    "delay": {
        "idle": {
            "ossensor": [{"median_ms": 300.0, "p99_ms": 400.0}],
            "tcpdump -U | socat TLS": [{"median_ms": 100.0, "p99_ms": 200.0}],
        }
    },
}


def test_what_is_slower_than_a_peer_is_listed_the_worst_first_and_nothing_else_is(page: Any) -> None:
    assert page.slower(RESULTS) == [
        ("receiving, 1 MiB batches: the vSensor", "the physical floor", 4.0),
        ("delay, idle: ossensor", "tcpdump -U | socat TLS", 3.0),
        ("capturing, 1400 bytes: ring", "tcpdump", 1.5),
    ]


def test_the_page_says_first_what_is_slower_and_shows_every_plot_that_it_writes(page: Any, tmp_path: Path) -> None:
    page.write(RESULTS, tmp_path)
    text = (tmp_path / "performance.md").read_text()

    headings = [line for line in text.splitlines() if line.startswith("## ")]
    assert headings == ["## What is slower than a peer", "## Capturing", "## Receiving", "## Delay"]
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["capture.svg", "delay-idle.svg", "ingest.svg"]
    assert plots == sorted(line[line.index("plots/") + 6 : -1] for line in text.splitlines() if line.startswith("!["))
    assert "| tcpdump -U \\| socat TLS |" in text


def test_plots_are_svg_with_a_bar_for_each_name_and_lengths_in_proportion(page: Any) -> None:
    (svg,) = [svg for name, svg in page.plots(RESULTS).items() if name == "ingest.svg"]
    bars = ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}rect")  # noqa: S314 -- made a line above
    widths = [float(bar.attrib["width"]) for bar in bars]

    assert len(widths) == 3  # SHA-256, write, the vSensor
    assert widths[1] / widths[0] == pytest.approx(1.5, rel=0.01)


def test_a_plot_that_this_run_does_not_have_does_not_stay(page: Any, tmp_path: Path) -> None:
    page.write(RESULTS, tmp_path)
    page.write({"about": {}, "ingest": [RUN]}, tmp_path)

    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["ingest.svg"]
