"""Scaled spatial guidance: logits move away from what the coarser scale's logits say already (SSG, arXiv:2602.05534).

The prior of scale k is the coarser logits at its size: their own frequencies (DCT) below, and those of their bicubic
enlargement above. The paper gives neither the strengths nor the interpolation; both are chosen here.
Shapes: B batch, C latent channels, (h, w) final grid, l = h_k w_k positions of scale k, l' those of the scale before,
V codebook entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from nextscale.pyramid import ScaleSchedule, Size
from nextscale.tokenizer.residual import bicubic_matrix


def spatial_strengths(given: Sequence[float], scales: int) -> list[float]:
    """b_k of each scale; the first has no coarser one and 0.

    Of several values, the first is the second scale's, and the last holds for those after it. A single one is the
    second scale's too, and falls evenly, to a (K-1)-th of it at the last.
    """
    finer = range(scales - 1)
    if not given:
        return [0.0] * scales
    if len(given) == 1:
        return [0.0, *(given[0] * (1 - number / (scales - 1)) for number in finer)]
    return [0.0, *(given[min(number, len(given) - 1)] for number in finer)]


def spatially_guided(logits_BLV: Tensor, coarser_BLV: Tensor, prior: Tensor, strength: float) -> Tensor:
    """l + b (l - prior), with the prior's matrix applied to the coarser logits: (B, l, V), (B, l', V), (l, l')."""
    each = prior.expand(len(logits_BLV), *prior.shape)
    return torch.baddbmm(logits_BLV, each, coarser_BLV, beta=1 + strength, alpha=-strength)  # one pass over V


@cache  # without bound: CUDA graphs read the matrices where they lie
def prior_matrix(coarse: Size, fine: Size, device: torch.device) -> Tensor:
    """The product with it makes a flat map of the coarse size the prior of the fine one, (l, l') float32.

    The enlargement plus the map itself, interpolated by DCT, less the enlargement's part in the map's frequencies.
    """
    enlarged, interpolated, shared = (torch.ones(1, 1, dtype=torch.float64) for _ in range(3))
    for before, after in zip(coarse, fine, strict=True):
        enlarge = bicubic_matrix(before, after, torch.device("cpu")).double()
        low = dct_matrix(after)[:before]  # all of them where a side does not grow
        enlarged = torch.kron(enlarged, enlarge)
        interpolated = torch.kron(interpolated, math.sqrt(after / before) * low.t() @ dct_matrix(before))
        shared = torch.kron(shared, low.t() @ low @ enlarge)
    return (enlarged + interpolated - shared).float().to(device)


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II: row u holds cos(pi (2x + 1) u / 2n) over x, (n, n) float64."""
    places = torch.arange(size, dtype=torch.float64)
    table = torch.cos(math.pi / size * (places + 0.5) * places[:, None]) * math.sqrt(2 / size)
    table[0] /= math.sqrt(2)
    return table


class SpatiallyGuided:
    """A predictor whose logits are guided by those of `predict` for the scale before."""

    def __init__(self, predict: Callable[..., Tensor], schedule: ScaleSchedule, strengths: Sequence[float]) -> None:
        """`predict` gives (B, l, V) from a scale and what it reads there; scales come in order, also several times."""
        self.predict, self.schedule, self.strengths = predict, schedule, strengths
        self.scale, self.latest, self.coarser = 0, None, None

    def __call__(self, scale: int, *read: Tensor) -> Tensor:
        """Guided logits (B, l, V)."""
        logits = self.predict(scale, *read)
        if scale != self.scale:
            self.scale, self.coarser = scale, self.latest
        self.latest, coarser = logits, self.coarser
        if coarser is None or not self.strengths[scale]:
            return logits
        prior = prior_matrix(self.schedule[scale - 1], self.schedule[scale], logits.device)
        return spatially_guided(logits, coarser, prior, self.strengths[scale])
