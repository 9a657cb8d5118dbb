"""`nextscale compare`: models of several kinds side by side."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.bench.config import REPORT, ModelComparison
from nextscale.cli.evaluate import write_report
from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.cli.outputs import at_work
from nextscale.cli.tables import FIGURES, figure_text, show_table
from nextscale.config import read_json


@dataclass(frozen=True, kw_only=True)
class CompareCommand(ModelComparison):
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
        if not set(report) >= REPORT:
            raise ValueError(f"{options.report}: holds no report of `nextscale compare`")
        show_comparison(report)
        return
    from nextscale.bench.model_comparison import compare_models, plot_comparison
    from nextscale.plots import can_plot
    from nextscale.training.parallel import launched

    processes = launched()
    with at_work(shown=processes.is_main) as progress:
        report = compare_models(models, options, processes=processes, progress=progress)
    if not processes.is_main:
        return
    write_report(report, options.out, options.json)
    if can_plot():
        plot_comparison(report, Path(options.out) / "compare.png")
    show_comparison(report)


def show_comparison(report: dict[str, Any]) -> None:
    """Quality, cost, and the published figures, as three tables."""
    show_quality(report)
    show_cost(report["models"])
    show_published(report["published"])


def show_quality(report: dict[str, Any]) -> None:
    """Figures of each model, with their deviations over sets, below those of real images."""
    models, floor = report["models"], report["floor"] or {}
    names = [name for name in FIGURES if any(name in row["mean"] for row in models)]
    rows = [("real against real", *(figure_text(name, floor.get(name)) for name in names))]
    for row in models:
        mean, deviation = row["mean"], row["deviation"]
        rows.append((row["title"], *(figure_text(name, mean.get(name), deviation.get(name)) for name in names)))
    title = f"{report['sets']} sets of {report['count']} images, {report['features']['name']} features"
    show_table(title, ("model", *(FIGURES[name] for name in names)), rows)


def show_cost(models: list[dict[str, Any]]) -> None:
    """Size, steps, FLOPs and times of each model."""
    batches = list(models[0]["seconds_per_image"])
    columns = ["model", "parameters", "tokens", "bits", "guidance", "steps", "GFLOP per image"]
    columns += [*(f"s per image, batch {batch}" for batch in batches), "training PFLOP"]
    rows = []
    for row in models:
        cells = [row["title"], f"{row['parameters'] / 1e6:.2f}M", str(row["tokens"])]
        cells += ["" if row["bits"] is None else f"{row['bits']:.0f}", f"{row['sampling']['guidance']:g}"]
        cells += [str(row["steps"]), f"{row['flops_per_image'] / 1e9:.3g}"]
        cells += [f"{row['seconds_per_image'][batch]:.3g}" for batch in batches]
        cells += ["" if row["training_flops"] is None else f"{row['training_flops'] / 1e15:.3g}"]
        rows.append(cells)
    show_table("cost", columns, rows)


def show_published(published: list[dict[str, Any]]) -> None:
    """Published figures, which nothing here is compared with."""
    names = ("frechet", "inception_score", "precision", "recall", "parameters", "steps", "time")
    rows = [(row["model"], *("" if row[name] is None else str(row[name]) for name in names)) for row in published]
    title = "published, ImageNet 256 x 256: other data, other sizes, not measured here"
    show_table(title, ("model", "FID", "IS", "precision", "recall", "parameters", "steps", "relative time"), rows)
