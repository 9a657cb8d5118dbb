"""`evaluate generation --sweep`: figures of generated images over guidance and top-p, or over truncation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextscale.catalogue import find_model
from nextscale.evaluation.config import GenerationEvaluation
from nextscale.evaluation.generation import evaluate_generation
from nextscale.families import family
from nextscale.plots import new_figure
from nextscale.progress import Announce, silent
from nextscale.runtime import Processes
from nextscale.sampling.next_scale import SamplingConfig

GUIDANCES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
TRUNCATIONS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""What is swept over where no values are named."""


Values = Sequence[float] | None


def swept_settings(
    config: GenerationEvaluation, guidances: Values, top_ps: Sequence[float], truncations: Values
) -> list[dict[str, Any]]:
    """The settings of each evaluation of a sweep, the model's dial first: truncation for models of one step.

    Raises ValueError for values of a dial that the model has not, and for those out of range.
    """
    for name, values in (("guidances", guidances), ("truncations", truncations)):
        if values is not None and not values:
            raise ValueError(f"{name} is empty; name the values to sweep over, such as 0,1,2,4, or leave it out")
    one_step = family(find_model(config.model).config().kind).truncates
    if one_step and (guidances or top_ps):
        raise ValueError(f"{config.model} is of one step, without guidance and top-p; sweep over --truncations")
    if truncations and not one_step:
        raise ValueError(f"truncations are for models of one step, which {config.model} is not; use --guidances")
    if one_step:
        settings: list[dict[str, Any]] = [{"truncation": float(value)} for value in truncations or TRUNCATIONS]
    else:
        settings = [
            {"guidance": guidance} | ({} if top_p is None else {"top_p": top_p})
            for top_p in top_ps or (config.top_p,)
            for guidance in guidances or GUIDANCES
        ]
    for one in settings:
        SamplingConfig(**one)  # refuse wrong values before the first image is drawn
    return settings


def sweep_generation(
    config: GenerationEvaluation,
    guidances: Values = None,
    top_ps: Sequence[float] = (),
    truncations: Values = None,
    *,
    processes: Processes = Processes(),  # noqa: B008
    progress: Announce = silent,
) -> dict[str, Any]:
    """One evaluation per guidance and top-p, or per truncation of a model of one step, each in a folder under OUT.

    The report holds what all share, their means as `points`, the setting along them as `dial`, and the point with the
    smallest Frechet distance as `best`; it is empty on all but the main process. Raises ValueError.
    """
    if config.images:
        raise ValueError("a sweep draws a model's images; leave --images out")
    if config.npz:
        raise ValueError("a sweep has many sets of images; --npz packs those of a single evaluation")
    config = replace(config.settled(), protocol="")
    settings = swept_settings(config, guidances, top_ps, truncations)
    dial = next(iter(settings[0]))
    shown = (dial,) if dial == "truncation" else (dial, "top_p")
    points: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    for one in settings:
        name = "-".join(f"{setting.replace('_', '-')}-{value:g}" for setting, value in one.items())
        chosen = replace(config, **one, out=str(Path(config.out) / name))
        report = evaluate_generation(chosen, processes=processes, progress=progress)
        if report:
            point = {setting: report["of"]["sampling"][setting] for setting in shown}
            points.append(point | report["mean"] | {"deviation": report["deviation"]})
    if not report:
        return {}
    shared = {name: report[name] for name in ("of", "count", "features", "reference", "classes", "floor")}
    shared["of"]["sampling"] = {k: v for k, v in shared["of"]["sampling"].items() if k not in shown}
    return shared | {"dial": dial, "points": points, "best": min(points, key=lambda point: point["frechet"])}


def plot_sweep(report: dict[str, Any], path: Path) -> None:
    """Frechet distance and class accuracy over the dial, and precision over recall; a line per top-p."""
    points, floor, dial = report["points"], report["floor"] or {}, report["dial"]
    panels = (
        ("Frechet distance", dial, "frechet"),
        ("class accuracy", dial, "class_accuracy"),
        (f"precision against recall, {dial} rising along the line", "recall", "precision"),
    )
    with new_figure(path, 11, 3.6) as figure:
        found = figure.subplots(1, 3)
        for axes, (title, across, up) in zip(found, panels, strict=True):
            for top_p in dict.fromkeys(point.get("top_p") for point in points):
                shown = [point for point in points if point.get("top_p") == top_p and across in point and up in point]
                label = dial if top_p is None else f"top-p {top_p:g}" if top_p else "top-p off"
                axes.plot([point[across] for point in shown], [point[up] for point in shown], marker="o", label=label)
            axes.set_title(title, fontsize="small")
            axes.set_xlabel(across)
            if across == dial and floor.get(up) is not None:
                axes.axhline(floor[up], color="tab:gray", linestyle="--", label="real against real")
        found[0].legend(fontsize="small")
