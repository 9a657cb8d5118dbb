"""The last phase of Neon: extrapolated models, their figures, and the best of them."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nextscale.catalogue import StoredModel, find_model
from nextscale.checkpoint import ModelConfig, load_transformer, module_from_state, save_model
from nextscale.config import read_json, to_dict
from nextscale.evaluation.config import GenerationEvaluation
from nextscale.evaluation.sweep import sweep_generation
from nextscale.families import family_of
from nextscale.files import write_json
from nextscale.plots import can_plot, new_figure, viridis
from nextscale.progress import Announce
from nextscale.training.neon_config import NeonTraining

logger = logging.getLogger("nextscale.training")

SHARED = ("count", "features", "reference", "classes", "floor")
"""What the figures of all points have in common."""


def snapshot_folder(config: NeonTraining, steps: int) -> Path:
    """Folder of the copy that was tuned for so many steps."""
    return Path(config.out) / "tuning" / "snapshots" / f"{steps:08d}"


def evaluation_of(config: NeonTraining, model: str, out: str) -> GenerationEvaluation:
    """How the images of a model are measured."""
    names = ("data", "seed", "features", "feature_weights", "precision", "device", "label_column", "image_column")
    same: dict[str, Any] = {name: getattr(config, name) for name in names}
    return GenerationEvaluation(model=model, out=out, count=config.tuning_count, batch_size=config.at_once, **same)


@torch.no_grad()
def extrapolated(base: nn.Module, tuned: nn.Module, weight: float) -> dict[str, Tensor]:
    """The state (1 + w) base - w tuned: every parameter in float32 (Neon, arXiv 2510.03597, algorithm 1).

    Buffers stay the base's, and so does a parameter that is not finite in either.
    """
    state = dict(base.state_dict())
    if weight == 0:
        return state  # not even the sign of a zero changes
    away = dict(tuned.named_parameters(remove_duplicate=False))
    for name, parameter in base.named_parameters(remove_duplicate=False):
        ours, theirs = parameter.float(), away[name].float()
        merged = ours + weight * (ours - theirs)
        if parameter.is_floating_point() and bool(merged.isfinite().all()):
            state[name] = merged
    return state


def choose(config: NeonTraining, progress: Announce) -> dict[str, Any]:
    """Measure all candidates, export the one with the smallest Frechet distance; returns what neon.json holds."""
    out, stored = Path(config.out), find_model(config.model)
    about = stored.config()
    guidances = config.tried_guidances(about.guidance)
    candidates = [(weight, steps) for steps in config.tuned_steps for weight in config.tried_weights() if weight]
    table: list[dict[str, Any]] = []
    report: dict[str, Any] = {}
    for weight, steps in [(0.0, 0), *candidates]:
        report = measured(config, stored, weight, steps, guidances, progress)
        table += [{"weight": weight, "steps": steps, **point} for point in report["points"]]
        lowest = report["best"]
        place = f"{len(table)} of {len(guidances) * (1 + len(candidates))}"
        words = f"w {weight:g}, {steps} steps: {lowest['frechet']:.2f} at guidance {lowest['guidance']:g} ({place})"
        logger.info(words)
    found = {
        "model": config.model,
        "sampling": {name: value for name, value in to_dict(about).items() if name in about.sampling()},
        "samples": config.samples,
        "seed": config.seed,
        **{name: report[name] for name in SHARED},
        **chosen(table, about.guidance),
        "table": table,
    }
    write_json(out / "neon.json", found)
    if can_plot():
        plot_table(found, out / "neon.png")
    best = found["best"]
    write_merged(out / "model", stored, config, best["weight"], best["steps"], guidance=best["guidance"])
    return found


def chosen(table: Sequence[Mapping[str, Any]], guidance: float) -> dict[str, Any]:
    """Of all points the best, the best of the model itself, and the model itself with its own guidance.

    Of equal ones the first is best: the model itself where it is one of them.
    """
    unchanged = [point for point in table if point["weight"] == 0]
    return {
        "best": min(table, key=lambda point: point["frechet"]),
        "best_unchanged": min(unchanged, key=lambda point: point["frechet"]),
        "unchanged": next(point for point in unchanged if point["guidance"] == guidance),
    }


def measured(
    config: NeonTraining,
    stored: StoredModel,
    weight: float,
    steps: int,
    guidances: Sequence[float],
    progress: Announce,
) -> dict[str, Any]:
    """The sweep over guidance of one candidate, read where it was made before."""
    folder = Path(config.out) / "choosing" / (f"w-{weight}-steps-{steps}" if weight else "unchanged")
    report = folder / "report.json"
    if not report.is_file():
        candidate = folder / "model"
        write_merged(candidate, stored, config, weight, steps)
        found = sweep_generation(evaluation_of(config, str(candidate), str(folder)), guidances, (), progress=progress)
        found["points"] = [{k: v for k, v in point.items() if k != "deviation"} for point in found["points"]]
        write_json(report, found)
    for part in (folder / "model", *folder.glob("*/features")):  # large, and of no use once the figures are known
        shutil.rmtree(part, ignore_errors=True)
    return read_json(report)


def write_merged(
    folder: Path,
    stored: StoredModel,
    config: NeonTraining,
    weight: float,
    steps: int,
    *,
    guidance: float | None = None,
) -> None:
    """Write a candidate as an ordinary model, with another default guidance where one is given."""
    base, about = stored.transformer(), stored.config()
    tuned = load_transformer(snapshot_folder(config, steps)) if weight else base
    family = family_of(base.config)
    model = module_from_state(family.network, base.config, extrapolated(base, tuned, weight))
    about: ModelConfig = about if guidance is None else replace(about, guidance=guidance)
    save_model(folder, about, tokenizer=stored.tokenizer(), transformer=model, dtype=torch.float32)


def plot_table(report: Mapping[str, Any], path: Path) -> None:
    """Frechet distance over w: a panel per length, a line per guidance, and the floor."""
    table, floor = report["table"], report["floor"] or {}
    lengths = sorted({point["steps"] for point in table if point["weight"]}) or [0]
    guidances = sorted({point["guidance"] for point in table})
    with new_figure(path, 1 + 3.4 * len(lengths), 3.6) as figure:
        panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
        for axes, steps in zip(panels, lengths, strict=True):
            for place, guidance in enumerate(guidances):
                line = [p for p in table if p["guidance"] == guidance and p["steps"] in (0, steps)]
                colour, label = viridis(place, len(guidances)), f"guidance {guidance:g}"
                across, up = [p["weight"] for p in line], [p["frechet"] for p in line]
                axes.plot(across, up, marker="o", color=colour, label=label)
            if floor.get("frechet") is not None:
                axes.axhline(floor["frechet"], color="tab:gray", linestyle="--", label="real against real")
            axes.set_title(f"{steps} steps of tuning", fontsize="small")
            axes.set_xlabel("w")
        panels[0].set_ylabel("Frechet distance")
        panels[-1].legend(fontsize="small")
