"""All figures of one set of features against another.

Shapes: N images, D features, C classes.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

from nextscale.data.loader import NO_CLASS
from nextscale.evaluation.features import FeatureSet
from nextscale.evaluation.metrics import (
    FeatureStatistics,
    accuracy,
    class_means,
    compare_manifolds,
    frechet_distance,
    inception_score,
    kernel_distance,
    nearest_mean,
    require_features,
)

logger = logging.getLogger("nextscale.evaluation")

SPLITS = 10
"""Parts of the Inception score."""


@dataclass(frozen=True)
class ClassMeans:
    """Mean features of the classes that have images."""

    ids: Tensor  # (C,) int64, increasing
    means: Tensor  # (C, D)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, features: FeatureSet) -> ClassMeans | None:
        """Those of every class that occurs; None where fewer than two do."""
        known = features.labels != NO_CLASS
        ids, labels = torch.unique(features.labels[known], return_inverse=True)
        return cls(ids, class_means(features.pooled[known], labels, len(ids))) if len(ids) > 1 else None

    def comparable(self, labels: Tensor) -> Tensor:
        """Which images are of a class that has a mean, (N,) bool."""
        return torch.isin(labels, self.ids)

    def accuracy(self, features: Tensor, labels: Tensor) -> float | None:
        """Share of comparable images (N, D) whose nearest mean is their own class's; None without such images."""
        chosen = self.comparable(labels)
        if not chosen.any():
            return None
        return accuracy(self.ids[nearest_mean(features[chosen], self.means)], labels[chosen])


@dataclass(frozen=True)
class FeatureComparison:
    """Figures of `count` images; None where the reference or the images lack what a figure needs."""

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


def compare_features(
    images: FeatureSet,
    reference: FeatureSet | FeatureStatistics,
    *,
    class_means: ClassMeans | None = None,
    statistics: FeatureStatistics | None = None,
) -> FeatureComparison:
    """Figures of images against a reference; its statistics alone give the Frechet distance only.

    `class_means`, of other real images, give the class accuracy: the share of images whose nearest mean is their own
    class's, among images of a class that has a mean. `statistics`, of a larger set, replace the reference's own in the
    Frechet distance. Raises ValueError for features or figures that are not finite, and for sets that are too small.
    """
    require_features(images.pooled, "images", at_least=2)
    warn_of_few(images, *([] if statistics or isinstance(reference, FeatureStatistics) else [reference]))
    overlap: dict[str, Any] = {}
    if isinstance(reference, FeatureSet):
        overlap = {"kernel": kernel_distance(images.pooled, reference.pooled)}
        overlap |= asdict(compare_manifolds(images.pooled, reference.pooled))
        statistics = statistics or FeatureStatistics.of(reference.pooled)
    else:
        statistics = reference
    frechet = frechet_distance(FeatureStatistics.of(images.pooled), statistics)
    score = inception_score(images.logits, splits=SPLITS) if len(images) >= SPLITS else (None, None)
    right = class_means.accuracy(images.pooled, images.labels) if class_means is not None else None
    return FeatureComparison(len(images), frechet, *score, **overlap, class_accuracy=right)


def warn_of_few(*sets: FeatureSet) -> None:
    """Warn where a set has fewer images than features."""
    images, size = min(map(len, sets)), sets[0].pooled.shape[1]
    if images < size:
        logger.warning(
            f"{images} images have fewer degrees of freedom than their {size} features: covariances are singular, and "
            "Frechet distances larger than those of more images"
        )


def spread_over_sets(comparisons: Sequence[FeatureComparison]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation of each figure over independent sets; a single set has no deviation."""
    columns = {name: [getattr(one, name) for one in comparisons] for name in asdict(comparisons[0]) if name != "count"}
    known: dict[str, list[Any]] = {name: values for name, values in columns.items() if None not in values}
    return {
        "mean": {name: fmean(values) for name, values in known.items()},
        "deviation": {name: stdev(values) if len(values) > 1 else None for name, values in known.items()},
    }
