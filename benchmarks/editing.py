"""In-painting of held-out images, method by method.

    python benchmarks/editing.py --data PROCGEN/heldout

For each mask (centre box, left half, strokes over 10 to 40 %, border) and method: the Frechet distance of completed
images to other held-out ones, how many are told as their class, the error in the hole, and the seam score: the mean
step of brightness across the mask's edge over the mean step inside the hole. Real images
give the floor of each figure; a grey hole and another image's pixels are lower bounds. All methods get the same
compositing and, but for `notebook`, the image without its hole and the class that is likeliest for what is left.
`notebook` is the authors' rule as they run it: without a class, and on the tokens of the whole image, so that what is
to be guessed leaks through coarse tokens; `embeddings` is their rule on the same terms as the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import cyclopts
import numpy as np
import torch
from PIL import Image, ImageDraw
from rich.table import Table
from torch import Tensor

from demo_model import load, open_matched, split
from nextscale import VARPipeline
from nextscale.cli.tables import print_table
from nextscale.editing.apply import likely_classes
from nextscale.editing.canvas import composite, filled
from nextscale.editing.hooks import METHODS
from nextscale.evaluation.features import FeatureNetwork
from nextscale.evaluation.metrics import FeatureStatistics, accuracy, class_means, frechet_distance, nearest_mean
from nextscale.evaluation.reconstruction import rounded
from nextscale.files import write_json
from nextscale.nn.perceptual import PerceptualDistance
from nextscale.pictures import grid, save_image, to_images
from nextscale.progress import Progress
from nextscale.runtime import retain_freed_memory
from nextscale.sampling.next_scale import SamplingConfig, sample_scales
from nextscale.tokenizer.residual import downsample

Masks = Callable[[range, int], Tensor]
BOUNDS = ("mean", "copy")


def box(numbers: range, side: int) -> Tensor:
    mask = torch.zeros(len(numbers), 1, side, side)
    mask[..., side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 1
    return mask


def left(numbers: range, side: int) -> Tensor:
    mask = torch.zeros(len(numbers), 1, side, side)
    mask[..., : side // 2] = 1
    return mask


def border(numbers: range, side: int) -> Tensor:
    mask = torch.ones(len(numbers), 1, side, side)
    mask[..., side // 5 : side - side // 5, side // 5 : side - side // 5] = 0
    return mask


def strokes(numbers: range, side: int) -> Tensor:
    """Thick lines that turn at random until 10 to 40 % are covered."""
    masks = []
    for number in numbers:
        rng = np.random.default_rng([7, number])
        wanted = rng.uniform(0.1, 0.4)
        drawn = Image.new("L", (side, side))
        pen = ImageDraw.Draw(drawn)
        while np.asarray(drawn).mean() / 255 < wanted:
            here = rng.uniform(0, side, 2)
            for _ in range(4):
                there = here + rng.normal(0, side / 5, 2)
                pen.line([*here, *there], fill=255, width=int(rng.integers(side // 16, side // 6)))
                here = there
                if np.asarray(drawn).mean() / 255 >= wanted:
                    break
        masks.append(torch.from_numpy(np.asarray(drawn).copy()).float()[None] / 255)
    return torch.stack(masks)


MASKS: dict[str, Masks] = {"box": box, "left": left, "strokes": strokes, "border": border}


def main(
    *,
    data: Annotated[str, cyclopts.Parameter(help="Held-out images with classes.")],
    model: str = "demo",
    count: int = 2000,
    masks: str = "box,left,strokes,border",
    methods: str = "evidence,blend,embeddings,notebook,mean,copy",
    classes: Annotated[str, cyclopts.Parameter(help="auto: by likelihood; label: the true ones; none.")] = "auto",
    feather: int = 4,
    guidance: float | None = None,
    top_p: float | None = None,
    precision: str = "bf16",
    batch_size: int = 50,
    seed: int = 0,
    picture: str = "",
    json: str = "",
) -> None:
    """Measure editing methods."""
    retain_freed_memory()
    pipeline = VARPipeline.from_pretrained(model, dtype=precision)
    network, distance = FeatureNetwork("mobilenet_v2"), PerceptualDistance("mobilenet_v2")
    source = open_matched(data, pipeline)
    known = pipeline.transformer.config.classes
    reference, floor, chosen, rest = split(source, known, (count, count, count, None))
    truth = FeatureStatistics.of(network.extract(load(pipeline, source, reference)))
    every = np.asarray(source.labels)
    means = class_means(network.extract(load(pipeline, source, rest)), torch.as_tensor(every[rest]), known)
    images = torch.cat(list(load(pipeline, source, chosen)))
    labels = torch.as_tensor(every[chosen])
    others = torch.cat(list(load(pipeline, source, floor)))
    real = network.extract(others.split(64))
    results: dict = {
        "model": model, "count": count, "classes": classes, "feather": feather, "guidance": guidance, "top_p": top_p,
        "floor": frechet_distance(FeatureStatistics.of(real), truth),
        "accuracy_real": accuracy(nearest_mean(network.extract(images.split(64)), means), labels),
        "masks": {},
    }  # fmt: skip
    sampling = pipeline.sampling(guidance=guidance, top_p=top_p)
    soften = guidance is None and classes == "auto"
    sheets = []
    for name in masks.split(","):
        holes = MASKS[name](range(count), images.shape[-1])
        holes = (holes > 0.5).float()
        rows: dict = {"real": {"seam": seam(images, holes)}}
        shown = [images[:8], torch.where(holes > 0, 0.0, images)[:8]]
        told = [
            classes_of(pipeline, classes, images[part], holes[part], labels[part])
            for part in (slice(start, start + batch_size) for start in range(0, count, batch_size))
        ]
        rows["real"]["class_told"] = accuracy(torch.cat(told), labels)
        for method in methods.split(","):
            began = time.monotonic()
            advance = Progress(count, title=f"{name}, {method}", line_seconds=20)
            parts = []
            for start in range(0, count, batch_size):
                part = slice(start, start + batch_size)
                given = images[part], holes[part], others[part], told[start // batch_size]
                parts.append(rounded(complete(pipeline, method, given, sampling, soften, feather, seed + start)))
                advance.advance(min(start + batch_size, count))
            advance.close()
            made = torch.cat(parts)
            assert torch.equal(made.where(holes == 0, 0), images.where(holes == 0, 0)), "what is kept stays"
            features = network.extract(made.split(64))
            error = ((made - images).square() * holes).sum(dim=(1, 2, 3)) / (3 * holes.sum(dim=(1, 2, 3)))
            with torch.no_grad():
                apart = [float(distance(a, b)) for a, b in zip(made.split(64), images.split(64), strict=True)]
            rows[method] = {
                "frechet": frechet_distance(FeatureStatistics.of(features), truth),
                "accuracy": accuracy(nearest_mean(features, means), labels),
                "psnr_hole": float((10 * (4 / error.clamp_min(1e-10)).log10()).mean()),
                "perceptual": float(np.mean(apart)),
                "seam": seam(made, holes),
                "images_per_second": count / (time.monotonic() - began),
            }
            shown.append(made[:8])
        results["masks"][name] = rows
        report(name, rows, results)
        sheets.append(torch.stack(shown, dim=1).flatten(0, 1))
        if picture:
            columns = len(shown)
            save_image(grid(to_images(torch.cat(sheets)), columns=columns), Path(picture))
        if json:
            write_json(Path(json), results)


@torch.no_grad()
def classes_of(pipeline: VARPipeline, classes: str, images: Tensor, holes: Tensor, labels: Tensor) -> Tensor:
    """Classes that edits are given."""
    if classes == "auto":
        known = holes == 0
        kept = downsample(known.float(), pipeline.schedule.final)
        return likely_classes(pipeline.transformer, pipeline.tokenizer, filled(images, known), kept)
    return labels if classes == "label" else torch.full_like(labels, pipeline.transformer.config.unconditional)


@torch.no_grad()
def complete(
    pipeline: VARPipeline,
    method: str,
    given: tuple[Tensor, Tensor, Tensor, Tensor],
    sampling: SamplingConfig,
    soften: bool,
    feather: int,
    seed: int,
) -> Tensor:
    """A batch of completed images."""
    images, holes, others, labels = given
    if method == "mean":
        average = (images * (1 - holes)).sum(dim=(2, 3), keepdim=True) / (1 - holes).sum(dim=(2, 3), keepdim=True)
        return composite(images, average.expand_as(images), holes, feather=feather)
    if method == "copy":
        return composite(images, others, holes, feather=feather)
    model, tokenizer = pipeline.transformer, pipeline.tokenizer
    known = holes == 0
    shown, kept = filled(images, known), downsample(known.float(), pipeline.schedule.final)
    if method == "notebook":
        method, shown, labels = "embeddings", images, torch.full_like(labels, model.config.unconditional)
    if soften:  # as the pipeline does; by the batch's mean where masks differ
        sampling = replace(sampling, guidance=sampling.guidance * (1 - float(kept.mean())) ** 2)
    seeds = [seed + number for number in range(len(images))]
    hook = METHODS[method](tokenizer, shown, kept)
    *_, last = sample_scales(model, tokenizer.quantizer, labels, seeds=seeds, config=sampling, hook=hook)
    return composite(images, tokenizer.decode_features(last.accumulated), holes, feather=feather)


def seam(images: Tensor, holes: Tensor) -> float:
    """Mean step of brightness between neighbours across the edge over that between neighbours inside the hole."""
    grey = images.mean(dim=1, keepdim=True)
    across, inside = [], []
    for axis in (2, 3):
        step = grey.diff(dim=axis).abs()
        one, two = holes.narrow(axis, 0, holes.shape[axis] - 1), holes.narrow(axis, 1, holes.shape[axis] - 1)
        across.append(step[one != two])
        inside.append(step[(one > 0) & (two > 0)])
    return float(torch.cat(across).mean() / torch.cat(inside).mean().clamp_min(1e-6))


def report(name: str, rows: dict, results: dict) -> None:
    table = Table(
        *("method", "Frechet distance", "above the floor", "class accuracy", "PSNR in the hole", "perceptual", "seam",
          "images/s"),
        title=f"{name}: {results['count']} images", title_justify="left",
    )  # fmt: skip
    table.add_row("real", f"{results['floor']:.1f}", "0", f"{results['accuracy_real']:.3f}", "", "",
                  f"{rows['real']['seam']:.3f}", "")  # fmt: skip
    for method, row in rows.items():
        if method != "real":
            table.add_row(
                method, f"{row['frechet']:.1f}", f"{row['frechet'] - results['floor']:.1f}", f"{row['accuracy']:.3f}",
                f"{row['psnr_hole']:.2f}", f"{row['perceptual']:.3f}", f"{row['seam']:.3f}",
                f"{row['images_per_second']:.1f}",
            )  # fmt: skip
    print_table(table)


if __name__ == "__main__":
    cyclopts.run(main)
