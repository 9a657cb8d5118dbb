"""`nextscale compare`: models of several kinds on the same data, in quality, steps, FLOPs and time.

Published figures of class-conditional ImageNet models are shown beside ours, never mixed with them; they are from the
paper (NeurIPS 2024, tables 1 to 3) and the authors' README.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from nextscale.bench.config import ModelComparison
from nextscale.bench.cost import sampled_flops, sampling_steps, training_flops
from nextscale.catalogue import find_model
from nextscale.classes import UNMATCHED, match_classes
from nextscale.config import read_json, with_settings
from nextscale.evaluation.config import GenerationEvaluation
from nextscale.evaluation.generation import evaluate_generation
from nextscale.evaluation.sweep import sweep_generation
from nextscale.families import family
from nextscale.files import write_json
from nextscale.pictures import grid, save_image
from nextscale.pipeline import VARPipeline
from nextscale.plots import new_figure
from nextscale.progress import Announce, silent
from nextscale.runtime import Processes
from nextscale.sampling.step import SamplingConfig

COLUMNS = 12
"""Classes that the picture of all models shows."""


@dataclass(frozen=True)
class Published:
    """Published figures of a model; None where nothing was published."""

    model: str
    frechet: float
    inception_score: float | None
    precision: float | None
    recall: float | None
    parameters: str
    steps: int | None
    time: str
    "Relative wall-clock time, VAR-d30 being 1."


IMAGENET_256 = (
    Published("VAR-d16", 3.30, 274.4, 0.84, 0.51, "310M", 10, "0.4"),
    Published("VAR-d20", 2.57, 302.6, 0.83, 0.56, "600M", 10, "0.5"),
    Published("VAR-d24", 2.09, 312.9, 0.82, 0.59, "1.0B", 10, "0.6"),
    Published("VAR-d30", 1.92, 323.1, 0.82, 0.59, "2.0B", 10, "1"),
    Published("VAR-d30, rejection", 1.73, 350.2, 0.82, 0.60, "2.0B", 10, "1"),
    Published("validation data", 1.78, 236.9, 0.75, 0.67, "", None, ""),
    Published("DiT-XL/2", 2.27, 278.2, 0.83, 0.57, "675M", 250, "45"),
    Published("L-DiT-3B", 2.10, 304.4, 0.82, 0.60, "3B", 250, ">45"),
    Published("L-DiT-7B", 2.28, 316.2, 0.83, 0.58, "7B", 250, ">45"),
    Published("MaskGIT", 6.18, 182.1, 0.80, 0.51, "227M", 8, "0.5"),
    Published("VQGAN", 15.78, 74.3, None, None, "1.4B", 256, "24"),
    Published("VQGAN, rejection", 5.20, 280.3, None, None, "1.4B", 256, "24"),
    Published("ViT-VQGAN", 4.17, 175.1, None, None, "1.7B", 1024, ">24"),
    Published("ViT-VQGAN, rejection", 3.04, 227.4, None, None, "1.7B", 1024, ">24"),
    Published("RQ-Transformer", 7.55, 134.0, None, None, "3.8B", 68, "21"),
    Published("RQ-Transformer, rejection", 3.80, None, None, None, "3.8B", 68, "21"),
    Published("StyleGAN-XL", 2.30, 265.1, 0.78, 0.53, "166M", 1, "0.3"),
)


def compare_models(
    models: Sequence[str],
    config: ModelComparison,
    *,
    processes: Processes = Processes(),  # noqa: B008
    progress: Announce = silent,
) -> dict[str, Any]:
    """A row per model, and the published figures; empty on all but the main process. Raises ValueError."""
    if not models:
        raise ValueError("no models given; name the runs to compare")
    if not config.data:
        raise ValueError("data is missing; name the real images with --data")
    names = [folder_name(model) for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"models must have different names, got {', '.join(names)}")
    for model in models:  # raises before the first model is measured
        stored = find_model(model).config()
        family(stored.kind).require_settings(with_settings(SamplingConfig(**stored.sampling()), config.sampling()))
    measured: list[dict[str, Any]] = []
    settings: list[dict[str, Any]] = []
    shared: dict[str, Any] = {}
    for name, model in zip(names, models, strict=True):
        evaluation = config.evaluation(model, str(Path(config.out) / name))
        guidance = best_guidance(evaluation, config, processes, progress)
        settings.append(config.sampling() | {"guidance": guidance})
        evaluation = replace(evaluation, guidance=guidance)
        report = evaluate_generation(evaluation, processes=processes, progress=progress)
        if not report:
            continue
        shared = {part: report[part] for part in ("count", "features", "reference", "classes", "floor")}
        measured.append({"mean": report["mean"], "deviation": report["deviation"]})
    if not measured:
        return {}
    pipelines = [VARPipeline.from_pretrained(m, device=config.device, dtype=config.precision) for m in models]
    about = map(facts, models, pipelines, settings)
    rows = [row | figures for row, figures in zip(about, measured, strict=True)]
    seconds = time_in_turn(pipelines, settings, config, progress)
    save_image(side_by_side(pipelines, settings), Path(config.out) / "samples.png")
    titles = [row["title"] for row in rows]
    for row, times in zip(rows, seconds, strict=True):
        row["seconds_per_image"] = times
        if titles.count(row["title"]) > 1:
            row["title"] += f", {row['steps']} steps"
    return shared | {"sets": config.sets, "models": rows, "published": [asdict(row) for row in IMAGENET_256]}


def folder_name(model: str) -> str:
    """The end of a model's name, or of both models' in turn, as the name of a folder."""
    return "+".join("-".join(Path(part).parts[-2:]).strip("/") for part in model.split("+"))


def best_guidance(
    evaluation: GenerationEvaluation, config: ModelComparison, processes: Processes, progress: Announce
) -> float | None:
    """The guidance at which a model is compared: the best of those to try, or None for its own."""
    if not config.guidances or not family(find_model(evaluation.model).config().kind).guides:
        return None
    out, seed = Path(config.out) / "tuning" / Path(evaluation.out).name, config.seed + config.count * config.sets
    tuned = replace(evaluation, out=str(out), count=config.tuning_count, sets=1, seed=seed)
    report = sweep_generation(tuned, config.guidances, (), processes=processes, progress=progress)
    if report:
        write_json(out / "report.json", report)
    processes.wait()
    return float(read_json(out / "report.json")["best"]["guidance"])


def facts(model: str, pipeline: VARPipeline, settings: dict[str, Any]) -> dict[str, Any]:
    """What a model is, and what one image and the training cost."""
    transformer, tokenizer = pipeline.transformer.config, pipeline.tokenizer.config
    sampling = pipeline.sampling(**settings)
    steps = pipeline.family.steps_of(sampling)
    flops = sampled_flops(pipeline, sampling)
    family, tokens, seen = pipeline.family, pipeline.schedule.length, images_seen(model)
    bits = tokens * math.log2(tokenizer.codebook_size) if family.reads_tokens and family.predicts_tokens else None
    vit = family.reads_tokens and tokenizer.architecture == "vit"
    return {
        "model": model,
        "kind": family.kind,
        "title": f"{family.title}, ViT tokenizer" if vit else family.title,
        "precision": pipeline.precision,
        "parameters": pipeline.family.parameters(pipeline.transformer),
        "tokens": tokens,
        "bits": bits,
        "steps": sampling_steps(transformer, steps),
        "sampling": asdict(sampling),
        "flops_per_image": flops.total,
        "transformer_flops_per_image": flops.total - flops.decoder,
        "images_seen": seen,
        "training_flops": None if seen is None else seen * training_flops(transformer),
    }


def side_by_side(pipelines: Sequence[VARPipeline], settings: Sequence[dict[str, Any]]) -> Image.Image:
    """A row of images per model, a column per class: the first classes of the first model, one seed each."""
    images = []
    first = next((pipeline for pipeline in pipelines if pipeline.transformer.config.classes), pipelines[0])
    for pipeline, chosen in zip(pipelines, settings, strict=True):
        ids = shared_classes(first, pipeline)
        own = list(pipeline.config.prompts or ()) if pipeline.reads_prompts else ids
        wanted: list[Any] = [own[number % len(own)] if own else None for number in range(COLUMNS)]
        images += pipeline.generate(wanted, seeds=range(COLUMNS), **chosen).images
    return grid([image.resize(images[0].size) for image in images], columns=COLUMNS)


def shared_classes(first: VARPipeline, other: VARPipeline) -> list[int | None]:
    """For each class of one model, the other's id of it, or None; empty where the other has no classes."""
    count = other.transformer.config.classes
    if not count:
        return []
    sides = {"where": "the first model", "whose": "another model's"}
    places = match_classes(first.class_names, other.config.class_names, classes=count, partly=True, **sides)
    return [None if place == UNMATCHED else place for place in places]


def images_seen(model: str) -> int | None:
    """Images that a run was trained on, from its config.json; None for a model that is not a run."""
    path = Path(model) / "config.json"
    settings = read_json(path) if path.is_file() else {}
    known = {"steps", "batch_size", "optimiser"} <= set(settings) and not settings.get("decoder_only")
    return settings["steps"] * settings["batch_size"] if known else None


def time_in_turn(
    pipelines: Sequence[VARPipeline], settings: Sequence[dict[str, Any]], config: ModelComparison, progress: Announce
) -> list[dict[str, float]]:
    """Seconds per image by batch size, decoding included: medians over rounds in which all models take turns."""
    batches, rounds = config.time_batches, config.rounds
    taken: list[dict[int, list[float]]] = [{batch: [] for batch in batches} for _ in pipelines]
    advance = progress("timed", (rounds + 1) * len(batches) * len(pipelines))
    done = 0
    for number in range(rounds + 1):
        for pipeline, chosen, times in zip(pipelines, settings, taken, strict=True):
            classes = pipeline.transformer.config.classes
            for batch in batches:
                wanted = [i % classes if classes else None for i in range(batch)]
                began = time.perf_counter()
                pipeline.generate(wanted, seeds=range(batch), batch_size=batch, **chosen)
                if number:  # the first warms up
                    times[batch].append((time.perf_counter() - began) / batch)
                done += 1
                advance(done)
    return [{str(batch): median(times[batch]) for batch in batches} for times in taken]


def plot_comparison(report: dict[str, Any], path: Path) -> None:
    """Frechet distance over seconds per image and over FLOPs per image, a point per model."""
    from matplotlib.ticker import LogLocator, NullFormatter

    batch = next(iter(report["models"][0]["seconds_per_image"]))
    with new_figure(path, 10, 4) as figure:
        panels = figure.subplots(1, 2)
        for row in report["models"]:
            across = (row["seconds_per_image"][batch], row["flops_per_image"] / 1e9)
            frechet, deviation = row["mean"]["frechet"], row["deviation"]["frechet"] or 0
            for axes, value in zip(panels, across, strict=True):
                axes.errorbar(value, frechet, deviation, marker="o", label=row["title"])
        for axes, name in zip(panels, (f"seconds per image, batch {batch}", "GFLOP per image"), strict=True):
            axes.set(xscale="log", xlabel=name, ylabel="Frechet distance")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
        panels[1].legend(fontsize="small")
