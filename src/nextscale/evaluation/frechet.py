"""Frechet distance between Gaussians fitted to features (Heusel et al., arXiv 1706.08500)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.evaluation.sets import require_finite

ROUNDING = 1e-4
"""Asymmetry and negative eigenvalues that rounding explains, as a share of the largest entry."""


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean (D,) and covariance (D, D) of N feature vectors, float64."""

    mean: Tensor
    covariance: Tensor
    count: int
    "N; 0 where it is not known."

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """From (N, D). Raises ValueError for fewer than two."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a covariance needs at least two feature vectors (N, D), got {tuple(features.shape)}")
        exact = features.double()
        return cls(exact.mean(dim=0), torch.cov(exact.t()).reshape(exact.shape[1], exact.shape[1]), len(features))

    def require_sound(self) -> None:
        """Raises ValueError unless all is finite and the covariance is one: symmetric, no variance below 0."""
        for name, values in (("mean", self.mean), ("covariance", self.covariance)):
            if not torch.isfinite(values).all():
                raise ValueError(f"the {name} of the features holds values that are not finite")
        most = float(self.covariance.abs().max()) * ROUNDING
        if float((self.covariance - self.covariance.t()).abs().max()) > most:
            raise ValueError("the covariance of the features is not symmetric")
        if float(torch.linalg.eigvalsh(self.covariance).min()) < -most:
            raise ValueError("the covariance of the features has a variance below 0 in some direction")


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), at least 0.

    Raises ValueError for statistics of different sizes or that are not finite, and where the distance is not.
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"statistics are of {len(a.mean)} and of {len(b.mean)} features; they do not compare")
    for values in (a.mean, a.covariance, b.mean, b.covariance):
        if not torch.isfinite(values).all():
            raise ValueError("the Frechet distance needs finite statistics; some of these values are not")
    # tr (S_a S_b)^(1/2) is the sum of the roots of the eigenvalues of the symmetric S_a^(1/2) S_b S_a^(1/2).
    try:
        values, vectors = torch.linalg.eigh(a.covariance)
        root = vectors * values.clamp_min(0).sqrt() @ vectors.t()
        shared = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp_min(0).sqrt().sum()
    except RuntimeError as error:  # torch's LinAlgError, of entries near the largest floats
        raise ValueError(f"the Frechet distance cannot be computed ({str(error).splitlines()[0]})") from error
    distance = (a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * shared
    return max(0.0, require_finite("Frechet distance", float(distance)))  # max() alone would make 0 of NaN
