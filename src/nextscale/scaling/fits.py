"""Power laws of losses: fits, intervals, predictions, and the frontier of several curves. Pure functions.

A law is y = (a x)^b, as the paper writes it (section 5, eq. 7 and 8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
    """y = floor + (scale x)^exponent: what no size removes, and the rest."""

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

    require_points(x, y)
    line = stats.linregress(np.log(x), np.log(y))
    exponent, intercept = float(line.slope), float(line.intercept)  # pyright: ignore[reportAttributeAccessIssue]
    error, r = float(line.stderr), float(line.rvalue)  # pyright: ignore[reportAttributeAccessIssue]
    width = float(stats.t.ppf((1 + confidence) / 2, len(x) - 2)) * error
    scale = math.exp(max(-700.0, min(700.0, intercept / exponent))) if exponent else 1.0
    return PowerLaw(scale, exponent, intercept, r, (exponent - width, exponent + width), len(x))


def fit_floored_law(x: Sequence[float], y: Sequence[float]) -> FlooredLaw:
    """The floor from 0 to the smallest y under which the rest is closest to a power law, by least squares of log y.

    Raises ValueError as `fit_power_law`.
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
    found = minimize_scalar(misfit, bounds=(low, high), method="bounded", options={"xatol": 1e-9 * least})
    floor = float(found.x)  # pyright: ignore[reportAttributeAccessIssue]
    law = fit_power_law(x, [value - floor for value in y])
    return FlooredLaw(law.scale, law.exponent, law.log_factor, floor, len(x))


def require_points(x: Sequence[float], y: Sequence[float]) -> None:
    """Raises ValueError unless a power law can be fitted."""
    if len(x) != len(y) or len(x) < 3:
        raise ValueError(f"a power law needs at least three points, got {len(x)} and {len(y)} values")
    if min(*x, *y) <= 0 or not np.isfinite([*x, *y]).all():
        raise ValueError("a power law is of numbers above 0")


def frontier(x: Sequence[float], y: Sequence[float]) -> list[int]:
    """Places of the points that no other beats: less x always costs more y, in the order of x."""
    best, kept = math.inf, []
    for place in sorted(range(len(x)), key=lambda i: (x[i], y[i])):
        if y[place] < best:
            best = y[place]
            kept.append(place)
    return kept
