"""`evaluate generation`: a model's images, or any others, against real ones.

Reports say how many images, which features, what real images reach against real images (the floor), and how much
figures vary over sets with seeds of their own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from nextscale.config import require_at_least, to_dict
from nextscale.evaluation.comparison import Comparison, compare, spread
from nextscale.evaluation.features import FeatureSet, identity, load_features
from nextscale.evaluation.frechet import FeatureStatistics
from nextscale.evaluation.image_sets import image_size, open_image_set
from nextscale.evaluation.real import RealImages, balanced_order, cached, means_of, real_features
from nextscale.evaluation.sampled import Draws, claim, draw_features
from nextscale.pipeline import VARPipeline
from nextscale.runtime import Processes, resolve_device

logger = logging.getLogger("nextscale.evaluation")

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
    keep_images: bool = False
    "Keep the images as PNG files under --out."

    def __post_init__(self) -> None:
        require_at_least(self, 2, "count")
        require_at_least(self, 1, "sets", "batch_size")
        if self.protocol and self.protocol not in PROTOCOLS:
            raise ValueError(f"protocol {self.protocol!r} is not known; expected one of {', '.join(PROTOCOLS)}")

    def settled(self) -> GenerationEvaluation:
        """With the protocol's settings in place."""
        return replace(self, **PROTOCOLS[self.protocol]) if self.protocol else self


Advance = Callable[[int], None]


def evaluate_generation(
    config: GenerationEvaluation,
    *,
    processes: Processes = Processes(),  # noqa: B008
    wait: Callable[[], None] = lambda: None,
    progress: Callable[[str, int], Advance] = lambda title, total: lambda done: None,
) -> dict[str, Any]:
    """The report of a model's images, or of the images named, against real ones; empty but on the main process.

    `progress` makes a function that is told how far a stage is. Raises ValueError.
    """
    config = config.settled()
    network = load_features(config.features, config.feature_weights).to(resolve_device(config.device))
    real = open_image_set(config.data)
    if config.images:
        sets, size, about = measured_images(config, network, progress)
    else:
        sets, size, about = drawn_images(config, network, processes, wait, progress)
    if not processes.is_main:
        return {}
    floor = None
    if isinstance(real, FeatureStatistics):
        reference: FeatureSet | FeatureStatistics = real
        means = None
    else:
        split = real_features(network, real, config.data, size, config.count, progress=progress)
        reference, means, floor = split.reference, split.class_means(), floor_of(split)
    figures = [compare(one, reference, class_means=means) for one in sets]
    return {
        "of": about,
        "count": len(sets[0]),
        "features": {"name": config.features, "size": sets[0].pooled.shape[1], "identity": identity(network)},
        "reference": {"data": config.data, "count": len(reference) if isinstance(reference, FeatureSet) else None},
        "floor": floor and asdict(floor),
        "sets": [asdict(one) for one in figures],
        **spread(figures),
    }


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
    progress: Callable[[str, int], Advance],
) -> tuple[list[FeatureSet], tuple[int, int], dict[str, Any]]:
    """Feature sets of a model's images, their size, and what they are."""
    pipeline = VARPipeline.from_pretrained(config.model, device=config.device, dtype=config.precision)
    settings = {name: getattr(config, name) for name in ("guidance", "top_k", "top_p", "smooth")}
    sampling = pipeline.sampling(**settings)
    draws = Draws(
        count=config.count, sets=config.sets, seed=config.seed, sampling=sampling, batch_size=config.batch_size,
        keep_images=config.keep_images,
    )  # fmt: skip
    about = {"model": config.model, "precision": pipeline.precision, "sampling": to_dict(sampling), "seed": config.seed}
    out = Path(config.out)
    known = about | {
        "count": config.count, "sets": config.sets, "batch_size": config.batch_size,
        "keep_images": config.keep_images, "features": config.features, "network": identity(network),
        "weights": identity(pipeline.transformer),
    }  # fmt: skip
    if processes.is_main:
        claim(out, known)
    wait()
    advance = progress("drawn", config.count * config.sets)
    sets = draw_features(pipeline, network, draws, out, processes=processes, wait=wait, advance=advance)
    return sets, pipeline.tokenizer.config.image_size, about


def measured_images(
    config: GenerationEvaluation, network: nn.Module, progress: Callable[[str, int], Advance]
) -> tuple[list[FeatureSet], tuple[int, int], dict[str, Any]]:
    """The features of images that are there already, `count` of them or all."""
    images = open_image_set(config.images)
    if isinstance(images, FeatureStatistics):
        raise ValueError(f"{config.images}: holds statistics; what is measured must be images")
    size = image_size(images)
    order = balanced_order(images)[: config.count]
    advance = progress("measured", len(order))
    features = cached(network, images, config.images, size, order, advance, exact=True)
    return [features], size, {"images": config.images}
