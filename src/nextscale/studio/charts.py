"""Charts as HTML: they follow the width and the theme of the page, and each point says what it is.

Lines are drawn in an SVG that is stretched; points and numbers stand above it, placed in per cent, and keep their size.
Imports no gradio.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]
MARGIN = 0.06
"""Share of an axis that is empty on either side of the data."""
COLOURS = 8
"""Colours in style.css; further series begin anew."""


@dataclass(frozen=True)
class Series:
    """What has one colour, and is switched off together."""

    title: str
    points: Sequence[Point]
    says: Sequence[str] = ()
    "What each point is; a series without is a line alone."
    line: bool = False
    "Whether the points are joined."
    dashed: bool = False
    spreads: Sequence[float] = ()
    "Length of each point's error bar, up and down."


@dataclass(frozen=True)
class Axis:
    """What an axis shows, and the numbers at its ends."""

    title: str
    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, title: str, values: Sequence[float], *, log: bool = False) -> Axis:
        """An axis with some room around its values. Raises ValueError for none, and for those a log axis lacks."""
        if not values or not all(map(math.isfinite, values)) or (log and min(values) <= 0):
            raise ValueError(f"{title}: there is nothing to draw")
        low, high = (math.log10(min(values)), math.log10(max(values))) if log else (min(values), max(values))
        room = MARGIN * ((high - low) or abs(high) or 1)
        low, high = low - room, high + room
        return cls(title, 10**low, 10**high, log) if log else cls(title, low, high)

    def place(self, value: float) -> float:
        """Where a value stands, in per cent of the axis."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        return 100 * (value - low) / (high - low)

    def ticks(self) -> list[float]:
        return log_ticks(self.low, self.high) if self.log else round_ticks(self.low, self.high, 6)


def round_ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers from `low` to `high`, at most `about` and a few: steps of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / about
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{number * step:.12g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from `low` to `high`; where there are few, also 2 and 5 times those; else round numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 3), (1, 2, 5)):
        found = [factor * 10.0**power for power in powers for factor in factors if low <= factor * 10.0**power <= high]
        if len(found) >= 3:
            return found
    return round_ticks(low, high, 4)


def number_text(value: float) -> str:
    """A number in few characters: 73.7 k, 2.3 M, 0.97."""
    for size, unit in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / (1e3 if unit == 'k' else size):.4g} {unit}"
    return f"{value:.4g}"


def chart_html(title: str, x: Axis, y: Axis, series: Sequence[Series], note: str = "") -> str:
    """A chart with its legend, whose boxes switch series off, and its numbers as a table."""
    drawn = "".join(marks_html(number, one, x, y) for number, one in enumerate(series))
    lines = "".join(line_html(number, one, x, y) for number, one in enumerate(series))
    across = "".join(f'<span style="left:{x.place(t):.2f}%">{number_text(t)}</span>' for t in x.ticks())
    up = "".join(f'<span style="bottom:{y.place(t):.2f}%">{number_text(t)}</span>' for t in y.ticks())
    grid = "".join(f'<path class="grid" d="M{x.place(t):.2f} 0V100"/>' for t in x.ticks())
    grid += "".join(f'<path class="grid" d="M0 {100 - y.place(t):.2f}H100"/>' for t in y.ticks())
    legend = "".join(legend_html(number, one) for number, one in enumerate(series))
    return (
        f'<figure class="plot" aria-label="{html.escape(title)}"><figcaption>{html.escape(title)}</figcaption>'
        f'<div class="plot-box"><div class="y-title">{html.escape(y.title)}</div><div class="y-axis">{up}</div>'
        f'<div class="area"><svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{grid}{lines}'
        f'</svg>{drawn}</div><div class="x-axis">{across}</div><div class="x-title">{html.escape(x.title)}</div></div>'
        f'<div class="plot-legend" role="group" aria-label="Shown">{legend}</div>'
        f'<p class="note">{html.escape(note)}</p>{table_html(x, y, series)}</figure>'
    )


def legend_html(number: int, series: Series) -> str:
    """The name of a series, and a box that switches it off."""
    look = "dashed" if series.dashed else "dot" if series.says else "line"
    return (
        f'<label class="c{number % COLOURS}"><input type="checkbox" checked data-series="{number}">'
        f'<i class="{look}"></i>{html.escape(series.title)}</label>'
    )


def line_html(number: int, series: Series, x: Axis, y: Axis) -> str:
    """The line through a series and its error bars, as paths."""
    found = ""
    if series.line:
        corners = "L".join(f"{x.place(across):.2f} {100 - y.place(up):.2f}" for across, up in series.points)
        found = f'<path d="M{corners}"/>'
    for (across, up), spread in zip(series.points, series.spreads, strict=False):
        ends = [100 - y.place(max(y.low, min(y.high, up + sign * spread))) for sign in (-1, 1)]
        found += f'<path d="M{x.place(across):.2f} {ends[0]:.2f}V{ends[1]:.2f}"/>'
    style = f"c{number % COLOURS}" + (" dashed" if series.dashed else "")
    return f'<g class="{style}" data-part="{number}">{found}</g>' if found else ""


def marks_html(number: int, series: Series, x: Axis, y: Axis) -> str:
    """A series' points, each of which says what it is while it has the pointer or the focus."""
    found = ""
    for (across, up), says in zip(series.points, series.says, strict=False):
        left, bottom = x.place(across), y.place(up)
        side = " at-right" if left > 60 else ""
        side += " at-top" if bottom > 70 else ""
        found += (
            f'<span class="mark c{number % COLOURS}{side}" data-part="{number}" tabindex="0" role="img" '
            f'aria-label="{html.escape(says)}" style="left:{left:.2f}%;bottom:{bottom:.2f}%">'
            f'<span class="says">{html.escape(says)}</span></span>'
        )
    return found


def table_html(x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """The numbers of all points."""
    rows = "".join(
        f"<tr><td>{html.escape(says)}</td><td>{number_text(across)}</td><td>{number_text(up)}</td></tr>"
        for one in series
        for (across, up), says in zip(one.points, one.says, strict=False)
    )
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in ("Point", x.title, y.title))
    return f'<details class="numbers"><summary>Numbers</summary><table><tr>{heads}</tr>{rows}</table></details>'
