"""Features of real images: a reference and others like it, computed once and kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from nextscale import __version__
from nextscale.data.identity import stamp
from nextscale.evaluation.classification import ClassMeans
from nextscale.evaluation.features import FeatureSet, identity
from nextscale.evaluation.image_sets import ImageSet, batches
from nextscale.files import complete_file
from nextscale.progress import Advance, Announce

logger = logging.getLogger("nextscale.evaluation")

BATCH = 64


@dataclass(frozen=True)
class RealImages:
    """Real images to compare with, and as many others where the data has them."""

    reference: FeatureSet
    other: FeatureSet | None
    indices: np.ndarray
    "Where in the data each image of the reference is."

    def halves(self) -> tuple[FeatureSet, FeatureSet]:
        """Two sets that share no image: the others and the reference, or the reference's halves."""
        if self.other is not None:
            return self.other, self.reference
        middle = len(self.reference) // 2
        return self.reference[:middle], self.reference[middle : 2 * middle]

    def class_means(self) -> ClassMeans | None:
        """Mean features of each class of images that are not the reference's, where there are others."""
        return ClassMeans.of(self.reference if self.other is None else self.other)


def real_features(
    network: nn.Module,
    images: ImageSet,
    size: tuple[int, int],
    count: int,
    *,
    progress: Announce,
) -> RealImages:
    """Features of `count` images (or all), and of as many others where there are so many."""
    order = balanced_order(images)
    enough = len(order) >= 2 * count
    chosen = order[: 2 * count if enough else count]
    features = cached(network, images, size, chosen, progress("real", len(chosen)))
    return RealImages(features[:count], features[count:] if enough else None, order[:count])


def balanced_order(images: ImageSet) -> np.ndarray:
    """Indices in a seeded order, classes in turn where there are any."""
    order = np.random.default_rng(0).permutation(len(images))
    if images.labels is None:
        return order
    labels = np.asarray(images.labels)[order]
    turn = np.empty(len(order), dtype=np.int64)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        turn[own] = np.arange(len(own))
    return order[np.lexsort((labels, turn))]


def cached(
    network: nn.Module,
    images: ImageSet,
    size: tuple[int, int],
    indices: np.ndarray,
    advance: Advance,
    *,
    exact: bool = False,
) -> FeatureSet:
    """Features of some images (with `exact`, of that very size), kept in $XDG_CACHE_HOME/nextscale from then on.

    They are known by the network and its weights, the files that are read with their times, labels, and our version,
    which may read files otherwise. A cache that cannot be read or written is told of and done without.
    """
    key = {
        "network": [str(network.name), identity(network)], "size": size, "exact": exact, "data": stamp(images),
        "indices": hashlib.sha256(indices.tobytes()).hexdigest(), "version": __version__,
    }  # fmt: skip
    name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    folder = cache_folder()
    path = folder and folder / "features" / f"{name}.safetensors"
    try:
        if path is not None and path.is_file():
            features = load_features_file(path)
            logger.info("features of %d images, computed before: %s", len(indices), path)
            return features
    except (ValueError, OSError) as error:
        logger.warning("%s; its features are computed anew", error)
    features = computed(network, images, size, indices, advance, exact)
    try:
        if path is None:
            raise ValueError("there is no home directory; XDG_CACHE_HOME may name another place")
        save_features_file(features, path)
    except ValueError as error:
        logger.warning("features are not kept: %s", error)
    return features


def computed(
    network: nn.Module, images: ImageSet, size: tuple[int, int], indices: np.ndarray, advance: Advance, exact: bool
) -> FeatureSet:
    """Features in the order of `indices`; the data is read in its own order."""
    device = next(network.parameters()).device
    order = np.argsort(indices, kind="stable")
    features: FeatureSet | None = None
    done = 0
    for pixels, labels in batches(images, size, batch_size=BATCH, indices=indices[order], exact=exact):
        pooled, logits = (part.cpu() for part in network.outputs(pixels.to(device)))  # pyright: ignore[reportCallIssue]
        if features is None:  # filled in place: a second copy of a large set would be the peak of memory
            features = FeatureSet(
                pooled.new_empty(len(indices), pooled.shape[1]), logits.new_empty(len(indices), logits.shape[1]),
                labels.new_empty(len(indices)),
            )  # fmt: skip
        rows = torch.from_numpy(order[done : done + len(labels)])
        features.pooled[rows], features.logits[rows], features.labels[rows] = pooled, logits, labels
        done += len(labels)
        advance(done)
    assert features is not None
    return features


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/nextscale, or ~/.cache/nextscale; None without a home."""
    place = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return None if place.startswith("~") else Path(place) / "nextscale"


def save_features_file(features: FeatureSet, path: Path) -> None:
    """Write a safetensors file that appears only when complete."""
    from safetensors.torch import save_file

    with complete_file(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in vars(features).items()}, partial)


def load_features_file(path: Path) -> FeatureSet:
    """Raises ValueError for a damaged file."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return FeatureSet(**load_file(path))
    except (OSError, SafetensorError, TypeError) as error:
        raise ValueError(f"{path}: not a readable file of features ({error}); delete it") from error
