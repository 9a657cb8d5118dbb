"""Precision and recall, density and coverage: sets compared through balls around their k nearest neighbours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from nextscale.evaluation.sets import require_comparable, squared_distances


@dataclass(frozen=True)
class Manifold:
    """How much two sets overlap; each figure is a share but density, which is 1 for equal distributions."""

    precision: float
    recall: float
    density: float
    coverage: float


def compare_manifolds(generated: Tensor, real: Tensor, *, neighbours: int = 3, density_neighbours: int = 5) -> Manifold:
    """Overlap of generated (N, D) and real (M, D) features.

    Precision and recall: the share of one set inside balls of the other, each as wide as the distance to the
    `neighbours`-th nearest of its own set (Kynkaanniemi et al., arXiv 1904.06991, eq. 1 and 2). Density counts the
    real balls of `density_neighbours` that hold a generated image, over their number; coverage is the share of them
    that hold any (Naeem et al., arXiv 2002.09797, eq. 5 and 6). Raises ValueError.
    """
    require_comparable(generated, real, at_least=max(neighbours, density_neighbours) + 1)
    middle = real.mean(dim=0)  # nearer to zero, differences lose fewer digits
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
