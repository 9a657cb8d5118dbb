"""Power laws of losses: fits, intervals, predictions, the frontier of several curves, and the paper's plots.

A law is y = (a x)^b, as the paper writes it (section 5, eq. 7 and 8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nextscale.config import read_json
from nextscale.plots import new_figure, viridis

UNIT = 73_728
"""Parameters of the blocks of a model of depth 1; a model of depth d has d^3 times as many (paper, appendix)."""
FIGURES = {
    "loss": "loss, all scales",
    "loss_last": "loss, last scale",
    "error": "token error, all scales",
    "error_last": "token error, last scale",
}
"""What laws are fitted to, and how tables and plots call it."""
PUBLISHED = {
    "parameters": {"loss": -0.20, "loss_last": -0.23, "error": -0.010, "error_last": -0.016},
    "compute": {"loss": -0.16, "loss_last": -0.13, "error": -0.011, "error_last": -0.0067},
}
"""The paper's exponents over parameters and over compute; its losses are what is above a floor."""


@dataclass(frozen=True)
class PowerLaw:
    """y = (scale x)^exponent, fitted in logarithms."""

    scale: float
    exponent: float
    log_factor: float
    "exponent x log scale, which keeps its precision where the scale is huge or tiny."
    correlation: float
    "Pearson's, of log x and log y."
    exponent_interval: tuple[float, float]
    "Student-t interval of the exponent."
    points: int

    def __call__(self, x: float) -> float:
        return math.exp(self.log_factor + self.exponent * math.log(x))


@dataclass(frozen=True)
class FlooredLaw:
    """y = floor + (scale x)^exponent: a loss that no size removes, and a power law above it."""

    scale: float
    exponent: float
    log_factor: float
    floor: float
    points: int

    def __call__(self, x: float) -> float:
        return self.floor + math.exp(self.log_factor + self.exponent * math.log(x))


def fit_power_law(x: Sequence[float], y: Sequence[float], *, confidence: float = 0.95) -> PowerLaw:
    """Least squares of log y over log x.

    Raises ValueError for fewer than three points or values that are not above 0.
    """
    from scipy import stats

    exponent, intercept, r = log_line(x, y)
    error = float(np.std(np.log(y)) / np.std(np.log(x))) * math.sqrt(max(0.0, 1 - r * r) / (len(x) - 2))
    width = float(stats.t.ppf((1 + confidence) / 2, len(x) - 2)) * error
    scale = math.exp(max(-700.0, min(700.0, intercept / exponent))) if exponent else 1.0
    return PowerLaw(scale, exponent, intercept, r, (exponent - width, exponent + width), len(x))


def log_line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope, intercept and Pearson's correlation of log y over log x, by least squares; needs no scipy.

    Raises ValueError as `fit_power_law` does.
    """
    require_points(x, y)
    across, up = np.log(x), np.log(y)
    dx, dy = across - across.mean(), up - up.mean()
    slope = float(dx @ dy / (dx @ dx))
    scatter = math.sqrt(float(dx @ dx) * float(dy @ dy))
    return slope, float(up.mean() - slope * across.mean()), float(dx @ dy) / scatter if scatter else 0.0


def fit_floored_law(x: Sequence[float], y: Sequence[float]) -> FlooredLaw:
    """A power law above the floor, between 0 and the smallest y, that gives the least squares of log y.

    Raises ValueError as `fit_power_law` does.
    """
    from scipy.optimize import minimize_scalar

    require_points(x, y)

    def misfit(floor: float) -> float:
        law = fit_power_law(x, [value - floor for value in y])
        fitted = [floor + law(value) for value in x]
        return float(np.square(np.log(fitted) - np.log(y)).sum())

    least = min(y)
    candidates = np.linspace(0, least * 0.999, 200)
    best = int(np.argmin([misfit(float(floor)) for floor in candidates]))
    low, high = candidates[max(0, best - 1)], candidates[min(len(candidates) - 1, best + 1)]
    found: Any = minimize_scalar(misfit, bounds=(low, high), method="bounded", options={"xatol": 1e-9 * least})
    floor = float(found.x)
    law = fit_power_law(x, [value - floor for value in y])
    return FlooredLaw(law.scale, law.exponent, law.log_factor, floor, len(x))


def require_points(x: Sequence[float], y: Sequence[float]) -> None:
    """Raises ValueError unless a power law can be fitted."""
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"a power law needs at least three points, got {len(x)} and {len(y)} values")
    if min(*x, *y) <= 0 or not np.isfinite([*x, *y]).all():
        raise ValueError("a power law is of numbers above 0")


def frontier(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Indices, in the order of x, of the points below all that have a smaller x."""
    best, kept = math.inf, []
    for place in sorted(range(len(x)), key=lambda i: (x[i], y[i])):
        if y[place] < best:
            best = y[place]
            kept.append(place)
    return kept


def read_results(files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Results of scaling runs from files, or from all of a folder, by kind and depth. Raises ValueError."""
    paths = [
        path
        for file in files
        for path in (sorted(Path(file).glob("*-d[0-9]*.json")) if Path(file).is_dir() else [Path(file)])
    ]
    results = []
    for path in paths:
        values = read_json(path)
        results += values.get("results", [values])
    needed = {"kind", "depth", "parameters", "curve", *FIGURES}
    if not results or any(not isinstance(one, dict) or not needed <= set(one) for one in results):
        raise ValueError(f"{', '.join(map(str, files))}: holds no results of `nextscale scaling run`")
    known = [(one["kind"], one["depth"]) for one in results]
    if len(set(known)) < len(known):
        raise ValueError(f"{', '.join(map(str, files))}: holds results of one depth twice; name one place of each")
    return sorted(results, key=lambda one: (one["kind"], one["depth"]))


def fit_family(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All laws of one kind of model: over parameters, with a floor, over compute, and a forecast of the largest depth.

    Raises ValueError for fewer than three depths.
    """
    sizes = [one["parameters"] for one in results]
    report: dict[str, Any] = {"kind": results[0]["kind"], "depths": [one["depth"] for one in results]}
    for name in FIGURES:
        values = [one[name] for one in results]
        laws: dict[str, Any] = {"parameters": asdict(fit_power_law(sizes, values))}
        laws["parameters_above_floor"] = asdict(fit_floored_law(sizes, values))
        curve = [(point["flops"], point[name]) for one in results for point in one["curve"]]
        flops, along = zip(*curve, strict=True)
        kept = frontier(flops, along)
        if len(kept) >= 3:
            laws["compute_frontier"] = asdict(fit_power_law([flops[i] for i in kept], [along[i] for i in kept]))
            laws["frontier"] = [{"flops": flops[i], name: along[i]} for i in kept]
        if len(results) >= 4:
            law = fit_power_law(sizes[:-1], values[:-1])
            predicted, measured = law(sizes[-1]), values[-1]
            laws["forecast"] = {"depth": results[-1]["depth"], "predicted": predicted, "measured": measured}
            laws["forecast"]["relative_error"] = predicted / measured - 1
        report[name] = laws
    return report


def predict_depth(results: Sequence[dict[str, Any]], depth: int) -> dict[str, dict[str, float]]:
    """What the laws predict for another depth, without and with a floor."""
    sizes, size = [one["parameters"] for one in results], UNIT * depth**3
    fits = {"power_law": fit_power_law, "above_floor": fit_floored_law}
    return {
        name: {law: fit(sizes, [one[name] for one in results])(size) for law, fit in fits.items()} for name in FIGURES
    }


def plot_laws(results: Sequence[dict[str, Any]], report: dict[str, Any], path: Path) -> None:
    """Each figure over parameters (top) and over training FLOPs (bottom), with fits and the paper's slopes.

    As in the paper's figures 5 to 7.
    """
    with new_figure(path, 16, 7.5, dpi=110) as figure:
        panels = figure.subplots(2, 4)
        for column, name in enumerate(FIGURES):
            plot_sizes(panels[0, column], results, report[name], name)
            plot_compute(panels[1, column], results, report[name], name)


def plot_sizes(axes: Any, results: Sequence[dict[str, Any]], laws: dict[str, Any], name: str) -> None:
    """One figure over the number of parameters."""
    sizes = np.array([one["parameters"] for one in results]) / 1e6
    values = np.array([one[name] for one in results])
    law = laws["parameters"]
    axes.loglog(sizes, values, "o", color="tab:blue")
    label = f"$({law['scale'] * 1e6:.3g}\\,N)^{{{law['exponent']:.3g}}}$, r = {law['correlation']:.4f}"
    axes.loglog(sizes, curve(law, 1e6 * sizes), color="tab:blue", label=label)
    plot_published(axes, sizes, values, PUBLISHED["parameters"][name])
    axes.set_xlabel("parameters N, millions")
    axes.set_title(FIGURES[name], fontsize="medium")
    axes.legend(fontsize="small")


def plot_compute(axes: Any, results: Sequence[dict[str, Any]], laws: dict[str, Any], name: str) -> None:
    """One figure over training compute: a line per depth, and the law of their frontier."""
    for place, one in enumerate(results):
        flops = [point["flops"] / 1e15 for point in one["curve"]]
        values = [point[name] for point in one["curve"]]
        axes.loglog(flops, values, color=viridis(place, len(results)), label=f"d{one['depth']}")
    if "compute_frontier" in laws:
        law = laws["compute_frontier"]
        ends = np.array([point["flops"] for point in laws["frontier"]]) / 1e15
        label = f"$({law['scale'] * 1e15:.3g}\\,C)^{{{law['exponent']:.3g}}}$"
        axes.loglog(ends, curve(law, 1e15 * ends), "k--", label=label)
        plot_published(axes, ends, curve(law, 1e15 * ends), PUBLISHED["compute"][name])
    axes.set_xlabel("training compute C, PFLOP")
    axes.legend(fontsize="x-small")


def curve(law: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Values of a power law."""
    return np.exp(law["log_factor"] + law["exponent"] * np.log(x))


def plot_published(axes: Any, x: np.ndarray, y: np.ndarray, exponent: float) -> None:
    """The paper's slope through the middle of our points, for its data, tokenizer and sizes are others."""
    middle = np.exp(np.log(x).mean()), np.exp(np.log(y).mean())
    label = f"the paper's exponent, {exponent:g}"
    axes.loglog(x, middle[1] * (x / middle[0]) ** exponent, color="tab:gray", linestyle=":", label=label)
