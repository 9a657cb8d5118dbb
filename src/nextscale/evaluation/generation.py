"""`evaluate generation`: a model's images, or any others, compared with real ones.

A report has the number of images, the features, the figures of real images against other real images (the floor), and
the spread of the figures over sets with different seeds.

Shapes: N images, D features.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nextscale import __version__
from nextscale.classes import UNMATCHED, match_classes
from nextscale.config import to_dict
from nextscale.data.decode import read_image
from nextscale.evaluation.comparison import ClassMeans, FeatureComparison, compare_features, spread_over_sets
from nextscale.evaluation.config import GenerationEvaluation
from nextscale.evaluation.features import FeatureSet, Network, identity, load_features
from nextscale.evaluation.image_sets import (
    ImageSet,
    image_size,
    open_image_set,
    open_images_alone,
    read_images,
    write_npz_images,
)
from nextscale.evaluation.metrics import FeatureStatistics, squared_distances
from nextscale.evaluation.reference import (
    RealImages,
    about_classes,
    about_reference,
    balanced_order,
    cached_features,
    real_features,
    relabelled,
    usable_statistics,
)
from nextscale.evaluation.sampled import Draws, claim_folder, draw_features, shown_numbers
from nextscale.evaluation.statistics import StatisticsOrigin, StoredStatistics, write_statistics
from nextscale.pictures import grid, save_image
from nextscale.pipeline import VARPipeline
from nextscale.progress import Announce, silent
from nextscale.runtime import Processes, resolve_device
from nextscale.sampling.rejection import ClassifierJudge, load_rejection

logger = logging.getLogger("nextscale.evaluation")

ROWS, NEIGHBOURS = 8, 6
"""Images that are shown beside their nearest real ones, and how many of these."""


@dataclass(frozen=True)
class Measured:
    """What is compared with real images: sets of features, and images of the first set."""

    sets: list[FeatureSet]
    about: dict[str, Any]
    shown: list[int]
    "Rows of the first set whose images are shown."
    images: Callable[[Sequence[int]], list[Image.Image]]
    "Reads the images of some rows of the first set."


@dataclass(frozen=True)
class Subject:
    """Images that are opened but not measured yet."""

    size: tuple[int, int]
    class_names: tuple[str, ...]
    "Empty where the classes have no names."
    classes: int
    measure: Callable[[], Measured]


@dataclass(frozen=True)
class OpenEvaluation:
    """Both sides of an evaluation, found to compare; nothing is drawn or computed yet."""

    network: Network
    real: ImageSet | StoredStatistics
    subject: Subject
    statistics: FeatureStatistics | None
    "Of a larger set, which the real images bring with them."
    places: Sequence[int] | None
    "For each class of the subject its id in the data; None where one side has no classes."


def open_evaluation(
    config: GenerationEvaluation,
    *,
    processes: Processes = Processes(),  # noqa: B008
    progress: Announce = silent,
) -> OpenEvaluation:
    """Open what is compared. Raises ValueError, with nothing written, where it cannot be."""
    config = config.settled()
    network = load_features(config.features, config.feature_weights).to(resolve_device(config.device))
    real = open_image_set(config.data, **config.columns)
    if config.images:
        subject = existing_images(config, network, progress)
    else:
        subject = drawn_images(config, network, processes, progress)
    if config.statistics and isinstance(real, StoredStatistics):
        raise ValueError(f"{config.data} holds statistics already; --statistics writes those of images")
    statistics = usable_statistics(real, network, subject.size)
    return OpenEvaluation(network, real, subject, statistics, comparable_classes(config, subject, real))


def evaluate_generation(
    config: GenerationEvaluation,
    *,
    processes: Processes = Processes(),  # noqa: B008
    progress: Announce = silent,
) -> dict[str, Any]:
    """The report of a model's images, or of existing images, against real ones; empty on all but the main process.

    `progress` announces a stage and returns the function that shows its progress. Raises ValueError.
    """
    config = config.settled()
    opened = open_evaluation(config, processes=processes, progress=progress)
    network, real, subject = opened.network, opened.real, opened.subject
    measured = subject.measure()
    if not processes.is_main:
        return {}
    split = floor = means = None
    if isinstance(real, StoredStatistics):
        reference: FeatureSet | FeatureStatistics = real.values
    else:
        split = real_features(network, real, subject.size, config.count, progress=progress)
        reference, means, floor = split.reference, split.class_means(), floor_of(split)
    compared = [relabelled(one, opened.places) for one in measured.sets]
    figures = [compare_features(one, reference, class_means=means, statistics=opened.statistics) for one in compared]
    write_files(config, subject, measured, real, split, network)
    size = measured.sets[0].pooled.shape[1]
    return {
        "of": measured.about,
        "count": len(measured.sets[0]),
        "features": {"name": config.features, "size": size, "identity": identity(network)},
        "reference": about_reference(config.data, real, reference),
        "classes": about_classes(compared[0], means),
        "floor": floor and asdict(floor),
        "sets": [asdict(one) for one in figures],
        **spread_over_sets(figures),
    }


def write_files(
    config: GenerationEvaluation,
    subject: Subject,
    measured: Measured,
    real: ImageSet | StoredStatistics,
    split: RealImages | None,
    network: Network,
) -> None:
    """Write OUT/samples.png, OUT/nearest.png, and the .npz files asked for."""
    out, first = Path(config.out), measured.sets[0]
    images = measured.images(measured.shown)
    save_image(sample_sheet(images, first.labels[measured.shown]), out / "samples.png")
    if split is not None and not isinstance(real, StoredStatistics):
        few = measured.shown[:ROWS]
        save_image(neighbour_sheet(images[:ROWS], first.pooled[few], split, real), out / "nearest.png")
    if config.npz:
        write_npz_images(Path(config.npz), shuffled(measured), (len(first), *subject.size, 3))
    if config.statistics and split is not None:
        values = FeatureStatistics.of(split.reference.pooled)
        write_statistics(Path(config.statistics), values, StatisticsOrigin.of(network, subject.size))


def sample_sheet(images: Sequence[Image.Image], labels: Tensor) -> Image.Image:
    """One row per class where all classes have equally many images, else a square."""
    order = labels.argsort(stable=True).tolist()
    counts = torch.unique(labels, return_counts=True)[1]
    columns = int(counts[0]) if len(counts) > 1 and (counts == counts[0]).all() else None
    return grid([images[row] for row in order], columns=columns)


def neighbour_sheet(images: Sequence[Image.Image], features: Tensor, split: RealImages, real: ImageSet) -> Image.Image:
    """A row per image: it, then the real images nearest to its features (N, D); copies of those would show."""
    size = images[0].height, images[0].width
    distances = torch.cat(list(squared_distances(features, split.reference.pooled)))
    nearest = distances.topk(min(NEIGHBOURS, distances.shape[1]), largest=False).indices
    places = split.indices[nearest.numpy()]  # (N, NEIGHBOURS)
    found = read_images(real, np.unique(places), size)
    rows = [[image, *(found[int(place)] for place in row)] for image, row in zip(images, places, strict=True)]
    return grid([image for row in rows for image in row], columns=1 + places.shape[1])


def shuffled(measured: Measured) -> Iterator[np.ndarray]:
    """The first set's images in a seeded random order."""
    order = np.random.default_rng(0).permutation(len(measured.sets[0])).tolist()
    for start in range(0, len(order), 256):
        yield from map(np.asarray, measured.images(order[start : start + 256]))


def floor_of(split: RealImages) -> FeatureComparison:
    """Figures of real images against real images: others against the reference, or one half of it against the other."""
    one, two = split.halves()
    if split.other is None:
        logger.warning(
            "the data has no images beside the reference: the floor is that of two halves, %d images", len(one)
        )
    return compare_features(one, two, class_means=ClassMeans.of(two))


def drawn_images(config: GenerationEvaluation, network: Network, processes: Processes, progress: Announce) -> Subject:
    """Images that a model draws."""
    pipeline = VARPipeline.from_pretrained(config.model, device=config.device, dtype=config.precision)
    classes, names = pipeline.transformer.config.classes, pipeline.config.class_names
    chosen = config.sampling()
    if config.protocol and not pipeline.family.guides:  # protocols are of models that have guidance
        chosen.pop("guidance", None)
    sampling = pipeline.sampling(**chosen)
    pipeline.family.require_settings(sampling)  # before a folder is made
    rejection = load_rejection(config.candidates, 1, config.judge, classes=classes, class_names=names)
    plan = {name: getattr(config, name) for name in ("count", "sets", "batch_size")}
    plan["keep_images"] = config.keep_images or bool(config.npz)
    draws = Draws(**plan, out=Path(config.out), seed=config.seed, sampling=sampling, rejection=rejection)
    size = pipeline.tokenizer.config.image_size
    about = {"model": config.model, "precision": pipeline.precision, "sampling": to_dict(sampling), "seed": config.seed}
    if rejection is not None:
        about |= {"candidates": config.candidates, "judge": config.judge}

    def measure() -> Measured:
        about.update(weights=identity(pipeline.transformer), tokenizer=identity(pipeline.tokenizer))
        known = about | plan | {"features": config.features, "network": identity(network), "version": __version__}
        if rejection is not None and isinstance(rejection.judge, ClassifierJudge):
            known |= {"judge_weights": identity(rejection.judge.network)}
        if processes.is_main:
            claim_folder(draws.out, {name: value for name, value in known.items() if name != "model"})
        processes.wait()
        advance = progress("drawn", config.count * config.sets)
        sets = draw_features(pipeline, network, draws, processes, advance)
        return Measured(sets, about, shown_numbers(config.count, classes), read)

    def read(numbers: Sequence[int]) -> list[Image.Image]:
        return [read_image(draws.kept(0, n) if draws.keep_images else draws.sample(n)) for n in numbers]

    return Subject(size, names, classes, measure)


def existing_images(config: GenerationEvaluation, network: Network, progress: Announce) -> Subject:
    """`count` of the images that `--images` names, or all."""
    images = open_images_alone(config.images, **config.columns)
    size = image_size(images)
    order = balanced_order(images)[: config.count]

    def measure() -> Measured:
        features = cached_features(network, images, size, order, progress("measured", len(order)), exact=True)
        shown = shown_numbers(len(order), int(features.labels.max()) + 1)
        return Measured([features], {"images": config.images}, shown, read)

    def read(rows: Sequence[int]) -> list[Image.Image]:
        found = read_images(images, np.sort(order[rows]), size)
        return [found[int(order[row])] for row in rows]

    return Subject(size, images.class_names, len(images.class_names), measure)


def comparable_classes(
    config: GenerationEvaluation, subject: Subject, real: ImageSet | StoredStatistics
) -> Sequence[int] | None:
    """For each class of the subject, its id in the data, or `UNMATCHED`; None where one side has no classes.

    Raises ValueError where a model does not know a class of the data.
    """
    names = () if isinstance(real, StoredStatistics) else real.class_names
    if not names or not subject.classes:
        return None
    if config.images:
        where = f"images {config.images}"
        return match_classes(subject.class_names, names, where=where, whose="the data's", partly=True)
    places = [UNMATCHED] * subject.classes
    ids = match_classes(names, subject.class_names, where=f"data {config.data}", classes=subject.classes)
    for number, place in enumerate(ids):
        places[place] = number
    return places
