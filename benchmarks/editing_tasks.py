"""Class edits, kept scales and out-painting of held-out images.

    python benchmarks/editing_tasks.py --data PROCGEN/heldout --picture out/outpainted.png

Class edits: the centre box of an image becomes another class; an edit moved toward it when the image's features are
nearer to the target's class mean, and when they are nearer to it compared with the own class's mean, than before.
Kept scales: how alike variations of the same class are to the original as more scales are taken over. Out-painting: a
grid of images twice as wide, the step across the old edges against steps elsewhere, and the time over the width added.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import cyclopts
import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from demo_model import load, open_matched, split
from nextscale import VARPipeline
from nextscale.cli.tables import print_table
from nextscale.editing.config import EditConfig
from nextscale.evaluation.features import FeatureNetwork
from nextscale.evaluation.metrics import class_means
from nextscale.files import write_json
from nextscale.pictures import grid, save_image, to_images, to_tensor
from nextscale.progress import Progress
from nextscale.runtime import retain_freed_memory


def main(
    *,
    data: Annotated[str, cyclopts.Parameter(help="Held-out images with classes.")],
    model: str = "demo",
    cases: int = 500,
    precision: str = "fp32",
    picture: str = "",
    json: str = "",
) -> None:
    """Measure the tasks."""
    retain_freed_memory()
    pipeline = VARPipeline.from_pretrained(model, dtype=precision)
    network = FeatureNetwork("mobilenet_v2")
    source = open_matched(data, pipeline)
    known = pipeline.transformer.config.classes
    chosen, rest = split(source, known, (cases - cases % known, None))
    labels = np.asarray(source.labels)
    means = class_means(network.extract(load(pipeline, source, rest)), torch.as_tensor(labels[rest]), known)
    images = torch.cat(list(load(pipeline, source, chosen)))
    results = {
        "class_edits": class_edits(pipeline, network, means, images, labels[chosen]),
        "kept_scales": kept_scales(pipeline, network, images[:160], labels[chosen][:160]),
        "outpainting": outpainting(pipeline, images, picture),
    }
    report(results)
    if json:
        write_json(Path(json), results)


def pixels(image: Any) -> Tensor:
    """(1, 3, H, W) in [-1, 1]."""
    return to_tensor([image])


def class_edits(
    pipeline: VARPipeline, network: FeatureNetwork, means: Tensor, images: Tensor, labels: np.ndarray
) -> dict[str, Any]:
    """Shares of cases that moved, and whether all pixels outside stayed."""
    side = images.shape[-1]
    box = (side // 4, side // 4, 3 * side // 4, 3 * side // 4)
    outside = torch.ones(side, side, dtype=torch.bool)
    outside[box[1] : box[3], box[0] : box[2]] = False
    rng = np.random.default_rng(0)
    targets = (labels + rng.integers(1, len(means), len(labels))) % len(means)
    edited, stayed = [], True
    bar = Progress(len(images), title="class edits", line_seconds=20)
    for number, image in enumerate(to_images(images)):
        made = pipeline.edit(image, [box], classes=int(targets[number]), seeds=[number]).images[0]
        stayed &= bool((np.array(made) == np.array(image))[outside.numpy()].all())
        edited.append(pixels(made))
        bar.advance(number + 1)
    bar.close()
    before, after = network.extract(images.split(64)), network.extract(torch.cat(edited).split(64))
    target, own = means[torch.as_tensor(targets)], means[torch.as_tensor(labels)]

    def distances(features: Tensor) -> tuple[Tensor, Tensor]:
        return (features - target).norm(dim=1), (features - own).norm(dim=1)

    (target_before, own_before), (target_after, own_after) = distances(before), distances(after)
    return {
        "cases": len(images), "outside_equal": stayed,
        "nearer_to_target": float((target_after < target_before).float().mean()),
        "nearer_than_to_own": float((own_after - target_after > own_before - target_before).float().mean()),
        "told_as_target": float((torch.cdist(after, means).argmin(1) == torch.as_tensor(targets)).float().mean()),
    }  # fmt: skip


def kept_scales(
    pipeline: VARPipeline, network: FeatureNetwork, images: Tensor, labels: np.ndarray
) -> list[dict[str, float]]:
    """Likeness to the original over the number of scales kept: PSNR, and cosine of the features."""
    original = network.extract(images.split(64))
    whole = torch.cat([pixels(to_images(pipeline.reconstruct(one))[0]) for one in images.split(1)])
    rows = []
    for kept in range(len(pipeline.schedule) + 1):
        editing, made_each = EditConfig(keep_scales=kept), []
        for number, (image, label) in enumerate(zip(to_images(images), labels, strict=True)):
            made_each += pipeline.edit(image, classes=int(label), seeds=[number], editing=editing).images
        made = torch.cat([pixels(image) for image in made_each])
        error = (made - images).square().mean(dim=(1, 2, 3))
        features = network.extract(made.split(64))
        rows.append({
            "kept": kept, "psnr": float((10 * (4 / error).log10()).mean()),
            "cosine": float(torch.cosine_similarity(features, original).mean()),
            "reconstruction": float(torch.equal(made, whole)),
        })  # fmt: skip
    return rows


def outpainting(pipeline: VARPipeline, images: Tensor, picture: str) -> dict[str, Any]:
    """Step across the old edges over steps between columns elsewhere, real images' own, and seconds over width."""
    width = images.shape[-1]
    every, half = max(1, len(images) // 16), width // 2
    pictures = to_images(images)
    wide = [
        pipeline.outpaint(pictures[number], left=half, right=half, seeds=[number]).images[0]
        for number in range(0, len(images), every)[:16]
    ]
    if picture:
        save_image(grid(wide, columns=4), Path(picture))
    steps = torch.cat([pixels(image) for image in wide]).mean(dim=1).diff(dim=2).abs().mean(dim=(0, 1))
    edges = [width // 2 - 1, width // 2 + width - 1]
    elsewhere = torch.cat([steps[: edges[0]], steps[edges[0] + 1 : edges[1]], steps[edges[1] + 1 :]])
    seconds = {}
    for added in (width // 2, width, 2 * width, 4 * width):
        began = time.perf_counter()
        for number in range(4):
            pipeline.outpaint(pictures[number], right=added, seeds=[number])
        seconds[added] = (time.perf_counter() - began) / 4
    return {"step_at_edges": float(steps[edges].mean()), "step_elsewhere": float(elsewhere.mean()), "seconds": seconds}


def report(results: dict[str, Any]) -> None:
    one = results["class_edits"]
    print(
        f"class inside a box, {one['cases']} cases: nearer to the target's mean {one['nearer_to_target']:.1%}, "
        f"nearer to it than to the own class's, compared with before, {one['nearer_than_to_own']:.1%}; "
        f"told as the target {one['told_as_target']:.1%}; outside equal: {one['outside_equal']}"
    )
    table = Table("scales kept", "PSNR", "cosine of features", "equals the reconstruction")
    for row in results["kept_scales"]:
        table.add_row(
            str(row["kept"]), f"{row['psnr']:.2f}", f"{row['cosine']:.4f}", "yes" if row["reconstruction"] else ""
        )
    print_table(table)
    wide = results["outpainting"]
    print(f"step across old edges {wide['step_at_edges']:.4f}, elsewhere {wide['step_elsewhere']:.4f}")
    print("seconds by pixels added: " + ", ".join(f"{k}: {v:.2f}" for k, v in wide["seconds"].items()))


if __name__ == "__main__":
    cyclopts.run(main)
