"""Images drawn from a model to be measured: features in shards, so that a run continues where it stopped.

    OUT/settings.json                    what the shards were made with
    OUT/features/set-00/00000.safetensors
    OUT/images/set-00/000000.png         with `keep_images`

Shards have a fixed size and each of them its own batches: they are the same whatever process makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nextscale.config import read_json
from nextscale.data.loader import NO_CLASS, to_float
from nextscale.evaluation.features import FeatureSet
from nextscale.evaluation.real import load_features_file, save_features_file
from nextscale.files import write_json
from nextscale.pictures import save_image
from nextscale.pipeline import VARPipeline
from nextscale.runtime import Processes
from nextscale.sampling.next_scale import SamplingConfig

SHARD = 512
"""Images of a shard."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Which images are drawn: image i of set s has class i mod n and the seed `seed` + s * `count` + i."""

    count: int
    sets: int
    seed: int
    sampling: SamplingConfig
    batch_size: int
    keep_images: bool = False

    def shards(self) -> Iterator[tuple[int, int]]:
        """Set and number of every shard."""
        yield from ((s, number) for s in range(self.sets) for number in range(-(-self.count // SHARD)))

    def images_of(self, number: int) -> range:
        """Images of a shard within its set."""
        return range(number * SHARD, min(number * SHARD + SHARD, self.count))


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Start in a folder, or go on in one that was started alike. Raises ValueError otherwise."""
    path = out / "settings.json"
    if path.is_file():
        if read_json(path) != settings:
            raise ValueError(f"{out}: holds an evaluation with other settings; choose another --out")
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out}: holds other files; choose another --out")
    write_json(path, settings)


def draw_features(
    pipeline: VARPipeline,
    network: nn.Module,
    draws: Draws,
    out: Path,
    *,
    processes: Processes,
    wait: Callable[[], None],
    advance: Callable[[int], None] = lambda done: None,
) -> list[FeatureSet]:
    """Features of every set, from all processes; shards that are there already are taken as they are.

    `advance` is told how many images this process is done with, of all.
    """
    done = 0
    for turn, (s, number) in enumerate(draws.shards()):
        path = shard_path(out, s, number)
        if turn % processes.world == processes.rank and not path.is_file():
            save_features_file(draw_shard(pipeline, network, draws, s, number, out, advance, done), path)
        done += len(draws.images_of(number))
        advance(done)
    wait()
    return [
        FeatureSet.joined(load_features_file(shard_path(out, s, n)) for t, n in draws.shards() if t == s)
        for s in range(draws.sets)
    ]


def shard_path(out: Path, s: int, number: int) -> Path:
    return out / "features" / f"set-{s:02d}" / f"{number:05d}.safetensors"


def draw_shard(
    pipeline: VARPipeline,
    network: nn.Module,
    draws: Draws,
    s: int,
    number: int,
    out: Path,
    advance: Callable[[int], None],
    done: int,
) -> FeatureSet:
    """Draw one shard's images; only their features stay in memory."""
    classes = pipeline.transformer.config.classes
    images = draws.images_of(number)
    parts: list[FeatureSet] = []
    for start in range(images.start, images.stop, draws.batch_size):
        chosen = range(start, min(start + draws.batch_size, images.stop))
        labels = [i % classes for i in chosen] if classes else [NO_CLASS for _ in chosen]
        drawn = pipeline.generate(
            [label if classes else None for label in labels],
            seeds=[draws.seed + s * draws.count + i for i in chosen],
            batch_size=draws.batch_size,
            config=draws.sampling,
        )
        if draws.keep_images:
            for i, image in zip(chosen, drawn.images, strict=True):
                save_image(image, out / "images" / f"set-{s:02d}" / f"{i:06d}.png")
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in drawn.images])).permute(0, 3, 1, 2)
        pooled, logits = network.outputs(to_float(pixels).to(pipeline.device))  # pyright: ignore[reportCallIssue]
        parts.append(FeatureSet(pooled.cpu(), logits.cpu(), torch.tensor(labels, dtype=torch.int64)))
        advance(done + chosen.stop - images.start)
    return FeatureSet.joined(parts)
