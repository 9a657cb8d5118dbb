"""Metrics of feature vectors: pure functions of tensors.

Shapes: N and M images, D features, C classes of the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, pstdev

import numpy as np
import torch
from torch import Tensor

BLOCK_ROWS = 2048
"""Rows of a matrix of distances or kernels that are in memory at once."""
ROUNDING = 1e-4
"""Asymmetry and negative eigenvalues below this share of the largest entry are rounding errors."""


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


def finite_figure(name: str, value: float) -> float:
    """Return `value`. Raises ValueError unless it is finite."""
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}: the images, the weights or the data hold values that are not finite")
    return value


def require_comparable(a: Tensor, b: Tensor, *, at_least: int) -> None:
    """Raises ValueError unless both sets are finite, large enough, and have equally many features."""
    require_features(a, "first set", at_least=at_least)
    require_features(b, "second set", at_least=at_least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"the sets have features of different sizes, {a.shape[1]} and {b.shape[1]}")


def squared_distances(a: Tensor, b: Tensor) -> Iterator[Tensor]:
    """Squared Euclidean distances of rows of `a` (N, D) to all of `b` (M, D), in blocks (n, M) of float32."""
    b_squares = b.square().sum(dim=1)
    for part in a.split(BLOCK_ROWS):
        yield torch.addmm(b_squares + part.square().sum(dim=1, keepdim=True), part, b.t(), alpha=-2).clamp_min_(0)


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean (D,) and covariance (D, D) of N feature vectors, float64."""

    mean: Tensor
    covariance: Tensor
    count: int
    "N; 0 where it is not known."

    @classmethod
    def of(cls, features: Tensor) -> FeatureStatistics:
        """Those of features (N, D). Raises ValueError for fewer than two vectors."""
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(f"a covariance needs at least two feature vectors (N, D), got {tuple(features.shape)}")
        exact = features.double()
        return cls(exact.mean(dim=0), torch.cov(exact.t()).reshape(exact.shape[1], exact.shape[1]), len(features))

    def require_sound(self) -> None:
        """Raises ValueError unless both are finite and the covariance is symmetric, without a variance below 0."""
        for name, values in (("mean", self.mean), ("covariance", self.covariance)):
            if not torch.isfinite(values).all():
                raise ValueError(f"the {name} of the features holds values that are not finite")
        most = float(self.covariance.abs().max()) * ROUNDING
        if float((self.covariance - self.covariance.t()).abs().max()) > most:
            raise ValueError("the covariance of the features is not symmetric")
        if float(torch.linalg.eigvalsh(self.covariance).min()) < -most:
            raise ValueError("the covariance of the features has a variance below 0 in some direction")


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Frechet distance of two Gaussians, FID with Inception's features (Heusel et al., arXiv 1706.08500).

    |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), at least 0. Raises ValueError for statistics of different
    sizes, and where they or the distance are not finite.
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
    return max(0.0, finite_figure("Frechet distance", float(distance)))  # max() alone would make 0 of NaN


def inception_score(logits: Tensor, *, splits: int = 10, seed: int | None = 2020) -> tuple[float, float]:
    """exp(E KL(p(y|x) | p(y))) of a classifier's logits (N, C): mean and standard deviation over `splits` parts.

    Salimans et al., arXiv 1606.03498, section 4. Images are shuffled by `seed` before they are split, as torch-fidelity
    does; None keeps their order, as guided-diffusion's evaluator does. Raises ValueError for fewer images than parts.
    """
    require_features(logits, "logits", at_least=splits)
    order = np.arange(len(logits)) if seed is None else np.random.RandomState(seed).permutation(len(logits))
    bounds = [part * len(logits) // splits for part in range(splits + 1)]
    scores = []
    for start, stop in pairwise(bounds):
        log_p_NC = logits[order[start:stop]].double().log_softmax(dim=1)
        p_NC = log_p_NC.exp()
        divergence = (p_NC * (log_p_NC - p_NC.mean(dim=0).log())).nan_to_num(0.0).sum(dim=1)  # 0 log 0 is 0
        scores.append(finite_figure("Inception score", float(divergence.mean().exp())))
    return fmean(scores), pstdev(scores)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of (N, D) and (M, D) with the kernel (x.y / D + 1)^3.

    KID with Inception's features (Binkowski et al., arXiv 1801.01401, section 4), over all pairs instead of random
    subsets; it may fall below 0. Raises ValueError.
    """
    require_comparable(a, b, at_least=2)
    inside = sum(kernel_sum(x, x, skip_diagonal=True) / (len(x) * (len(x) - 1)) for x in (a, b))
    return finite_figure("kernel distance", inside - 2 * kernel_sum(a, b) / (len(a) * len(b)))


def kernel_sum(a: Tensor, b: Tensor, *, skip_diagonal: bool = False) -> float:
    """Sum of the kernel over all pairs in float64, optionally without the pairs of a row and itself."""
    total = 0.0
    for start in range(0, len(a), BLOCK_ROWS):
        part = a[start : start + BLOCK_ROWS]
        kernel = (part @ b.t() / a.shape[1] + 1) ** 3
        total += float(kernel.double().sum())
        if skip_diagonal:
            total -= float(kernel[:, start : start + len(part)].diagonal().double().sum())
    return total


@dataclass(frozen=True)
class Manifold:
    """How much two sets overlap: shares in 0..1, but for density, which is 1 for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def compare_manifolds(generated: Tensor, real: Tensor, *, neighbours: int = 3, density_neighbours: int = 5) -> Manifold:
    """Overlap of generated (N, D) and real (M, D) features.

    Every image has a ball that reaches to its k-th nearest neighbour of its own set. Precision is the share of
    generated images inside a real ball, recall the share of real images inside a generated ball, k = `neighbours`
    (Kynkaanniemi et al., arXiv 1904.06991, eq. 1 and 2). Density is the mean number of real balls that a generated
    image is in, over k; coverage the share of real balls that hold a generated image, k = `density_neighbours`
    (Naeem et al., arXiv 2002.09797, eq. 5 and 6). Raises ValueError.
    """
    require_comparable(generated, real, at_least=max(neighbours, density_neighbours) + 1)
    middle = real.mean(dim=0)  # differences of numbers near zero lose fewer digits
    generated, real = generated - middle, real - middle
    real_radii, wide_radii = radii(real, (neighbours, density_neighbours))
    (generated_radii,) = radii(generated, (neighbours,))
    inside_real, inside_wide = 0, 0
    recalled = torch.zeros(len(real), dtype=torch.bool)
    covered = torch.zeros(len(real), dtype=torch.bool)
    first = 0
    for block in squared_distances(generated, real):  # (n, M)
        inside_real += int((block <= real_radii).any(dim=1).sum())
        within = block <= wide_radii
        inside_wide += int(within.sum())
        covered |= within.any(dim=0).cpu()
        recalled |= (block <= generated_radii[first : first + len(block), None]).any(dim=0).cpu()
        first += len(block)
    return Manifold(
        precision=inside_real / len(generated),
        recall=float(recalled.float().mean()),
        density=inside_wide / (density_neighbours * len(generated)),
        coverage=float(covered.float().mean()),
    )


def radii(features: Tensor, neighbours: tuple[int, ...]) -> list[Tensor]:
    """Squared distance of each row to its k-th nearest other row, for each k: (N,) each."""
    found: list[list[Tensor]] = [[] for _ in neighbours]
    most = max(neighbours) + 1  # the row itself is the nearest
    for block in squared_distances(features, features):
        nearest = block.topk(most, dim=1, largest=False).values
        for k, parts in zip(neighbours, found, strict=True):
            parts.append(nearest[:, k])
    return [torch.cat(parts) for parts in found]


def class_means(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Mean feature of each class, (N, D) and labels (N,) -> (classes, D). Raises ValueError for one without images."""
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) > classes or (counts == 0).any():
        raise ValueError(f"every one of {classes} classes needs an image, got counts {counts.tolist()}")
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return sums / counts[:, None]


def nearest_mean(features: Tensor, means: Tensor) -> Tensor:
    """Class with the nearest mean by Euclidean distance, (N, D) and (classes, D) -> (N,) int64."""
    return torch.cdist(features, means).argmin(dim=1)


def accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Share of equal entries, 0..1."""
    return float((predicted == labels).float().mean())
