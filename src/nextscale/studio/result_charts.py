"""Result files as charts: power laws of scaling runs, and models compared; one figure at a time.

Imports no gradio.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from nextscale.bench.config import REPORT
from nextscale.config import read_json
from nextscale.scaling.fits import FIGURES, PUBLISHED, frontier, log_line, read_results
from nextscale.studio.charts import Axis, Series, chart_html, number_text

Result = dict[str, Any]
SIZE, COMPUTE = "parameters N", "training compute C, FLOP"
COMPARED = {
    "frechet": "Frechet distance",
    "kernel": "kernel distance",
    "inception_score": "inception score",
    "precision": "precision",
    "recall": "recall",
    "density": "density",
    "coverage": "coverage",
    "class_accuracy": "class accuracy",
}
"""Figures of a comparison, and what they are called."""
COSTS: dict[str, Callable[[Result], float]] = {
    "seconds per image": lambda row: next(iter(row["seconds_per_image"].values())),
    "FLOP per image": lambda row: row["flops_per_image"],
    "parameters": lambda row: row["parameters"],
}
"""What figures of a comparison stand over."""


@dataclass(frozen=True)
class ScalingRuns:
    """Results of one kind of model in several depths."""

    results: Sequence[Result]

    @property
    def figures(self) -> dict[str, str]:
        return FIGURES

    @property
    def costs(self) -> list[str]:
        return [SIZE, COMPUTE]

    def chart(self, name: str, over: str) -> str:
        """Raises ValueError for fewer than three depths."""
        if len(self.results) < 3:
            raise ValueError(f"a power law needs at least three depths, got {len(self.results)}")
        return (size_chart if over == SIZE else compute_chart)(self.results, name)


@dataclass(frozen=True)
class Compared:
    """A report of `nextscale compare`."""

    report: Result

    @property
    def figures(self) -> dict[str, str]:
        rows = self.report["models"]
        return {
            name: title for name, title in COMPARED.items() if all(row["mean"].get(name) is not None for row in rows)
        }

    @property
    def costs(self) -> list[str]:
        return list(COSTS)

    def chart(self, name: str, over: str) -> str:
        return comparison_chart(self.report, name, over)


ResultSet = ScalingRuns | Compared


def bundled_results() -> dict[str, ResultSet]:
    """Results that come with the package, by name; `docs/bundle_results.py` makes them of those in `docs/results`."""
    with as_file(files("nextscale") / "assets" / "bundled") as folder:
        return result_sets((folder,))


def result_sets(places: Sequence[Path]) -> dict[str, ResultSet]:
    """What can be drawn in folders and files, by name: scaling runs by kind of model, `var` first; then comparisons."""
    found: dict[str, ResultSet] = {}

    def add(title: str, results: list[Result]) -> None:
        for kind in dict.fromkeys(one["kind"] for one in results):
            found[f"{title}: scaling of {kind}"] = ScalingRuns([one for one in results if one["kind"] == kind])

    for place in places:
        for folder in [place, *sorted(path for path in place.rglob("*") if path.is_dir())]:
            with suppress(ValueError):
                add(folder.name, read_results([folder]))
            for path in [folder] if folder.is_file() else sorted(folder.glob("*.json")):
                with suppress(ValueError):
                    values = read_json(path)
                    if set(values) >= REPORT:
                        found[f"{path.parent.name}/{path.stem}: comparison"] = Compared(values)
                    elif "results" in values:
                        add(f"{path.parent.name}/{path.stem}", read_results([path]))
    return dict(sorted(found.items(), key=lambda item: (isinstance(item[1], Compared), not item[0].endswith(" var"))))


def size_chart(results: Sequence[Result], name: str) -> str:
    """A figure over parameters: a point per depth, the law, and the paper's slope."""
    sizes, values = [one["parameters"] for one in results], [one[name] for one in results]
    says = [
        f"depth {one['depth']}: {number_text(size)} parameters, {FIGURES[name]} {value:.4g}"
        for one, size, value in zip(results, sizes, values, strict=True)
    ]
    exponent, intercept, correlation = log_line(sizes, values)
    series = [
        Series("measured", list(zip(sizes, values, strict=True)), says),
        law_series(f"power law, exponent {exponent:.3g}", sizes, exponent, intercept),
        published_series(sizes, exponent, intercept, PUBLISHED["parameters"][name]),
    ]
    note = f"Law: {FIGURES[name]} = {power_law(exponent, intercept, 'N')}, correlation {correlation:.4f}."
    return drawn(FIGURES[name], SIZE, series, note + forecast(results, name))


def forecast(results: Sequence[Result], name: str) -> str:
    """What the law of the other depths says of the largest; empty of too few."""
    if len(results) < 4:
        return ""
    *others, largest = results
    exponent, intercept, _ = log_line([one["parameters"] for one in others], [one[name] for one in others])
    foreseen, measured = math.exp(intercept + exponent * math.log(largest["parameters"])), largest[name]
    error = 100 * (foreseen / measured - 1)
    return (
        f" The law of the smaller ones forecasts {foreseen:.4g} for depth {largest['depth']}, "
        f"{abs(error):.1f} % too {'high' if error > 0 else 'low'}: it is {measured:.4g}."
    )


def compute_chart(results: Sequence[Result], name: str) -> str:
    """A figure over training compute: a line per depth, and the law of their frontier."""
    series, points = [], []
    for one in results:
        line = [(point["flops"], point[name]) for point in one["curve"]]
        says = [f"depth {one['depth']}: {number_text(x)} FLOP, {FIGURES[name]} {y:.4g}" for x, y in line]
        series.append(Series(f"depth {one['depth']}", line, says, line=True))
        points += line
    flops, values = zip(*points, strict=True)
    kept = frontier(flops, values)
    note = ""
    if len(kept) >= 3:
        best = [flops[i] for i in kept]
        exponent, intercept, _ = log_line(best, [values[i] for i in kept])
        series.append(law_series(f"frontier, exponent {exponent:.3g}", best, exponent, intercept))
        series.append(published_series(best, exponent, intercept, PUBLISHED["compute"][name]))
        note = f"Frontier: {FIGURES[name]} = {power_law(exponent, intercept, 'C')}."
    return drawn(FIGURES[name], COMPUTE, series, note)


def comparison_chart(report: Result, name: str, over: str) -> str:
    """A figure of several models over what they cost; bars are one standard deviation."""
    title, series = COMPARED[name], []
    for row in report["models"]:
        cost, value, spread = COSTS[over](row), row["mean"][name], row["deviation"].get(name) or 0
        says = f"{row['title']}: {number_text(cost)} {over}, {title} {value:.4g} ± {spread:.2g}"
        series.append(Series(row["title"], [(cost, value)], [says], spreads=[spread]))
    batch = next(iter(report["models"][0]["seconds_per_image"]))
    note = f"{report['count']} images, {report['sets']} sets; bars: one standard deviation."
    note += f" Features: {report['features']['name']}."
    note += f" Batch {batch}." if over == "seconds per image" else ""
    if (floor := report["floor"].get(name)) is not None:
        note += f" Held-out images reach {floor:.4g}."
    return drawn(title, over, series, note, log_y=False)


def drawn(title: str, over: str, series: Sequence[Series], note: str, *, log_y: bool = True) -> str:
    """A chart whose axes hold all points of a series."""
    points = [point for one in series for point in one.points]
    spread = max((length for one in series for length in one.spreads), default=0)
    up = [y + sign * spread for _, y in points for sign in (-1, 1)]
    x = Axis.around(over, [x for x, _ in points], log=True)
    shown = f"{title[0].upper()}{title[1:]}{',' * (',' in title)} over {over}"
    return chart_html(shown, x, Axis.around(title, up, log=log_y), series, note)


def law_series(title: str, x: Sequence[float], exponent: float, intercept: float, *, dashed: bool = False) -> Series:
    """A power law from the least to the largest x: a straight line on logarithmic axes."""
    ends = [(end, math.exp(intercept + exponent * math.log(end))) for end in (min(x), max(x))]
    return Series(title, ends, line=True, dashed=dashed)


def published_series(x: Sequence[float], exponent: float, intercept: float, published: float) -> Series:
    """The paper's slope through the middle of our law, for its data, tokenizer and sizes are others."""
    middle = sum(map(math.log, x)) / len(x)
    through = intercept + (exponent - published) * middle
    return law_series(f"the paper's exponent, {published:g}", x, published, through, dashed=True)


def power_law(exponent: float, intercept: float, of: str) -> str:
    """(a x)^b, as the paper writes it."""
    factor = math.exp(max(-700.0, min(700.0, intercept / exponent))) if exponent else 1.0
    return f"({factor:.3g} {of})^{exponent:.3g}"
