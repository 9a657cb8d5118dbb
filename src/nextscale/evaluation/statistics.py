"""Statistics of features in .npz files: `mu` (D,), `sigma` (D, D) and, in our own files, which features they are of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nextscale.evaluation.arrays import StoredArray
from nextscale.evaluation.features import Network, feature_size, identity
from nextscale.evaluation.metrics import FeatureStatistics
from nextscale.files import complete_file

logger = logging.getLogger("nextscale.evaluation")

LARGEST = 16_384
"""Features at most: a covariance of more takes over 2 GB."""


@dataclass(frozen=True)
class StatisticsOrigin:
    """Which features statistics are of."""

    network: str
    weights: str
    "SHA-256 of the network's weights."
    image_size: tuple[int, int]
    "Height and width of the images that the network saw."

    @classmethod
    def of(cls, network: Network, size: tuple[int, int]) -> StatisticsOrigin:
        return cls(network.name, identity(network), size)


@dataclass(frozen=True)
class StoredStatistics:
    """Statistics of a file, with their origin where it names one."""

    path: Path
    values: FeatureStatistics
    origin: StatisticsOrigin | None

    def problem(self, network: Network, size: tuple[int, int]) -> str:
        """Why these do not compare with the network's features of images of `size`; empty where they do."""
        ours, theirs = StatisticsOrigin.of(network, size), self.origin
        features = feature_size(network, size)
        if len(self.values.mean) != features:
            return f"statistics of {len(self.values.mean)} features; those of {ours.network} are {features}"
        if theirs is None or theirs == ours:
            return ""
        if theirs.network != ours.network:
            return f"statistics of {theirs.network}'s features, not of {ours.network}'s"
        if theirs.weights != ours.weights:
            return f"statistics of the features of {theirs.network} with other weights"
        return f"statistics of images of {side(theirs.image_size)} pixels; those measured have {side(size)}"

    def require_of(self, network: Network, size: tuple[int, int]) -> None:
        """Raises ValueError unless these compare; a file that names no origin is logged."""
        problem = self.problem(network, size)
        if problem:
            raise ValueError(f"{self.path}: holds {problem}")
        if self.origin is None:
            taken = f"{network.name}'s features of images of {side(size)} pixels"
            logger.info("%s: names no network: its statistics are taken to be of %s", self.path, taken)


def side(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def read_statistics(path: Path, arrays: Mapping[str, StoredArray]) -> StoredStatistics:
    """`mu` and `sigma` of a file, of any real type and byte order.

    Raises ValueError in one line unless they can be a mean and a covariance.
    """
    mu, sigma = arrays["mu"], arrays["sigma"]
    if len(mu.shape) != 1 or sigma.shape != mu.shape * 2 or not 1 <= mu.shape[0] <= LARGEST:
        raise ValueError(f"{path}: mu is {mu} and sigma {sigma}; expected numbers (D,) and (D, D)")
    if any(array.dtype.kind not in "fiu" for array in (mu, sigma)):
        raise ValueError(f"{path}: mu is {mu.dtype} and sigma {sigma.dtype}; expected real numbers")
    mean, covariance = (torch.from_numpy(array.read().astype(np.float64)) for array in (mu, sigma))
    try:
        values = FeatureStatistics(mean, covariance, int(text(arrays, "count") or 0))
        values.require_sound()
        return StoredStatistics(path, values, read_origin(arrays))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_origin(arrays: Mapping[str, StoredArray]) -> StatisticsOrigin | None:
    """The origin that our files name. Raises ValueError for a damaged one."""
    if not {"network", "weights", "image_size"} <= set(arrays):
        return None
    size = arrays["image_size"].read().tolist()
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"image_size is {size}; expected height and width")
    return StatisticsOrigin(text(arrays, "network"), text(arrays, "weights"), (int(size[0]), int(size[1])))


def text(arrays: Mapping[str, StoredArray], name: str) -> str:
    """An entry that is a single text or number; empty where there is none."""
    return str(arrays[name].read().item()) if name in arrays and arrays[name].shape == () else ""


def write_statistics(path: Path, values: FeatureStatistics, origin: StatisticsOrigin) -> None:
    """Write `mu` and `sigma` with their origin and `count`; the file appears when complete."""
    arrays: dict[str, Any] = {name: np.array(value) for name, value in vars(origin).items()}
    with complete_file(path) as partial, partial.open("wb") as file:
        np.savez(file, mu=values.mean.numpy(), sigma=values.covariance.numpy(), count=np.int64(values.count), **arrays)
