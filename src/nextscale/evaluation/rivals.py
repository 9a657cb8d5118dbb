"""`nextscale compare`: models of several kinds on the same data, in quality, steps, FLOPs and time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from typing import Any

from PIL import Image

from nextscale.catalogue import find_model
from nextscale.classes import UNMATCHED, match_classes
from nextscale.config import read_json
from nextscale.evaluation.config import RivalsEvaluation
from nextscale.evaluation.cost import generation_flops, sampling_steps, training_flops
from nextscale.evaluation.generation import GenerationEvaluation, evaluate_generation
from nextscale.evaluation.published import IMAGENET_256
from nextscale.evaluation.sweep import sweep_generation
from nextscale.families.table import family_of
from nextscale.files import write_json
from nextscale.nn.packed import count_parameters
from nextscale.pictures import grid, save_image
from nextscale.pipeline import VARPipeline
from nextscale.progress import Announce, silent
from nextscale.runtime import Processes

COLUMNS = 12
"""Classes that the picture of all models shows."""


def compare_models(
    models: Sequence[str],
    config: RivalsEvaluation,
    *,
    processes: Processes = Processes(),  # noqa: B008
    wait: Callable[[], None] = lambda: None,
    progress: Announce = silent,
) -> dict[str, Any]:
    """A row per model, and the published figures; empty but on the main process. Raises ValueError."""
    if not models:
        raise ValueError("no models given; name the runs to compare")
    if not config.data:
        raise ValueError("data is missing; name the real images with --data")
    names = ["-".join(Path(model).parts[-2:]).strip("/") for model in models]
    if len(set(names)) < len(names):
        raise ValueError(f"models must have different names, got {', '.join(names)}")
    for model in models:
        find_model(model).config()  # complain before the first is measured
    rows: list[dict[str, Any]] = []
    guidances: list[float | None] = []
    shared: dict[str, Any] = {}
    for name, model in zip(names, models, strict=True):
        evaluation = GenerationEvaluation(
            data=config.data, model=model, out=str(Path(config.out) / name), count=config.count, sets=config.sets,
            seed=config.seed, features=config.features, feature_weights=config.feature_weights,
            precision=config.precision, device=config.device, batch_size=config.batch_size,
            label_column=config.label_column, image_column=config.image_column,
        )  # fmt: skip
        guidances.append(best_guidance(evaluation, config, processes, wait, progress))
        evaluation = replace(evaluation, guidance=guidances[-1])
        report = evaluate_generation(evaluation, processes=processes, wait=wait, progress=progress)
        if not report:
            continue
        shared = {part: report[part] for part in ("count", "features", "reference", "classes", "floor")}
        rows.append(facts(model, config, guidances[-1]) | {"mean": report["mean"], "deviation": report["deviation"]})
    if not rows:
        return {}
    pipelines = [VARPipeline.from_pretrained(m, device=config.device, dtype=config.precision) for m in models]
    seconds = time_in_turn(pipelines, guidances, config.time_batches, config.rounds, progress)
    save_image(side_by_side(pipelines, guidances), Path(config.out) / "samples.png")
    titles = [row["title"] for row in rows]
    for row, times in zip(rows, seconds, strict=True):
        row["seconds_per_image"] = times
        if titles.count(row["title"]) > 1:
            row["title"] += f", {row['steps']} steps"
    return shared | {"sets": config.sets, "models": rows, "published": [asdict(row) for row in IMAGENET_256]}


def best_guidance(
    evaluation: GenerationEvaluation,
    config: RivalsEvaluation,
    processes: Processes,
    wait: Callable[[], None],
    progress: Announce,
) -> float | None:
    """The guidance that a model is compared at; None is its own."""
    if not config.guidances:
        return None
    out = Path(config.out) / "tuning" / Path(evaluation.out).name
    tuned = replace(
        evaluation, out=str(out), count=config.tuning_count, sets=1, seed=config.seed + config.count * config.sets
    )  # fmt: skip
    report = sweep_generation(tuned, config.guidances, (), processes=processes, wait=wait, progress=progress)
    if report:
        write_json(out / "report.json", report)
    wait()
    return float(read_json(out / "report.json")["best"]["guidance"])


def facts(model: str, config: RivalsEvaluation, guidance: float | None = None) -> dict[str, Any]:
    """What a model is, and what an image and its training cost."""
    pipeline = VARPipeline.from_pretrained(model, device=config.device, dtype=config.precision)
    transformer, tokenizer = pipeline.transformer.config, pipeline.tokenizer.config
    sampling = pipeline.sampling(guidance=guidance)
    flops = generation_flops(transformer, tokenizer, guided=bool(sampling.guidance), steps=sampling.steps)
    kind = family_of(transformer)
    tokens = pipeline.schedule.length
    seen = images_seen(model)
    return {
        "model": model, "kind": kind.kind, "title": kind.title, "precision": pipeline.precision,
        "parameters": count_parameters(pipeline.transformer),
        "tokens": tokens, "bits": None if kind.kind == "dit" else tokens * math.log2(tokenizer.codebook_size),
        "steps": sampling_steps(transformer, sampling.steps), "sampling": asdict(sampling),
        "flops_per_image": flops.total, "transformer_flops_per_image": flops.total - flops.decoder,
        "images_seen": seen, "training_flops": None if seen is None else seen * training_flops(transformer),
    }  # fmt: skip


def side_by_side(pipelines: Sequence[VARPipeline], guidances: Sequence[float | None]) -> Image.Image:
    """A row of images per model, a column per class (the first model's first few, one seed each)."""
    images = []
    first = next((pipeline for pipeline in pipelines if pipeline.transformer.config.classes), pipelines[0])
    for pipeline, guidance in zip(pipelines, guidances, strict=True):
        ids = shared_classes(first, pipeline)
        wanted = [ids[number % len(ids)] if ids else None for number in range(COLUMNS)]
        images += pipeline.generate(wanted, seeds=range(COLUMNS), guidance=guidance).images
    return grid([image.resize(images[0].size) for image in images], columns=COLUMNS)


def shared_classes(first: VARPipeline, other: VARPipeline) -> list[int | None]:
    """For each class of one model the other's id of it; None where it has none, or no classes at all."""
    count = other.transformer.config.classes
    if not count:
        return []
    places = match_classes(
        first.class_names, other.config.class_names, where="the first model", whose="another model's", classes=count,
        partly=True,
    )  # fmt: skip
    return [None if place == UNMATCHED else place for place in places]


def images_seen(model: str) -> int | None:
    """Images of a run's training, from its config.json; None for a model that is no run."""
    path = Path(model) / "config.json"
    settings = read_json(path) if path.is_file() else {}
    return settings["steps"] * settings["batch_size"] if {"steps", "batch_size", "optimiser"} <= set(settings) else None


def time_in_turn(
    pipelines: Sequence[VARPipeline],
    guidances: Sequence[float | None],
    batches: Sequence[int],
    rounds: int,
    progress: Announce,
) -> list[dict[str, float]]:
    """Seconds per image, decoding included, by batch size: the median over rounds in which all models take turns."""
    taken: list[dict[int, list[float]]] = [{batch: [] for batch in batches} for _ in pipelines]
    advance = progress("timed", (rounds + 1) * len(batches) * len(pipelines))
    done = 0
    for number in range(rounds + 1):
        for pipeline, guidance, times in zip(pipelines, guidances, taken, strict=True):
            classes = pipeline.transformer.config.classes
            for batch in batches:
                wanted = [i % classes if classes else None for i in range(batch)]
                began = time.perf_counter()
                pipeline.generate(wanted, seeds=range(batch), batch_size=batch, guidance=guidance)
                if number:  # the first warms up
                    times[batch].append((time.perf_counter() - began) / batch)
                done += 1
                advance(done)
    return [{str(batch): median(times[batch]) for batch in batches} for times in taken]
