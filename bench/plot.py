"""Bars and lines as SVG, by hand: a page of figures needs two kinds of plot, and no library that has a hundred.

Colours are told apart without colour vision (Okabe and Ito, 2008); text takes the colour of the page around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

_COLOURS: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
_WIDTH: Final = 760
_LABEL: Final = 250  # for the names at the left of bars
_ROW: Final = 22
_HEIGHT: Final = 300
_LEFT: Final = 64  # for the numbers at the left of lines
_STYLE: Final = (
    "<style>text{font:12px sans-serif;fill:#333}line{stroke:#999}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}}</style>"
)


def _svg(title: str, height: int, body: Sequence[str]) -> str:
    name = escape(title)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{name}">',
        f"<title>{name}</title>{_STYLE}",
        f'<text x="8" y="18" font-weight="bold">{name}</text>',
        *body,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def bars(title: str, values: Mapping[str, tuple[float, float, float]]) -> str:
    """A bar for each name, as long as the median, with a whisker from the least to the most."""
    longest = max((most for _, _, most in values.values()), default=0) or 1
    scale = (_WIDTH - _LABEL - 80) / longest
    body = []
    for row, (name, (median, least, most)) in enumerate(values.items()):
        y = 34 + row * _ROW
        colour = _COLOURS[0 if name.startswith(("ossensor", "ring", "the vSensor")) else 1]
        low, high = _LABEL + least * scale, _LABEL + most * scale
        body += [
            f'<text x="{_LABEL - 8}" y="{y + 12}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{_LABEL}" y="{y}" width="{median * scale:.1f}" height="{_ROW - 6}" fill="{colour}"/>',
            f'<line x1="{low:.1f}" y1="{y + 8}" x2="{high:.1f}" y2="{y + 8}" stroke-width="2"/>',
            f'<text x="{high + 6:.1f}" y="{y + 12}">{_number(median)}</text>',
        ]
    return _svg(title, 40 + len(values) * _ROW, body)


def lines(title: str, x_name: str, curves: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """A curve for each name over a logarithmic x; y begins at 0."""
    xs = sorted({x for points in curves.values() for x, _ in points})
    highest = max((y for points in curves.values() for _, y in points), default=0) or 1
    span = math.log(xs[-1] / xs[0]) or 1
    right, bottom = _WIDTH - 20, _HEIGHT - 40

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (right - _LEFT) * math.log(x / xs[0]) / span,
            bottom - (bottom - 60) * y / highest,
        )

    body = [f'<line x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>']
    for part in (0, 0.5, 1):
        _, y = at(xs[0], highest * part)
        body.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(highest * part)}</text>')
    for x in xs:
        left, _ = at(x, 0)
        body.append(f'<text x="{left:.1f}" y="{bottom + 16}" text-anchor="middle">{x:g}</text>')
    body.append(f'<text x="{right}" y="{bottom + 32}" text-anchor="end">{escape(x_name)}</text>')
    for number, (name, points) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [at(x, y) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        body.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        body += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        body.append(f'<text x="{_LEFT + 8 + number % 4 * 170}" y="{36 + number // 4 * 16}" fill="{colour}">')
        body.append(f'<tspan fill="{colour}">■</tspan> {escape(name)}</text>')
    return _svg(title, _HEIGHT, body)
