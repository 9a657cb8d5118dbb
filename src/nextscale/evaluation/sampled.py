"""Images drawn from a model and measured: features in shards, so that a stopped run can continue.

    OUT/settings.json                    what the shards were made with
    OUT/features/set-00/00000.safetensors
    OUT/images/set-00/000000.png         with `keep_images`
    OUT/samples/000000.png               a few of the first set, for pictures

Shards have a fixed size, and no batch spans two of them: a shard is the same whatever process makes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nextscale.config import read_json
from nextscale.data.loader import NO_CLASS
from nextscale.evaluation.features import FeatureSet, Network, features_of
from nextscale.files import write_json
from nextscale.pictures import save_image, to_tensor
from nextscale.pipeline import VARPipeline
from nextscale.progress import Advance
from nextscale.runtime import Processes
from nextscale.sampling.next_scale import SamplingConfig
from nextscale.sampling.rejection import Rejection

logger = logging.getLogger("nextscale.evaluation")

SHARD = 512
"""Images in a shard."""


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Which images are drawn, and the folder `out` for what is kept of them.

    Image i of set s has the class i mod n and the seed `seed` + s * `count` + i; with `rejection`, it is the best of
    the candidates of that seed.
    """

    out: Path
    count: int
    sets: int
    seed: int
    sampling: SamplingConfig
    batch_size: int
    keep_images: bool = False
    rejection: Rejection | None = None
    prompts: tuple[str, ...] = ()
    "Of a model of prompts, in the place of classes."

    def shards(self) -> Iterator[tuple[int, int]]:
        """Set and number of every shard."""
        yield from ((s, number) for s in range(self.sets) for number in range(-(-self.count // SHARD)))

    def images_of(self, number: int) -> range:
        """Numbers of a shard's images within their set."""
        return range(number * SHARD, min(number * SHARD + SHARD, self.count))

    def shard(self, s: int, number: int) -> Path:
        """File with the features of a shard."""
        return self.out / "features" / f"set-{s:02d}" / f"{number:05d}.safetensors"

    def kept(self, s: int, number: int) -> Path:
        """File of an image, with `keep_images`."""
        return self.out / "images" / f"set-{s:02d}" / f"{number:06d}.png"

    def sample(self, number: int) -> Path:
        """File of an image of the first set, where it is one of those to show."""
        return self.out / "samples" / f"{number:06d}.png"


def claim_folder(out: Path, settings: dict[str, Any]) -> None:
    """Start in an empty folder, or continue in one that was started with the same settings.

    `settings` hold all that the shards depend on. Raises ValueError naming those that differ.
    """
    path = out / "settings.json"
    if path.is_file():
        before = read_json(path)
        differing = [name for name in {**settings, **before} if settings.get(name) != before.get(name)]
        if differing:
            raise ValueError(
                f"{out}: holds an evaluation with other settings ({', '.join(differing)}); choose another --out"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise ValueError(f"{out}: holds other files; choose another --out")
    write_json(path, settings)


def draw_features(
    pipeline: VARPipeline, network: Network, draws: Draws, processes: Processes, advance: Advance
) -> list[FeatureSet]:
    """Features of every set, drawn by all processes together; shards that exist are not drawn again.

    `advance` gets the number of images that this process is done with, of all.
    """
    done = 0
    before = sum(len(draws.images_of(number)) for s, number in draws.shards() if draws.shard(s, number).is_file())
    if before and processes.is_main:
        total = draws.count * draws.sets
        logger.info("%s: %d of %d images were drawn before, with these settings", draws.out, before, total)
    for turn, (s, number) in enumerate(draws.shards()):
        path = draws.shard(s, number)
        if turn % processes.world == processes.rank and not path.is_file():
            draw_shard(pipeline, network, draws, s, number, lambda n, before=done: advance(before + n)).save(path)
        done += len(draws.images_of(number))
        advance(done)
    processes.wait()
    return [
        FeatureSet.joined(FeatureSet.load(draws.shard(s, n)) for t, n in draws.shards() if t == s)
        for s in range(draws.sets)
    ]


def draw_shard(
    pipeline: VARPipeline, network: Network, draws: Draws, s: int, number: int, advance: Advance
) -> FeatureSet:
    """Features of one shard's images, of which only a batch is in memory at once."""
    classes = pipeline.transformer.config.classes
    images = draws.images_of(number)
    wanted = set(shown_numbers(draws.count, classes)) if s == 0 else set()
    parts: list[FeatureSet] = []
    first, done = draws.seed + s * draws.count, images.start
    wanted_classes: list[Any] = [i % classes if classes else None for i in images]
    if draws.prompts:
        wanted_classes = [draws.prompts[i % len(draws.prompts)] for i in images]
    how: dict[str, Any] = {name: getattr(draws, name) for name in ("batch_size", "rejection")}
    seeds = [first + i for i in images]
    for drawn in pipeline.generate_batches(wanted_classes, seeds=seeds, config=draws.sampling, **how):
        chosen = range(done, done + len(drawn.images))
        done = chosen.stop
        for i, image in zip(chosen, drawn.images, strict=True):
            if draws.keep_images:
                save_image(image, draws.kept(s, i))
            if i in wanted:
                save_image(image, draws.sample(i))
        labels = torch.tensor(drawn.classes if classes else [NO_CLASS for _ in chosen], dtype=torch.int64)
        parts.append(features_of(network, to_tensor(drawn.images), labels))
        advance(chosen.stop - images.start)
    return FeatureSet.joined(parts)


def shown_numbers(count: int, classes: int) -> list[int]:
    """Images for the sheet of samples: up to eight of each of up to sixteen classes, the classes in turn."""
    if classes == 0:
        return list(range(min(64, count)))
    chosen = sorted({round(i * (classes - 1) / 15) for i in range(16)})
    return [i for turn in range(8) for i in (label + turn * classes for label in chosen) if i < count]
