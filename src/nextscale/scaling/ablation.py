"""`nextscale scaling ablation`: from raster order to the full method, one change after another (paper, table 3).

All models have as many parameters in their blocks and see the same images.

    OUT/TRAINING-sSEED/          a run folder
    OUT/ROW-sSEED/               features and samples of a row
    OUT/ROW-sSEED.json           what it measured, written at its end
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from nextscale.config import from_dict, read_json
from nextscale.evaluation.config import GenerationEvaluation
from nextscale.evaluation.generation import evaluate_generation
from nextscale.families.config import family_presets
from nextscale.files import write_json
from nextscale.progress import Announce, silent
from nextscale.scaling.config import ROWS, Ablation, Row, require_same_settings
from nextscale.training.config import OptimiserConfig, TransformerTraining, training_settings
from nextscale.training.stage2 import train_transformer

logger = logging.getLogger("nextscale.scaling")


def training_of_row(config: Ablation, row: Row, seed: int) -> TransformerTraining:
    """The training of a row; rows that differ in sampling alone share one."""
    prefix = "raster_" if row.kind == "raster" else ""
    settings = {name: getattr(config, prefix + name) for name in ("data", "heldout", "tokenizer")}
    settings |= {name: getattr(config, name) for name in ("steps", "batch_size", "precision", "device", "compile")}
    settings |= {"model": family_presets(row.kind)[row.preset], "out": str(Path(config.out) / f"{row.preset}-s{seed}")}
    settings |= {"seed": seed, "sample_every": config.steps, "checkpoint_every": max(1, min(500, config.steps // 4))}
    optimiser = OptimiserConfig(learning_rate=config.learning_rate, ema=config.ema, final=0.02, flat=0.1)
    return from_dict(training_settings(row.kind), settings | {"optimiser": optimiser})


def run_ablation(config: Ablation, *, progress: Announce = silent) -> list[dict[str, Any]]:
    """Train and measure every row that is not done; returns the results. Raises ValueError."""
    results = []
    for seed in config.seeds:
        for row in (row for row in ROWS if row.name in config.rows):
            path = Path(config.out) / f"{row.name}-s{seed}.json"
            training = training_of_row(config, row, seed)
            if path.is_file():
                results.append(read_result(path, config))
                logger.info("%s is done", path.stem)
                continue
            train_transformer(training, resume=True)
            results.append(result_of_row(config, row, seed, training, progress))
            write_json(path, results[-1])
    return results


def read_result(path: Path, config: Ablation) -> dict[str, Any]:
    """A result that exists. Raises ValueError where it was made with other settings."""
    result = read_json(path)
    require_same_settings(path, result.get("settings", {}), shared_settings(config))
    return result


def shared_settings(config: Ablation) -> dict[str, Any]:
    """The settings that all results of a folder share."""
    names = ("steps", "batch_size", "learning_rate", "ema", "top_k", "top_p", "guidance", "count", "features")
    return {name: getattr(config, name) for name in names}


def result_of_row(
    config: Ablation, row: Row, seed: int, training: TransformerTraining, progress: Announce
) -> dict[str, Any]:
    """Figures of one row and seed."""
    guidance = config.guidance if row.guided else 0.0
    top_k, top_p = (config.top_k, config.top_p) if row.filtered else (0, 0.0)
    sampling = {"guidance": guidance, "top_k": top_k, "top_p": top_p}
    same = ("count", "features", "feature_weights", "precision", "device")
    settings = {name: getattr(config, name) for name in same} | sampling
    out = str(Path(config.out) / f"{row.name}-s{seed}")
    evaluation = GenerationEvaluation(data=config.images, model=training.out, out=out, **settings)
    report = evaluate_generation(evaluation, progress=progress)
    about = {"row": row.name, "seed": seed, "preset": row.preset, "kind": row.kind, **sampling}
    about |= {"images_seen": training.steps * training.batch_size, "count": config.count, "features": config.features}
    return about | {"floor": report["floor"], "figures": report["mean"], "settings": shared_settings(config)}


def summarise(results: Sequence[dict[str, Any]], *, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Per row, the mean of each figure over seeds and, where there are several, the half-width of its t interval."""
    from scipy import stats

    table = []
    for row in ROWS:
        mine = [result["figures"] for result in results if result["row"] == row.name]
        if not mine:
            continue
        factor = float(stats.t.ppf((1 + confidence) / 2, len(mine) - 1)) / len(mine) ** 0.5 if len(mine) > 1 else None
        names = [name for name in mine[0] if all(name in figures for figures in mine)]
        values = {name: [figures[name] for figures in mine] for name in names}
        mean = {name: fmean(values[name]) for name in names}
        half_width = {name: factor * stdev(values[name]) for name in names} if factor else {}
        table.append({**asdict(row), "seeds": len(mine), "mean": mean, "half_width": half_width})
    return table


def read_ablation(files: Sequence[str | Path]) -> list[dict[str, Any]]:
    """Results of ablations in those of the JSON files that hold any. Raises ValueError for damaged ones."""
    results = [one for file in files if Path(file).is_file() for one in read_json(Path(file)).get("ablation", [])]
    names = {row.name for row in ROWS}
    for one in results:
        if not isinstance(one, dict) or not {"row", "seed", "figures"} <= set(one) or one["row"] not in names:
            raise ValueError(f"{', '.join(map(str, files))}: holds no results of `nextscale scaling ablation`")
    return results
