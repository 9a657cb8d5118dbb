"""Where a next-scale model loses quality: images whose first scales are real ones' and whose others are generated.

    python benchmarks/given_scales.py --model out/runs/var --data data/heldout --features mobilenet_v2

Real images of the data are tokenised; for each number of given scales the model draws the rest, and the images are
compared with other real ones. 0 given is plain generation, all given is the tokenizer's reconstruction: the distance
falls most where the scale that the model draws worst becomes given.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from nextscale import VARPipeline
from nextscale.classes import match_classes
from nextscale.cli.tables import print_table
from nextscale.editing.hooks import KeepScales
from nextscale.evaluation.comparison import compare_features
from nextscale.evaluation.features import FeatureSet, load_features
from nextscale.evaluation.image_sets import batches, open_images_alone
from nextscale.evaluation.reconstruction import rounded
from nextscale.evaluation.reference import balanced_order, real_features
from nextscale.files import write_json
from nextscale.progress import Stages
from nextscale.runtime import retain_freed_memory

SHOWN = ("frechet", "kernel", "precision", "recall", "class_accuracy")


def main(
    *,
    data: Annotated[str, cyclopts.Parameter(help="Real images, at least twice the count.")],
    model: str = "demo",
    given: Annotated[str, cyclopts.Parameter(help="Numbers of given scales, with commas [default: all]")] = "",
    count: int = 2000,
    guidance: float | None = None,
    features: str = "inception",
    feature_weights: str = "",
    precision: str = "auto",
    batch_size: int = 64,
    seed: int = 1_000_000,
    json: str = "",
) -> None:
    """Draw `count` images for each number of given scales and print a table."""
    retain_freed_memory()
    pipeline = VARPipeline.from_pretrained(model, dtype=precision)
    scales = len(pipeline.schedule)
    choices = [str(number) for number in range(scales + 1)]
    if not set(given.split(",") if given else choices) <= set(choices):
        raise SystemExit(f"given must be numbers from 0 to {scales}, got {given}")
    numbers = [int(number) for number in given.split(",") if number] or range(scales + 1)
    images, network = open_images_alone(data), load_features(features, feature_weights)
    size = pipeline.tokenizer.config.image_size
    known = pipeline.config.class_names
    named = {"where": f"data {data}", "classes": pipeline.transformer.config.classes}
    ids = torch.tensor(match_classes(images.class_names, known, **named))
    results: list[dict[str, Any]] = []
    with Stages() as stages:
        real = real_features(network, images, size, count, progress=stages.start)
        if real.other is None:
            raise SystemExit(f"{data}: holds {len(images)} images; expected at least {2 * count}")
        others = np.sort(balanced_order(images)[count : 2 * count])
        means = real.class_means()
        for number in numbers:
            advance = stages.start(f"{number} given", count)
            parts: list[FeatureSet] = []
            done = 0
            for pixels, labels in batches(images, size, batch_size=batch_size, indices=others):
                seeds = range(seed + done, seed + done + len(labels))
                made = drawn(pipeline, network, pixels, ids[labels], seeds, number, guidance)
                parts.append(replace(made, labels=labels))  # as the data numbers them
                done += len(labels)
                advance(done)
            figures = compare_features(FeatureSet.joined(parts), real.reference, class_means=means)
            results.append({"given": number} | asdict(figures))
        floor = asdict(compare_features(real.other, real.reference))
    if json:
        settings = asdict(pipeline.sampling(guidance=guidance))
        facts = {"model": model, "data": data, "count": count, "features": features, "sampling": settings, "seed": seed}
        write_json(Path(json), facts | {"floor": floor, "results": results})
    table = Table("given scales", *SHOWN, title=f"{model}: {count} images, {features} features")
    for one in [*results, {"given": "real images"} | floor]:
        table.add_row(str(one["given"]), *("" if one[name] is None else f"{one[name]:.4g}" for name in SHOWN))
    print_table(table)


@torch.no_grad()
def drawn(
    pipeline: VARPipeline,
    network: Any,
    pixels: Tensor,
    labels: Tensor,
    seeds: range,
    given: int,
    guidance: float | None,
) -> FeatureSet:
    """Features of images that have the first scales of `pixels`, and the classes."""
    hook = KeepScales(pipeline.tokenizer, pixels.to(pipeline.device), given) if given else None
    *_, last = pipeline.generate_steps(labels.tolist(), seeds=seeds, hook=hook, guidance=guidance)
    images = rounded(pipeline.tokenizer.decode_features(last.accumulated)).cpu()
    return FeatureSet(*network.outputs(images), labels)


if __name__ == "__main__":
    cyclopts.run(main)
