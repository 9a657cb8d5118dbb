"""Figures of generated images over guidance and top-p."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nextscale.evaluation.generation import GenerationEvaluation, evaluate_generation
from nextscale.progress import Announce, silent
from nextscale.runtime import Processes
from nextscale.sampling.next_scale import SamplingConfig


def sweep_generation(
    config: GenerationEvaluation,
    guidances: Sequence[float],
    top_ps: Sequence[float],
    *,
    processes: Processes = Processes(),  # noqa: B008
    wait: Callable[[], None] = lambda: None,
    progress: Announce = silent,
) -> dict[str, Any]:
    """One evaluation per guidance and top-p (none: the config's), each in a folder of its own under OUT.

    The report has what they share and their means as `points`, and which has the smallest Frechet distance; it is
    empty but on the main process. Raises ValueError.
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
        SamplingConfig(**one)  # complain before the first is drawn
    points: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    for one in settings:
        name = "-".join(f"{setting.replace('_', '-')}-{value:g}" for setting, value in one.items())
        chosen = replace(config, **one, out=str(Path(config.out) / name))
        report = evaluate_generation(chosen, processes=processes, wait=wait, progress=progress)
        if report:
            settled = report["of"]["sampling"]
            point = {"guidance": settled["guidance"], "top_p": settled["top_p"]}
            points.append(point | report["mean"] | {"deviation": report["deviation"]})
    if not report:
        return {}
    shared = {name: report[name] for name in ("of", "count", "features", "reference", "classes", "floor")}
    shared["of"]["sampling"] = {k: v for k, v in shared["of"]["sampling"].items() if k not in ("guidance", "top_p")}
    return shared | {"points": points, "best": min(points, key=lambda point: point["frechet"])}
