"""Frechet distance between Gaussians fitted to features (Heusel et al., arXiv 1706.08500)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean (D,) and covariance (D, D) of N feature vectors, float64."""

    mean: Tensor
    covariance: Tensor
    count: int

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """From (N, D). Raises ValueError for fewer than two."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a covariance needs at least two feature vectors (N, D), got {tuple(features.shape)}")
        exact = features.double()
        return cls(exact.mean(dim=0), torch.cov(exact.t()), len(features))


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), at least 0."""
    # tr (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of the symmetric S_a^(1/2) S_b S_a^(1/2).
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.t()
    shared = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(0.0, float(distance))
