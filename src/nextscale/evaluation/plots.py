"""Pictures of measurements, with matplotlib (extra `eval`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nextscale.errors import require
from nextscale.files import complete_file
from nextscale.pyramid import ScaleSchedule

logger = logging.getLogger("nextscale.evaluation")

if TYPE_CHECKING:
    from nextscale.evaluation.speed import GenerationSpeed

FORMATS = (".png", ".svg", ".pdf")


def require_plots(file: str) -> None:
    """Raises ValueError when the plot could not be drawn later."""
    if Path(file).suffix not in FORMATS:
        raise ValueError(f"--plot {file}: expected a file that ends in {', '.join(FORMATS)}")
    require("a plot", "matplotlib")


@lru_cache(maxsize=1)
def can_plot() -> bool:
    """Whether pictures besides the figures can be drawn; once a line says what is missing."""
    try:
        require("drawing the figures, which are all in the files,", "matplotlib")
    except ValueError as error:
        logger.info("no picture: %s", error)
        return False
    return True


def plot_codebook(schedule: ScaleSchedule, lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Usage and perplexity of every scale over the steps of a tokenizer run, from its metric lines."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    logged = [line for line in lines if "perplexity" in line]
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2)
    steps = [line["step"] for line in logged]
    for axes, name, title in zip(
        panels, ("used_per_scale", "perplexity"), ("share of codes used", "perplexity"), strict=True
    ):
        for scale, (height, width) in enumerate(schedule):
            shade = colormaps["viridis"](0.9 * scale / max(1, len(schedule) - 1))
            axes.plot(steps, [line[name][scale] for line in logged], color=shade, label=f"{height}x{width}")
        axes.set_xlabel("step")
        axes.set_title(title, fontsize="medium")
    panels[1].set_yscale("log")
    panels[1].legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=120)


def plot_speed(schedule: ScaleSchedule, speeds: Sequence[GenerationSpeed], path: Path) -> None:
    """Stacked bars: milliseconds per image of each stage, one bar per batch size."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    stages = [f"transformer {height}x{width}" for height, width in schedule] + ["sampling", "decoder"]
    shades = [colormaps["viridis"](0.15 + 0.75 * k / max(1, len(schedule) - 1)) for k in range(len(schedule))]
    figure = Figure(figsize=(1.6 * len(speeds) + 3.4, 4.5), layout="constrained")
    axes = figure.subplots()
    names, bottoms = [f"batch {speed.times.batch}" for speed in speeds], [0.0] * len(speeds)
    for place, (stage, shade) in enumerate(zip(stages, [*shades, "tab:orange", "tab:gray"], strict=True)):
        heights = [
            1000 * [*speed.times.transformer, sum(speed.times.sampling), speed.times.decode][place] / speed.times.batch
            for speed in speeds
        ]
        axes.bar(names, heights, bottom=bottoms, color=shade, label=stage, width=0.6)
        bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
    axes.set_ylabel("ms per image")
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(handles[::-1], labels[::-1], fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=150)


def plot_reconstruction(report: dict[str, Any], path: Path) -> None:
    """PSNR after each scale beside usage and perplexity of each scale's codes, of `evaluate reconstruction`."""
    from matplotlib.figure import Figure

    names = ["x".join(map(str, size)) for size in report["scales"]]
    book = report["codebook"]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, values, title in zip(
        panels,
        (report["psnr_after_scale"], book["used_per_scale"], book["perplexity"]),
        ("PSNR after the scale, dB", "share of codes used", "perplexity of the codes"),
        strict=True,
    ):
        axes.plot(range(len(names)), values, marker="o", color="tab:blue")
        axes.set_xticks(range(len(names)), names)
        axes.set_title(title, fontsize="medium")
        axes.tick_params(axis="x", rotation=45)
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=120)


def plot_sweep(report: dict[str, Any], path: Path) -> None:
    """Frechet distance, class accuracy, and precision against recall over guidance, a line per top-p."""
    from matplotlib.figure import Figure

    points = report["points"]
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    panels = figure.subplots(1, 3)
    for top_p in dict.fromkeys(point["top_p"] for point in points):
        line = [point for point in points if point["top_p"] == top_p]
        label = f"top-p {top_p:g}" if top_p else "top-p off"
        for axes, across, up in zip(
            panels, ("guidance", "guidance", "recall"), ("frechet", "class_accuracy", "precision"), strict=True
        ):
            shown = [point for point in line if across in point and up in point]
            axes.plot([point[across] for point in shown], [point[up] for point in shown], marker="o", label=label)
    floor = report["floor"] or {}
    for axes, title, across, up in zip(
        panels,
        ("Frechet distance", "class accuracy", "precision against recall, guidance rising along the line"),
        ("guidance", "guidance", "recall"),
        ("frechet", "class_accuracy", "precision"),
        strict=True,
    ):
        axes.set_title(title, fontsize="small")
        axes.set_xlabel(across)
        if across == "guidance" and floor.get(up) is not None:
            axes.axhline(floor[up], color="tab:gray", linestyle="--", label="real against real")
    panels[0].legend(fontsize="small")
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=120)


def plot_rivals(report: dict[str, Any], path: Path) -> None:
    """Frechet distance over seconds per image and over FLOPs per image, a point per model."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    figure = Figure(figsize=(10, 4), layout="constrained")
    panels = figure.subplots(1, 2)
    batch = next(iter(report["models"][0]["seconds_per_image"]))
    for row in report["models"]:
        across = (row["seconds_per_image"][batch], row["flops_per_image"] / 1e9)
        for axes, value in zip(panels, across, strict=True):
            axes.errorbar(
                value, row["mean"]["frechet"], row["deviation"]["frechet"] or 0, marker="o", label=row["title"]
            )
    for axes, name in zip(panels, (f"seconds per image, batch {batch}", "GFLOP per image"), strict=True):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(name)
        axes.set_ylabel("Frechet distance")
    panels[1].legend(fontsize="small")
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=120)


def plot_growth(growth: dict[str, Any], path: Path) -> None:
    """Steps, FLOPs and seconds over the grid's side n for next-scale and raster order."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    titles = {"steps": "steps", "flops": "FLOPs of an image", "seconds": "seconds of an image, batch 1"}
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for kind, label, colour in (("var", "next-scale", "tab:purple"), ("raster", "raster order", "tab:orange")):
            rows = growth[kind]["rows"]
            exponent = growth[kind]["exponents"][name]
            sides = [row["n"] for row in rows]
            axes.loglog(sides, [row[name] for row in rows], "o-", color=colour, label=f"{label}, n^{exponent:.2f}")
        axes.set_xticks(sides, [str(side) for side in sides])
        axes.minorticks_off()
        axes.set_xlabel("side n of the token grid")
        axes.set_title(title, fontsize="medium")
        axes.legend(fontsize="small")
    with complete_file(path) as partial:
        figure.savefig(partial, dpi=110)
