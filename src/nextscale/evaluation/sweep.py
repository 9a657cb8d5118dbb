"""`evaluate generation --sweep`: figures of generated images over guidance and top-p."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextscale.evaluation.config import GenerationEvaluation
from nextscale.evaluation.generation import evaluate_generation
from nextscale.plots import new_figure
from nextscale.progress import Announce, silent
from nextscale.runtime import Processes
from nextscale.sampling.next_scale import SamplingConfig


def sweep_generation(
    config: GenerationEvaluation,
    guidances: Sequence[float],
    top_ps: Sequence[float],
    *,
    processes: Processes = Processes(),  # noqa: B008
    progress: Announce = silent,
) -> dict[str, Any]:
    """One evaluation per guidance and top-p (the config's if `top_ps` is empty), each in its own folder under OUT.

    The report holds what all share, their means as `points`, and the point with the smallest Frechet distance as
    `best`; it is empty on all but the main process. Raises ValueError.
    """
    if not guidances:
        raise ValueError("guidances is empty; name the values to sweep over, such as 0,1,2,4")
    if config.images:
        raise ValueError("a sweep draws a model's images; leave --images out")
    if config.npz:
        raise ValueError("a sweep has many sets of images; --npz packs those of a single evaluation")
    config = replace(config.settled(), protocol="")
    settings: list[dict[str, Any]] = [
        {"guidance": guidance} | ({} if top_p is None else {"top_p": top_p})
        for top_p in top_ps or (config.top_p,)
        for guidance in guidances
    ]
    for one in settings:
        SamplingConfig(**one)  # refuse wrong values before the first image is drawn
    points: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    for one in settings:
        name = "-".join(f"{setting.replace('_', '-')}-{value:g}" for setting, value in one.items())
        chosen = replace(config, **one, out=str(Path(config.out) / name))
        report = evaluate_generation(chosen, processes=processes, progress=progress)
        if report:
            sampling = report["of"]["sampling"]
            point = {"guidance": sampling["guidance"], "top_p": sampling["top_p"]}
            points.append(point | report["mean"] | {"deviation": report["deviation"]})
    if not report:
        return {}
    shared = {name: report[name] for name in ("of", "count", "features", "reference", "classes", "floor")}
    shared["of"]["sampling"] = {k: v for k, v in shared["of"]["sampling"].items() if k not in ("guidance", "top_p")}
    return shared | {"points": points, "best": min(points, key=lambda point: point["frechet"])}


def plot_sweep(report: dict[str, Any], path: Path) -> None:
    """Frechet distance and class accuracy over guidance, and precision over recall; a line per top-p."""
    points, floor = report["points"], report["floor"] or {}
    panels = (
        ("Frechet distance", "guidance", "frechet"),
        ("class accuracy", "guidance", "class_accuracy"),
        ("precision against recall, guidance rising along the line", "recall", "precision"),
    )
    with new_figure(path, 11, 3.6) as figure:
        found = figure.subplots(1, 3)
        for axes, (title, across, up) in zip(found, panels, strict=True):
            for top_p in dict.fromkeys(point["top_p"] for point in points):
                shown = [point for point in points if point["top_p"] == top_p and across in point and up in point]
                label = f"top-p {top_p:g}" if top_p else "top-p off"
                axes.plot([point[across] for point in shown], [point[up] for point in shown], marker="o", label=label)
            axes.set_title(title, fontsize="small")
            axes.set_xlabel(across)
            if across == "guidance" and floor.get(up) is not None:
                axes.axhline(floor[up], color="tab:gray", linestyle="--", label="real against real")
        found[0].legend(fontsize="small")
