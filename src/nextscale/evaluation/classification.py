"""Class accuracy by the nearest class mean in feature space."""

from __future__ import annotations

import torch
from torch import Tensor


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
