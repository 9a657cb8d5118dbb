"""Class accuracy by the nearest class mean in feature space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.data.loader import NO_CLASS
from nextscale.evaluation.features import FeatureSet


@dataclass(frozen=True)
class ClassMeans:
    """Mean features of the classes that have images."""

    ids: Tensor  # (C,) int64, increasing
    means: Tensor  # (C, D)

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, features: FeatureSet) -> ClassMeans | None:
        """Of every class that occurs; None where fewer than two do."""
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


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature of each class: (N, D), (N,) -> (classes, D). Raises ValueError for a class without images."""
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) > classes or (counts == 0).any():
        raise ValueError(f"every one of {classes} classes needs an image, got counts {counts.tolist()}")
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return sums / counts[:, None]


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """Class whose mean is nearest by Euclidean distance: (N, D), (classes, D) -> (N,) int64."""
    return torch.cdist(features, means).argmin(dim=1)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries, 0..1."""
    return float((predicted == labels).float().mean())
