"""`evaluate generation`: a model's images, or any others, against real ones.

Reports say how many images, which features, what real images reach against real images (the floor), and how much
figures vary over sets with seeds of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import nn

from nextscale.config import require_at_least, to_dict
from nextscale.data.decode import read_image
from nextscale.evaluation.comparison import Comparison, compare, spread
from nextscale.evaluation.features import FeatureSet, identity, load_features
from nextscale.evaluation.frechet import FeatureStatistics
from nextscale.evaluation.image_sets import (
    ImageSet,
    image_size,
    open_image_set,
    open_images_alone,
    write_npz_images,
    write_npz_statistics,
)
from nextscale.evaluation.judges import load_rejection
from nextscale.evaluation.real import RealImages, balanced_order, cached, means_of, real_features
from nextscale.evaluation.sampled import Draws, claim, draw_features, kept_image, sample_path, shown_numbers
from nextscale.evaluation.sheets import neighbour_sheet, read_images, sample_sheet
from nextscale.pictures import save_image
from nextscale.pipeline import VARPipeline
from nextscale.progress import Announce, silent
from nextscale.runtime import Processes, resolve_device

logger = logging.getLogger("nextscale.evaluation")

ROWS = 8
"""Images whose nearest real neighbours are shown."""
PROTOCOLS = {
    name: {"count": 50_000, "features": "inception", "guidance": 1.5, "top_k": 900, "top_p": 0.96, "smooth": False}
    for name in ("imagenet256", "imagenet512")
}
"""Published protocol: 50 images of each of 1,000 classes."""


@dataclass(frozen=True, kw_only=True)
class GenerationEvaluation:
    """Settings of `nextscale evaluate generation`."""

    data: str
    "Real images (folder, parquet, WebDataset, hub id), or a guided-diffusion .npz file of images or statistics."
    model: str = "demo"
    "Model whose images are drawn and measured."
    images: str = ""
    "Images to measure instead of a model's: as --data takes them."
    out: str = "out/evaluation"
    "Folder for features, samples and the report; a run that was stopped continues in it."
    count: int = 5000
    "Images of each set, and of the real ones they are compared with."
    sets: int = 1
    "Sets drawn with seeds of their own; their spread is reported."
    seed: int = 1_000_000
    "Seed of the first image."
    features: str = "inception"
    "inception (as FID is defined), or a torchvision classifier such as mobilenet_v2."
    feature_weights: str = ""
    "File with that network's weights; without it, they are fetched."
    protocol: str = ""
    "Published settings: imagenet256 or imagenet512 (50 images per class, guidance 1.5, top-k 900, top-p 0.96)."
    guidance: float | None = None
    "Guidance at the last scale [default: the model's]"
    top_k: int | None = None
    "Keep the k most likely tokens; 0 is off [default: the model's]"
    top_p: float | None = None
    "Keep the likeliest tokens that hold this probability together; 0 is off [default: the model's]"
    smooth: bool = False
    "Soft mixtures of codes."
    precision: str = "auto"
    "auto, fp32, bf16, fp16, int8 (CPU)."
    device: str = "auto"
    "auto, cpu, cuda, mps."
    batch_size: int = 64
    "Images at once."
    candidates: int = 1
    "Rejection sampling: candidates drawn of each image, the best of which is measured."
    judge: str = "likelihood"
    "Who scores candidates: likelihood (the model itself), a torchvision classifier, or the file of one."
    keep_images: bool = False
    "Keep the images as PNG files under --out."
    npz: str = ""
    "File for the first set's images in seeded random order, as guided-diffusion's evaluator reads them."
    statistics: str = ""
    "File for the real images' statistics (.npz with mu and sigma), to be used as --data later."

    def __post_init__(self) -> None:
        require_at_least(self, 2, "count")
        require_at_least(self, 1, "sets", "batch_size", "candidates")
        if self.protocol and self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is not known; expected one of {', '.join(PROTOCOLS)}")
        if self.npz and self.images.endswith(".npz"):
            raise ValueError(f"{self.images} is an .npz file already; --npz packs other images")

    def settled(self) -> GenerationEvaluation:
        """With the protocol's settings in place."""
        return replace(self, **PROTOCOLS[self.protocol]) if self.protocol else self


@dataclass(frozen=True)
class Measured:
    """What is compared with real images: sets of features, and some of the first set's images."""

    sets: list[FeatureSet]
    size: tuple[int, int]
    about: dict[str, Any]
    shown: list[int]
    "Rows of the first set that the pictures show."
    images: Callable[[Sequence[int]], list[Image.Image]]
    "Images of rows of the first set."


def evaluate_generation(
    config: GenerationEvaluation,
    *,
    processes: Processes = Processes(),  # noqa: B008
    wait: Callable[[], None] = lambda: None,
    progress: Announce = silent,
) -> dict[str, Any]:
    """The report of a model's images, or of the images named, against real ones; empty but on the main process.

    `progress` makes a function that is told how far a stage is. Raises ValueError.
    """
    config = config.settled()
    network = load_features(config.features, config.feature_weights).to(resolve_device(config.device))
    real = open_image_set(config.data)
    if config.images:
        measured = measured_images(config, network, progress)
    else:
        measured = drawn_images(config, network, processes, wait, progress)
    if not processes.is_main:
        return {}
    split = floor = means = None
    if isinstance(real, FeatureStatistics):
        reference: FeatureSet | FeatureStatistics = real
    else:
        split = real_features(network, real, config.data, measured.size, config.count, progress=progress)
        reference, means, floor = split.reference, split.class_means(), floor_of(split)
    figures = [compare(one, reference, class_means=means) for one in measured.sets]
    write_files(config, measured, real, split)
    count = len(measured.sets[0])
    return {
        "of": measured.about,
        "count": count,
        "features": {
            "name": config.features, "size": measured.sets[0].pooled.shape[1], "identity": identity(network),
        },
        "reference": {"data": config.data, "count": len(reference) if isinstance(reference, FeatureSet) else None},
        "floor": floor and asdict(floor),
        "sets": [asdict(one) for one in figures],
        **spread(figures),
    }  # fmt: skip


def write_files(
    config: GenerationEvaluation, measured: Measured, real: ImageSet | FeatureStatistics, split: RealImages | None
) -> None:
    """OUT/samples.png, OUT/nearest.png, and the .npz files asked for."""
    out, first = Path(config.out), measured.sets[0]
    images = measured.images(measured.shown)
    save_image(sample_sheet(images, first.labels[measured.shown]), out / "samples.png")
    if split is not None and not isinstance(real, FeatureStatistics):
        few = measured.shown[:ROWS]
        save_image(neighbour_sheet(images[:ROWS], first.pooled[few], split, real), out / "nearest.png")
    if config.npz:
        write_npz_images(Path(config.npz), shuffled(measured), (len(first), *measured.size, 3))
    if config.statistics and split is not None:
        write_npz_statistics(Path(config.statistics), FeatureStatistics.of(split.reference.pooled))


def shuffled(measured: Measured) -> Iterator[np.ndarray]:
    """The first set's images in a seeded random order."""
    order = np.random.default_rng(0).permutation(len(measured.sets[0])).tolist()
    for start in range(0, len(order), 256):
        yield from map(np.asarray, measured.images(order[start : start + 256]))


def floor_of(split: RealImages) -> Comparison:
    """What real images reach against real images: others against the reference, or half of it against half."""
    one, two = split.halves()
    if split.other is None:
        logger.warning(
            "the data has no images beside the reference: the floor is that of two halves, %d images", len(one)
        )
    return compare(one, two, class_means=means_of(two))


def drawn_images(
    config: GenerationEvaluation,
    network: nn.Module,
    processes: Processes,
    wait: Callable[[], None],
    progress: Announce,
) -> Measured:
    """A model's images."""
    pipeline = VARPipeline.from_pretrained(config.model, device=config.device, dtype=config.precision)
    classes = pipeline.transformer.config.classes
    settings = {name: getattr(config, name) for name in ("guidance", "top_k", "top_p", "smooth")}
    sampling = pipeline.sampling(**settings)
    draws = Draws(
        count=config.count, sets=config.sets, seed=config.seed, sampling=sampling, batch_size=config.batch_size,
        keep_images=config.keep_images or bool(config.npz),
        rejection=load_rejection(config.candidates, 1, config.judge, classes=classes),
    )  # fmt: skip
    about = {"model": config.model, "precision": pipeline.precision, "sampling": to_dict(sampling), "seed": config.seed}
    if draws.rejection is not None:
        about |= {"candidates": config.candidates, "judge": config.judge}
    out = Path(config.out)
    known = about | {
        "count": config.count, "sets": config.sets, "batch_size": config.batch_size,
        "keep_images": draws.keep_images, "features": config.features, "network": identity(network),
        "weights": identity(pipeline.transformer),
    }  # fmt: skip
    if processes.is_main:
        claim(out, known)
    wait()
    advance = progress("drawn", config.count * config.sets)
    sets = draw_features(pipeline, network, draws, out, processes=processes, wait=wait, advance=advance)
    shown = shown_numbers(config.count, classes)

    def read(numbers: Sequence[int]) -> list[Image.Image]:
        paths = [kept_image(out, 0, number) if draws.keep_images else sample_path(out, number) for number in numbers]
        return [read_image(path) for path in paths]

    return Measured(sets, pipeline.tokenizer.config.image_size, about, shown, read)


def measured_images(config: GenerationEvaluation, network: nn.Module, progress: Announce) -> Measured:
    """Images that are there already, `count` of them or all."""
    images = open_images_alone(config.images)
    size = image_size(images)
    order = balanced_order(images)[: config.count]
    features = cached(network, images, config.images, size, order, progress("measured", len(order)), exact=True)
    shown = shown_numbers(len(order), int(features.labels.max()) + 1)

    def read(rows: Sequence[int]) -> list[Image.Image]:
        found = read_images(images, np.sort(order[rows]), size)
        return [found[int(order[row])] for row in rows]

    return Measured([features], size, {"images": config.images}, shown, read)
