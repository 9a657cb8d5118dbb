"""`nextscale evaluate`: figures as tables, JSON and pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nextscale.cli.options import ConfigFile, accepts, settle
from nextscale.cli.outputs import at_work, write_results
from nextscale.cli.tables import FIGURES, figure_text, show_table
from nextscale.errors import require
from nextscale.evaluation.config import (
    GenerationEvaluation,
    LikelihoodEvaluation,
    ReconstructionEvaluation,
    TextEvaluation,
)
from nextscale.files import write_json

MAIN = ("data", "model", "images", "out", "count", "sets", "seed", "features")
"""Settings that the help of every evaluation shows first, where it has them."""


@dataclass(frozen=True, kw_only=True)
class GenerationCommand(GenerationEvaluation):
    """Settings, and a place for the report."""

    sweep: bool = False
    "Evaluate every guidance (and top-p), or truncation of a model of one step, and draw curves, OUT/sweep.png."
    guidances: tuple[float, ...] | None = None
    "Guidances of the sweep [default: 0,0.5,1,1.5,2,3,4]"
    top_ps: tuple[float, ...] = ()
    "Values of top-p of the sweep [default: the one in force]"
    truncations: tuple[float, ...] | None = None
    "Truncations of the sweep of a model of one step [default: 0.3,0.5,0.6,0.7,0.8,0.9,1]"
    json: str = ""
    "File for the report besides OUT/report.json."


@accepts(GenerationCommand, first=MAIN)
def generation(*, config: ConfigFile = "", given: Any = None) -> None:
    """Measure generated images, or any others, against real ones."""
    options = settle(GenerationCommand, given, file=config)
    from nextscale.evaluation.generation import evaluate_generation
    from nextscale.evaluation.sweep import plot_sweep, sweep_generation
    from nextscale.plots import require_plots
    from nextscale.training.parallel import launched

    plot = Path(options.out) / "sweep.png"
    if options.sweep:
        require_plots(str(plot))
    processes = launched()
    with at_work(shown=processes.is_main) as progress:
        engine = {"processes": processes, "progress": progress}
        if options.sweep:
            report = sweep_generation(options, options.guidances, options.top_ps, options.truncations, **engine)
        else:
            report = evaluate_generation(options, **engine)
    if not processes.is_main:
        return
    if options.sweep:
        plot_sweep(report, plot)
        show_sweep(report)
    else:
        show_generation(report)
    write_report(report, options.out, options.json)


@dataclass(frozen=True, kw_only=True)
class ReconstructionCommand(ReconstructionEvaluation):
    """Settings, and a place for the report."""

    json: str = ""
    "File for the report besides OUT/report.json."


@accepts(ReconstructionCommand, first=MAIN)
def reconstruction(*, config: ConfigFile = "", given: Any = None) -> None:
    """Measure what a tokenizer keeps of images."""
    options = settle(ReconstructionCommand, given, file=config)
    require("SSIM", "torchmetrics")
    from nextscale.evaluation.reconstruction import evaluate_reconstruction, plot_reconstruction
    from nextscale.pictures import grid, save_image, to_images
    from nextscale.plots import can_plot

    with at_work() as progress:
        report, strips = evaluate_reconstruction(options, progress=progress)
    save_image(grid(to_images(strips.flatten(0, 1)), columns=strips.shape[1]), Path(options.out) / "strips.png")
    if can_plot():
        plot_reconstruction(report, Path(options.out) / "scales.png")
    show_reconstruction(report)
    write_report(report, options.out, options.json)


@dataclass(frozen=True, kw_only=True)
class LikelihoodCommand(LikelihoodEvaluation):
    """Settings, and a place for the report."""

    out: str = "out/evaluation-likelihood"
    "Folder for report.json."
    json: str = ""
    "File for the report besides OUT/report.json."


@accepts(LikelihoodCommand, first=MAIN)
def likelihood(*, config: ConfigFile = "", given: Any = None) -> None:
    """Measure how well a transformer predicts the tokens of held-out images."""
    options = settle(LikelihoodCommand, given, file=config)
    from nextscale.evaluation.likelihood import evaluate_likelihood

    with at_work() as progress:
        report = evaluate_likelihood(options, progress=progress)
    show_likelihood(report)
    write_report(report, options.out, options.json)


@dataclass(frozen=True, kw_only=True)
class TextCommand(TextEvaluation):
    """Settings, and a place for the report."""

    json: str = ""
    "File for the report besides OUT/report.json."


@accepts(TextCommand, first=(*MAIN, "others", "questions"))
def text(*, config: ConfigFile = "", given: Any = None) -> None:
    """Measure whether images drawn of prompts are recognised among real images with captions."""
    options = settle(TextCommand, given, file=config)
    from nextscale.evaluation.text import evaluate_text

    with at_work() as progress:
        report = evaluate_text(options, progress=progress)
    show_text(report)
    write_report(report, options.out, options.json)


def write_report(report: dict[str, Any], out: str, file: str) -> None:
    """Write the report to OUT/report.json and to the file asked for. Raises ValueError where a figure is not finite."""
    try:
        json.dumps(report, allow_nan=False)
    except ValueError as error:
        raise ValueError(f"the report is not written: one of its figures is not finite ({error})") from error
    write_json(Path(out) / "report.json", report)
    write_results(file, report)


def show_generation(report: dict[str, Any]) -> None:
    """The report as a table: the floor beside the figures."""
    features, reference = report["features"], report["reference"]
    what = report["of"].get("model") or report["of"]["images"]
    sets = f"{len(report['sets'])} sets of " if len(report["sets"]) > 1 else ""
    floor = report["floor"] or {}
    rows = []
    for name, label in FIGURES.items():
        if name in report["mean"]:
            values = floor.get(name), report["mean"][name], report["deviation"][name]
            rows.append((label, *(figure_text(name, value) for value in values)))
    title = f"{what}: {sets}{report['count']} images, {features['name']} features ({features['size']})"
    show_table(title, ("figure", "real against real", "measured", "deviation over sets"), rows)
    if floor:
        print(f"real against real: {floor['count']} images on each side")
    if by := report["classes"]:
        print(f"class accuracy: {by['images']} images of {by['compared']} classes, chance {by['chance']:.2%}")
    count = f"{reference['count']} images of" if reference["count"] else "statistics in"
    print(f"reference: {count} {reference['data']}")


def show_sweep(report: dict[str, Any]) -> None:
    """A row per point: its dial, its top-p where it has one, its figures."""
    names = [name for name in FIGURES if name in report["points"][0]]
    floor = report["floor"] or {}
    dials = [name for name in (report["dial"], "top_p") if name in report["points"][0]]
    blank = [""] * (len(dials) - 1)
    rows: list[tuple[str, ...]] = [
        ("real against real", *blank, *(figure_text(name, floor.get(name)) for name in names))
    ]
    for point in report["points"]:
        settings = (f"{point[dial]:g}" for dial in dials)
        rows.append((*settings, *(figure_text(name, point[name]) for name in names)))
    titles = [dial.replace("_", "-") for dial in dials]
    title = f"{report['of']['model']}: {report['count']} images each, {report['features']['name']} features"
    show_table(title, (*titles, *(FIGURES[name] for name in names)), rows)
    best = ", ".join(f"{name} {report['best'][dial]:g}" for name, dial in zip(titles, dials, strict=True))
    print(f"smallest Frechet distance: {best}")


def show_reconstruction(report: dict[str, Any]) -> None:
    """Figures per scale, then those of all scales together."""
    book = report["codebook"]
    rows = [
        ("x".join(map(str, size)), f"{after:.2f}", f"{used:.1%}", f"{perplexity:.0f}")
        for size, after, used, perplexity in zip(
            report["scales"], report["psnr_after_scale"], book["used_per_scale"], book["perplexity"], strict=True
        )
    ]
    title = f"{report['model']}: {report['count']} images of {report['data']}"
    show_table(title, ("scale", "PSNR after it, dB", f"share of {report['codes']} codes used", "perplexity"), rows)
    print(f"{reconstruction_line(report)}, codes used at any scale {book['used']:.1%}")
    if "features" in report:
        line = f"Frechet distance ({report['features']['name']}) to the originals {report['frechet_to_originals']:.2f}"
        if "floor" in report:
            others, floor = report["to_others"]["frechet"], report["floor"]["frechet"]
            line += f"; to other images {others:.2f}, where real ones have {floor:.2f}"
        print(line)
    if disturbed := report.get("disturbed"):
        line = f"{disturbed['share']:.0%} of the codes replaced by near ones: {reconstruction_line(disturbed)}"
        if "features" in report:
            line += f", Frechet distance to the originals {disturbed['frechet_to_originals']:.2f}"
        print(line)


def reconstruction_line(figures: dict[str, Any]) -> str:
    """How close reconstructions are to their originals, image by image."""
    line = f"PSNR {figures['psnr']:.2f} dB, SSIM {figures['ssim']:.4f}"
    if figures["perceptual"]:
        line += f", {figures['perceptual']['name']} distance {figures['perceptual']['distance']:.4f}"
    return line


def show_likelihood(report: dict[str, Any]) -> None:
    """Loss and accuracy with class and without."""
    found = [name for name in ("with_class", "without_class") if name in report]
    forms = {"nats_per_token": "{:.4f}", "accuracy": "{:.2%}", "bits_per_pixel": "{:.4f}"}
    labels = ("nats per token", "token accuracy", "bits per pixel")
    rows = [
        (label, *(form.format(report[one][name]) for one in found))
        for label, (name, form) in zip(labels, forms.items(), strict=True)
    ]
    for place, size in enumerate(report["scales"]):
        scale = "x".join(map(str, size))
        parts = [
            (report[one]["nats_per_token_by_scale"][place], report[one]["accuracy_by_scale"][place]) for one in found
        ]
        rows.append((f"scale {scale}: nats, accuracy", *(f"{loss:.4f}, {right:.2%}" for loss, right in parts)))
    title = f"{report['model']}: {report['count']} images of {report['data']}"
    show_table(title, ("figure", *(name.replace("_", " ") for name in found)), rows)
    if by := report.get("classification"):
        line = f"classes told by likelihood: {by['accuracy']:.2%} of {by['count']} images (chance {by['chance']:.2%}"
        if "nearest_class_mean" in by:
            nearest, chance = by["nearest_class_mean"], by["nearest_chance"]
            line += f"; nearest class mean in {by['features']} {nearest:.2%}, chance {chance:.2%}"
        print(line + ")")


def show_text(report: dict[str, Any]) -> None:
    """A row per guidance, and what the tokenizer's reconstructions and another prompt's images reach."""

    def row(label: str, found: dict[str, float]) -> tuple[str, ...]:
        first = f"{found['first']:.1%} ± {found['first_error']:.1%}"
        return label, first, f"{found['first_five']:.1%}", f"{found['median_rank']:g}"

    rows = [row("the right image, reconstructed", report["reconstructed"])]
    for point in report["points"]:
        rows.append(row(f"drawn, guidance {point['guidance']:g}", point["drawn"]))
        rows.append(row("the same, prompts shuffled", point["shuffled"]))
    title = f"{report['model']}: {report['count']} prompts, {report['samples']} images each"
    show_table(title, ("features of", "right one first", "among five", "median rank"), rows)
    print(f"chance: {report['chance']:.2%}; {report['images']} real images, {report['features']['name']} features")
