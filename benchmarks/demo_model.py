"""The demo model's figures: class accuracy, Frechet distances, PSNR and codebook usage.

    python benchmarks/demo_model.py --data PROCGEN/heldout

Everything is measured on held-out images, split by class into four parts that share none: two sides of the
Frechet distance, the images of the class means, and the images whose class is told.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import torch
from rich.table import Table

from nextscale import VARPipeline
from nextscale.classes import match_classes
from nextscale.cli.tables import print_table
from nextscale.data.loader import iterate_images
from nextscale.data.source import ImageSource, open_source
from nextscale.evaluation.features import FeatureNetwork
from nextscale.evaluation.metrics import FeatureStatistics, accuracy, class_means, frechet_distance, nearest_mean
from nextscale.evaluation.reconstruction import psnr, rounded
from nextscale.files import write_json
from nextscale.pictures import to_float, to_tensor
from nextscale.progress import Progress
from nextscale.runtime import resolve_device, resolve_dtype
from nextscale.tokenizer.quantizer import CodebookUsage


def main(
    *,
    data: Annotated[str, cyclopts.Parameter(help="Held-out images with classes.")],
    model: str = "demo",
    frechet_images: int = 5000,
    accuracy_images: int = 1600,
    codebook_images: int = 10_000,
    seed: int = 1_000_000,
    batch_size: int = 64,
    guidance: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    precision: str = "auto",
    backbone: str = "mobilenet_v2",
    weights: str = "",
    json: str = "",
) -> None:
    """Measure a model against held-out images; settings left out are the model's defaults."""
    device = resolve_device()
    pipeline = VARPipeline.from_pretrained(model, device=device, dtype=precision)
    source = open_matched(data, pipeline)
    network = FeatureNetwork(backbone, weights=weights).to(device)
    classes = pipeline.transformer.config.classes
    reference, other, told, means_from = split(source, classes, (frechet_images, frechet_images, accuracy_images, None))

    print("real images ...", flush=True)
    features = {name: network.extract(load(pipeline, source, part)) for name, part in
                (("reference", reference), ("other", other), ("told", told), ("means", means_from))}  # fmt: skip
    truth = FeatureStatistics.of(features["reference"])
    labels = torch.as_tensor(np.asarray(source.labels))
    means = class_means(features["means"], labels[means_from], classes)
    results: dict[str, object] = {
        "model": model, "images": {"frechet": frechet_images, "accuracy": accuracy_images, "codebook": codebook_images},
        "features": backbone, "frechet_real": frechet_distance(FeatureStatistics.of(features["other"]), truth),
        "accuracy_real": accuracy(nearest_mean(features["told"], means), labels[told]),
    }  # fmt: skip

    print("reconstructions ...", flush=True)
    dtype = resolve_dtype(precision, device)
    usage = CodebookUsage(len(pipeline.schedule), pipeline.tokenizer.config.codebook_size)
    errors, rebuilt = [], []
    for images in load(pipeline, source, other):
        stages = torch.stack([rounded(stage) for stage in decoded(pipeline, images)])  # (K, B, 3, H, W)
        errors.append(psnr(images, stages))
        rebuilt.append(network(stages[-1]))
    per_scale = torch.cat(errors, dim=1).mean(dim=1)
    results["psnr"], results["psnr_after_scale"] = float(per_scale[-1]), per_scale.tolist()
    results["frechet_reconstructed"] = frechet_distance(FeatureStatistics.of(torch.cat(rebuilt)), truth)
    for images in load(pipeline, source, np.arange(len(source))[:: max(1, len(source) // codebook_images)]):
        usage.add(pipeline.tokenizer.encode(images.to(device)).to("cpu"))
    results |= {f"codebook_{name}": value.tolist() for name, value in usage.summary().items()}

    began = time.monotonic()
    settings = {"guidance": guidance, "top_k": top_k, "top_p": top_p}
    sampling = pipeline.sampling(**{name: value for name, value in settings.items() if value is not None})
    total = max(frechet_images, accuracy_images)
    progress = Progress(total, title="generated", line_seconds=20)
    made = []
    for start in range(0, total, batch_size):
        numbers = range(start, min(start + batch_size, total))
        generation = pipeline.generate(
            [number % classes for number in numbers], seeds=[seed + number for number in numbers],
            batch_size=batch_size, config=sampling,
        )  # fmt: skip
        made.append(network(to_tensor(generation.images).to(device)).cpu())
        progress.advance(numbers.stop)
    progress.close()
    generated = torch.cat(made)
    results["frechet_generated"] = frechet_distance(FeatureStatistics.of(generated[:frechet_images]), truth)
    intended = torch.arange(accuracy_images) % classes
    results["accuracy_generated"] = accuracy(nearest_mean(generated[:accuracy_images], means), intended)
    results["images_per_second"] = total / (time.monotonic() - began)
    results["settings"] = vars(sampling) | {"precision": str(dtype).removeprefix("torch."), "seed": seed}
    report(results)
    if json:
        write_json(Path(json), results)


def open_matched(data: str, pipeline: VARPipeline) -> ImageSource:
    """Images whose labels are the model's ids of the classes of the same names. Raises ValueError."""
    source = open_source(data)
    classes = pipeline.transformer.config.classes
    ids = match_classes(source.class_names, pipeline.config.class_names, where=f"data {data}", classes=classes)
    return replace(source, labels=np.asarray(ids)[np.asarray(source.labels)])


def split(source: ImageSource, classes: int, sizes: tuple[int | None, ...]) -> list[np.ndarray]:
    """Disjoint parts, each with the classes in turn; None takes what is left."""
    labels = np.asarray(source.labels)
    # Row j of the table is the j-th image of every class: reading it row by row takes the classes in turn.
    per_class = [np.flatnonzero(labels == label) for label in range(classes)]
    turns = np.stack([rows[: min(map(len, per_class))] for rows in per_class], axis=1).reshape(-1)
    parts, start = [], 0
    for size in sizes:
        stop = len(turns) if size is None else start + size
        if stop > len(turns) or stop == start:
            raise ValueError(f"the data holds {len(turns)} images in equal classes, too few for {sizes}")
        parts.append(turns[start:stop])
        start = stop
    return parts


def load(pipeline: VARPipeline, source: ImageSource, indices: np.ndarray):
    """Batches of images in [-1, 1], (B, 3, H, W)."""
    size = pipeline.tokenizer.config.image_size
    for batch in iterate_images(source, size, batch_size=64, indices=indices.tolist()):
        yield to_float(batch.images)


def decoded(pipeline: VARPipeline, images: torch.Tensor):
    """Images after each scale."""
    tokens = pipeline.tokenizer.encode(images.to(pipeline.device))
    return [stage.cpu() for stage in pipeline.tokenizer.decode_scales(tokens)]


def report(results: dict) -> None:
    table = Table(title=f"{results['model']}: N = {results['images']}", title_justify="left")
    for column in ("figure", "real", "reconstructed", "generated"):
        table.add_column(column)
    table.add_row("class accuracy", f"{results['accuracy_real']:.4f}", "", f"{results['accuracy_generated']:.4f}")
    ratio = results["accuracy_generated"] / results["accuracy_real"]
    table.add_row("  share of real", "1", "", f"{ratio:.4f}")
    floor = results["frechet_real"]
    distances = [results[f"frechet_{name}"] for name in ("reconstructed", "generated")]
    table.add_row("Frechet distance", f"{floor:.1f}", *[f"{value:.1f}" for value in distances])
    table.add_row("  above the floor", "0", *[f"{value - floor:.1f}" for value in distances])
    table.add_row("PSNR, dB", "", f"{results['psnr']:.2f}", "")
    print_table(table)
    shown = ", ".join(f"{value:.2f}" for value in results["psnr_after_scale"])
    print(f"PSNR after each scale: {shown}")
    shares = ", ".join(f"{value:.1%}" for value in results["codebook_used_per_scale"])
    print(f"codebook used: {results['codebook_used']:.1%}; per scale {shares}")
    print(f"perplexity per scale: {', '.join(f'{value:.0f}' for value in results['codebook_perplexity'])}")
    print(f"{results['images_per_second']:.1f} images/s, {results['settings']}")


if __name__ == "__main__":
    cyclopts.run(main)
