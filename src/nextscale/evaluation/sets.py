"""What every comparison of two sets of features asks of them."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK_ROWS = 2048
"""Rows of a table of distances or kernels that are held at once."""


def require_features(features: Tensor, name: str, *, at_least: int) -> None:
    """Raises ValueError unless `features` (N, D) is finite and has `at_least` rows."""
    if features.ndim != 2:
        raise ValueError(f"{name}: expected one row per image (N, D), got {tuple(features.shape)}")
    if len(features) < at_least:
        raise ValueError(f"{name}: holds {len(features)} images, this figure needs at least {at_least}")
    finite = torch.isfinite(features).all(dim=1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise ValueError(f"{name}: features of {int((~finite).sum())} images are not finite, first of image {row}")


def require_finite(name: str, value: float) -> float:
    """The value of a figure. Raises ValueError where it is not a number, or infinite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}: the images, the weights or the data hold values that are not finite")
    return value


def require_comparable(a: Tensor, b: Tensor, *, at_least: int) -> None:
    """Raises ValueError unless both sets are usable and have features of one size."""
    require_features(a, "first set", at_least=at_least)
    require_features(b, "second set", at_least=at_least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the sets have features of different sizes, {a.shape[1]} and {b.shape[1]}")


def squared_distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Squared Euclidean distances of rows of `a` (N, D) to all of `b` (M, D), as blocks (n, M) of float32."""
    b_squares = b.square().sum(dim=1)
    for part in a.split(BLOCK_ROWS):
        yield torch.addmm(b_squares + part.square().sum(dim=1, keepdim=True), part, b.t(), alpha=-2).clamp_min_(0)
