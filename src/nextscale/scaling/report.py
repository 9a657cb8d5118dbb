"""`nextscale scaling fit`: every law of a family of results, and how well it predicts the largest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nextscale.config import read_json
from nextscale.scaling.fits import fit_floored_law, fit_power_law, frontier

FIGURES = ("loss", "loss_last", "error", "error_last")
PUBLISHED = {
    "parameters": {"loss": (2.5, -0.20), "loss_last": (2.0, -0.23), "error": (650, -0.010),
                   "error_last": (490, -0.016)},
    "compute": {"loss": (1.5e-5, -0.16), "loss_last": (2.2e-5, -0.13), "error": (0.044, -0.011),
                "error_last": (0.081, -0.0067)},
}  # fmt: skip
"""The paper's (a, b) of (a x)^b: parameters in billions, compute in PFLOP; its losses are what is above a floor."""


def read_results(files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Results from files, or from all of a folder, ordered by kind and depth. Raises ValueError."""
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
    """All laws of one kind: against parameters, with a floor, against compute, and a forecast of the largest.

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
            said, was = law(sizes[-1]), values[-1]
            laws["forecast"] = {
                "depth": results[-1]["depth"], "predicted": said, "measured": was, "relative_error": said / was - 1,
            }  # fmt: skip
        report[name] = laws
    return report


def predict_depth(results: Sequence[dict[str, Any]], depth: int) -> dict[str, dict[str, float]]:
    """What the laws say of another depth, without and with a floor."""
    from nextscale.scaling.runs import UNIT

    sizes, size = [one["parameters"] for one in results], UNIT * depth**3
    said = {}
    for name in FIGURES:
        values = [one[name] for one in results]
        said[name] = {
            "power_law": fit_power_law(sizes, values)(size), "above_floor": fit_floored_law(sizes, values)(size),
        }  # fmt: skip
    return said
