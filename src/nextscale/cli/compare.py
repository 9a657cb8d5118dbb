"""`nextscale compare`: models of several kinds side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.cli.evaluate import NAMES, keep, number, table
from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.config import read_json
from nextscale.evaluation.config import RivalsEvaluation


@dataclass(frozen=True, kw_only=True)
class CompareCommand(RivalsEvaluation):
    """Settings, and places for the report."""

    report: str = ""
    "Show the report in this JSON file instead of making one."
    json: str = ""
    "File for the report besides OUT/report.json."


@accepts(CompareCommand, first=("data", "out", "count", "sets", "seed", "guidances", "features"))
def compare(*models: str, config: ConfigFile = "", given: Any = None) -> None:
    """Compare models in quality, steps, FLOPs and time.

    Parameters
    ----------
    models
        Run or model folders.
    """
    options = settle(CompareCommand, given, file=config)
    if options.report:
        report = read_json(Path(options.report))
        if not {"models", "published", "floor", "sets", "count", "features"} <= set(report):
            raise ValueError(f"{options.report}: holds no report of `nextscale compare`")
        show(report)
        return
    from nextscale.evaluation.plots import can_plot, plot_rivals
    from nextscale.evaluation.rivals import compare_models
    from nextscale.progress import Stages
    from nextscale.runtime import retain_freed_memory
    from nextscale.training.parallel import launched, wait_for_all

    retain_freed_memory()
    processes = launched()
    with Stages(enabled=processes.is_main) as stages:
        report = compare_models(models, options, processes=processes, wait=wait_for_all, progress=stages.start)
    if not processes.is_main:
        return
    keep(report, options.out, options.json)
    if can_plot():
        plot_rivals(report, Path(options.out) / "compare.png")
    show(report)


def show(report: dict[str, Any]) -> None:
    """Quality, cost, and the published figures, as three tables."""
    models, floor = report["models"], report["floor"] or {}
    names = [name for name in NAMES if any(name in row["mean"] for row in models)]
    rows = [
        ("real against real", *(number(name, floor[name]) if floor.get(name) is not None else "" for name in names))
    ]
    for row in models:
        figures = (figure(name, row["mean"].get(name), row["deviation"].get(name)) for name in names)
        rows.append((row["title"], *figures))
    title = f"{report['sets']} sets of {report['count']} images, {report['features']['name']} features"
    table(title, ("model", *(NAMES[name] for name in names)), rows)
    batches = list(models[0]["seconds_per_image"])
    rows = [
        (
            row["title"], f"{row['parameters'] / 1e6:.2f}M", str(row["tokens"]),
            "" if row["bits"] is None else f"{row['bits']:.0f}", f"{row['sampling']['guidance']:g}", str(row["steps"]),
            f"{row['flops_per_image'] / 1e9:.3g}", *(f"{row['seconds_per_image'][batch]:.3g}" for batch in batches),
            "" if row["training_flops"] is None else f"{row['training_flops'] / 1e15:.3g}",
        )
        for row in models
    ]  # fmt: skip
    seconds = tuple(f"s per image, batch {batch}" for batch in batches)
    columns = (
        "model",
        "parameters",
        "tokens",
        "bits",
        "guidance",
        "steps",
        "GFLOP per image",
        *seconds,
        "training PFLOP",
    )
    table("cost", columns, rows)
    columns = ("frechet", "inception_score", "precision", "recall", "parameters", "steps", "time")
    rows = [
        (row["model"], *("" if row[name] is None else str(row[name]) for name in columns))
        for row in report["published"]
    ]
    title = "published, ImageNet 256 x 256: other data, other sizes, not measured here"
    table(title, ("model", "FID", "IS", "precision", "recall", "parameters", "steps", "relative time"), rows)


def figure(name: str, mean: float | None, deviation: float | None) -> str:
    """A mean with its deviation over sets, as far as they are known."""
    if mean is None:
        return ""
    return number(name, mean) + (f" ± {number(name, deviation)}" if deviation is not None else "")
