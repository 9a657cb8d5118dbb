"""All figures of one set of images against another."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

from nextscale.evaluation.classification import ClassMeans
from nextscale.evaluation.features import FeatureSet
from nextscale.evaluation.frechet import FeatureStatistics, frechet_distance
from nextscale.evaluation.inception_score import inception_score
from nextscale.evaluation.kernel_distance import kernel_distance
from nextscale.evaluation.neighbours import compare_manifolds
from nextscale.evaluation.sets import require_features

logger = logging.getLogger("nextscale.evaluation")

SPLITS = 10
"""Parts of the Inception score."""


@dataclass(frozen=True)
class Comparison:
    """Figures of `count` images; None where the reference or the images do not have what it takes."""

    count: int
    frechet: float
    inception_score: float | None = None
    inception_score_spread: float | None = None
    kernel: float | None = None
    precision: float | None = None
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None
    class_accuracy: float | None = None


FIGURES = tuple(name for name in Comparison.__dataclass_fields__ if name != "count")


def compare(
    images: FeatureSet,
    reference: FeatureSet | FeatureStatistics,
    *,
    class_means: ClassMeans | None = None,
    statistics: FeatureStatistics | None = None,
) -> Comparison:
    """Figures of images against a reference, or against its statistics alone.

    `class_means` of other real images give the share of images whose nearest mean is their own class's, among those
    of a class that has one. The Frechet distance is to `statistics`, of a larger set, where they are given. Raises
    ValueError for features or figures that are not finite, and for sets that are too small.
    """
    require_features(images.pooled, "images", at_least=2)
    fitted = [images] if statistics or isinstance(reference, FeatureStatistics) else [images, reference]
    few = min(map(len, fitted))
    size = images.pooled.shape[1]
    if few < size:
        logger.warning(
            "%d images have fewer degrees of freedom than their %d features: covariances are singular, and Frechet "
            "distances larger than those of more images",
            few, size,
        )  # fmt: skip
    figures: dict[str, float | None] = {}
    if isinstance(reference, FeatureSet):
        figures |= {"kernel": kernel_distance(images.pooled, reference.pooled)}
        figures |= asdict(compare_manifolds(images.pooled, reference.pooled))
        statistics = statistics or FeatureStatistics.of(reference.pooled)
    else:
        statistics = reference
    figures["frechet"] = frechet_distance(FeatureStatistics.of(images.pooled), statistics)
    if len(images) >= SPLITS:
        figures["inception_score"], figures["inception_score_spread"] = inception_score(images.logits, splits=SPLITS)
    if class_means is not None:
        figures["class_accuracy"] = class_means.accuracy(images.pooled, images.labels)
    return Comparison(len(images), **figures)  # pyright: ignore[reportArgumentType]


def spread(comparisons: Sequence[Comparison]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation of each figure over independent sets; a single set has no deviation."""
    values = {name: [asdict(one)[name] for one in comparisons] for name in FIGURES}
    known: dict[str, list[Any]] = {name: figures for name, figures in values.items() if None not in figures}
    return {
        "mean": {name: fmean(figures) for name, figures in known.items()},
        "deviation": {name: stdev(figures) if len(figures) > 1 else None for name, figures in known.items()},
    }
