"""The real side of a comparison: features of real images, computed once and kept, or statistics of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nextscale import __version__
from nextscale.data.identity import data_identity, stamp
from nextscale.data.loader import NO_CLASS
from nextscale.data.source import ImageSource
from nextscale.evaluation.comparison import ClassMeans
from nextscale.evaluation.features import FeatureSet, Network, features_of, identity
from nextscale.evaluation.image_sets import ArrayImages, ImageSet, batches, require_size
from nextscale.evaluation.metrics import FeatureStatistics
from nextscale.evaluation.statistics import StoredStatistics
from nextscale.progress import Advance, Announce

logger = logging.getLogger("nextscale.evaluation")

BATCH = 64


@dataclass(frozen=True)
class RealImages:
    """Features of real images to compare with, and of as many others where the data has them."""

    reference: FeatureSet
    other: FeatureSet | None
    indices: np.ndarray
    "Index in the data of each image of the reference."

    def halves(self) -> tuple[FeatureSet, FeatureSet]:
        """Two sets without a common image: the others and the reference, or two halves of the reference."""
        if self.other is not None:
            return self.other, self.reference
        middle = len(self.reference) // 2
        return self.reference[:middle], self.reference[middle : 2 * middle]

    def class_means(self) -> ClassMeans | None:
        """Class means of the others, or of the reference where there are none."""
        return ClassMeans.of(self.reference if self.other is None else self.other)


def real_features(
    network: Network, images: ImageSet, size: tuple[int, int], count: int, *, progress: Announce
) -> RealImages:
    """Features of `count` images (or all), and of as many others where the data has 2 x `count`."""
    order = balanced_order(images)
    enough = len(order) >= 2 * count
    chosen = order[: 2 * count if enough else count]
    features = cached_features(network, images, size, chosen, progress("real", len(chosen)))
    return RealImages(features[:count], features[count:] if enough else None, order[:count])


def balanced_order(images: ImageSet) -> np.ndarray:
    """All indices in a seeded random order, the classes in turn where there are any."""
    order = np.random.default_rng(0).permutation(len(images))
    if images.labels is None:
        return order
    labels = np.asarray(images.labels)[order]
    turn = np.empty(len(order), dtype=np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        turn[own] = np.arange(len(own))
    return order[np.lexsort((labels, turn))]


def cached_features(
    network: Network,
    images: ImageSet,
    size: tuple[int, int],
    indices: np.ndarray,
    advance: Advance,
    *,
    exact: bool = False,
) -> FeatureSet:
    """Features of some images, from $XDG_CACHE_HOME/nextscale where they were computed before.

    With `exact`, an image of another size is an error; without, it is resized. The cache is keyed by the network and
    its weights, the files read with their times, the labels, and our version, which may read files differently. A
    cache that cannot be read or written is a warning.
    """
    path = cache_path(network, images, size, indices, exact=exact)
    try:
        if path is not None and path.is_file():
            features = FeatureSet.load(path)
            logger.info("features of %d images, computed before: %s", len(indices), path)
            return features
    except (ValueError, OSError) as error:
        logger.warning("%s; its features are computed anew", error)
    features = compute_features(network, images, size, indices, advance, exact=exact)
    try:
        if path is None:
            raise ValueError("there is no home directory; XDG_CACHE_HOME may name another place")
        features.save(path)
    except ValueError as error:
        logger.warning("features are not kept: %s", error)
    return features


def cache_path(
    network: Network, images: ImageSet, size: tuple[int, int], indices: np.ndarray, *, exact: bool
) -> Path | None:
    """File under $XDG_CACHE_HOME/nextscale, or ~/.cache/nextscale; None without a home directory."""
    place = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if place.startswith("~"):
        return None
    key: dict[str, Any] = {"network": [network.name, identity(network)], "size": size, "exact": exact}
    key |= {"data": stamp(images), "indices": hashlib.sha256(indices.tobytes()).hexdigest(), "version": __version__}
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    return Path(place) / "nextscale" / "features" / f"{name}.safetensors"


def compute_features(
    network: Network, images: ImageSet, size: tuple[int, int], indices: np.ndarray, advance: Advance, *, exact: bool
) -> FeatureSet:
    """Features in the order of `indices`; images are read in the order of the data."""
    order = np.argsort(indices, kind="stable")
    columns: dict[str, Tensor] = {}  # filled in place: joining parts would hold a large set twice
    done = 0
    for pixels, labels in batches(images, size, batch_size=BATCH, indices=indices[order], exact=exact):
        part = vars(features_of(network, pixels, labels))
        columns = columns or {name: found.new_empty(len(indices), *found.shape[1:]) for name, found in part.items()}
        for name, found in part.items():
            columns[name][order[done : done + len(labels)]] = found
        done += len(labels)
        advance(done)
    return FeatureSet(**columns)


def usable_statistics(
    real: ImageSet | StoredStatistics, network: Network, size: tuple[int, int]
) -> FeatureStatistics | None:
    """Statistics of a larger set that real images bring with them, where they are of this network's features.

    Raises ValueError, before anything is computed, where the real side does not compare with images of this size.
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
    stored.require_of(network, size)  # logs a file that names no network
    logger.info("%s: the Frechet distance is to the statistics in it, all else to its images", stored.path)
    return stored.values


def relabelled(features: FeatureSet, places: Sequence[int] | None) -> FeatureSet:
    """With the reference's ids of the images' classes, by `places`; without classes where that is None."""
    table = torch.tensor([*(places or ()), NO_CLASS])
    known = features.labels if places is not None else torch.full_like(features.labels, NO_CLASS)
    return replace(features, labels=table[known])  # NO_CLASS, -1, finds the last entry


def about_classes(first: FeatureSet, means: ClassMeans | None) -> dict[str, Any] | None:
    """Number of classes and images that the class accuracy is over, for the report."""
    images = 0 if means is None else int(means.comparable(first.labels).sum())
    return {"compared": len(means), "chance": 1 / len(means), "images": images} if means and images else None


def about_reference(
    data: str, real: ImageSet | StoredStatistics, reference: FeatureSet | FeatureStatistics
) -> dict[str, Any]:
    """Which real images are compared with, and how many, for the report."""
    count = (len(reference) if isinstance(reference, FeatureSet) else reference.count) or None
    known = data_identity(real).fingerprint if isinstance(real, ImageSource) else None
    return {"data": data, "count": count, "fingerprint": known}
