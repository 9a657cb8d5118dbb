"""The real side of a comparison: what of it compares with what is measured, and what is said of it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from nextscale.data.identity import data_identity
from nextscale.data.loader import NO_CLASS
from nextscale.data.source import ImageSource
from nextscale.evaluation.classification import ClassMeans
from nextscale.evaluation.features import FeatureSet
from nextscale.evaluation.frechet import FeatureStatistics
from nextscale.evaluation.image_sets import ArrayImages, ImageSet, require_size
from nextscale.evaluation.statistics import StoredStatistics

logger = logging.getLogger("nextscale.evaluation")


def usable_statistics(
    real: ImageSet | StoredStatistics, network: nn.Module, size: tuple[int, int]
) -> FeatureStatistics | None:
    """Statistics of a larger set that real images bring with them, where they are of this network's features.

    Raises ValueError where the real side does not compare with what is measured: before anything is computed.
    """
    if isinstance(real, StoredStatistics):
        real.require_of(network, size)
        return None
    require_size(real, size)
    stored = real.statistics if isinstance(real, ArrayImages) else None
    if stored is None:
        return None
    problem = stored.problem(network, size)
    if problem:
        logger.info("%s: beside its images holds %s; they are passed over", stored.path, problem)
        return None
    stored.require_of(network, size)  # which says where they are taken on trust
    logger.info("%s: the Frechet distance is to the statistics in it, all else to its images", stored.path)
    return stored.values


def relabelled(features: FeatureSet, places: Sequence[int] | None) -> FeatureSet:
    """With the reference's ids of the images' classes; without classes where the two sides have none in common."""
    table = torch.tensor([*(places or ()), NO_CLASS])
    known = features.labels if places is not None else torch.full_like(features.labels, NO_CLASS)
    return replace(features, labels=table[known])  # NO_CLASS is the last


def about_classes(first: FeatureSet, means: ClassMeans | None) -> dict[str, Any] | None:
    """Over how many classes and images of a set the class accuracy is."""
    images = 0 if means is None else int(means.comparable(first.labels).sum())
    return {"compared": len(means), "chance": 1 / len(means), "images": images} if means and images else None


def about_reference(
    data: str, real: ImageSet | StoredStatistics, reference: FeatureSet | FeatureStatistics
) -> dict[str, Any]:
    """Which real images these are, and how many."""
    count = (len(reference) if isinstance(reference, FeatureSet) else reference.count) or None
    known = data_identity(real).fingerprint if isinstance(real, ImageSource) else None
    return {"data": data, "count": count, "fingerprint": known}
