"""Multi-scale residual quantiser with a codebook: a feature map <-> a pyramid of codebook indices.

Shapes: B batch, C latent channels, V codebook entries, (h, w) the final grid, (h_k, w_k) scale k's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nextscale.pyramid import ScaleSchedule, TokenPyramid
from nextscale.runtime import exact_float32
from nextscale.tokenizer.residual import Quantizer, accumulate, downsample

DISTANCE_BYTES = 8 * 2**20
"""Largest part of the distance table (N, V) that is computed at once: it should stay in cache."""


def nearest_codes(vectors: Tensor, codebook: Tensor) -> Tensor:
    """Index of the nearest codebook row by Euclidean distance in float32: (N, C), (V, C) -> (N,) int64."""
    return torch.cat([part.argmin(dim=1) for part in distances_by_part(vectors, codebook)])


def nearest_others(codebook: Tensor, count: int) -> Tensor:
    """Indices of the `count` other rows that are nearest to each codebook row, nearest first: (V, C) -> (V, n) int64.

    n is V - 1 where a codebook has fewer than `count` others. Raises ValueError for a codebook of a single row.
    """
    if len(codebook) < 2:
        raise ValueError("a codebook of a single code has no others to disturb it with")
    codebook, count = codebook.detach(), min(count, len(codebook) - 1)
    found: list[Tensor] = []
    start = 0
    for part in distances_by_part(codebook, codebook):
        part.diagonal(start).fill_(float("inf"))  # of the codes themselves
        found.append(part.topk(count, largest=False).indices)
        start += len(part)
    return torch.cat(found)


def distances_by_part(vectors: Tensor, codebook: Tensor) -> Iterator[Tensor]:
    """Squared distances in float32, less the square of each vector, (N, C), (V, C) -> (N, V), some rows at a time."""
    vectors, codebook = vectors.float(), codebook.float()
    # |z - e|^2 = |z|^2 - 2 z.e + |e|^2; |z|^2 does not change the order, and |e|^2 is one more column of the product.
    table = torch.cat([-2 * codebook, codebook.square().sum(dim=1, keepdim=True)], dim=1)  # (V, C + 1)
    vectors = F.pad(vectors, (0, 1), value=1.0)
    chunk = max(1, DISTANCE_BYTES // (4 * len(codebook)))
    for part in vectors.split(chunk):
        with exact_float32():
            distances = part @ table.t()
        yield distances


def disturb_tokens(
    tokens: Tensor, others: Tensor, share: float | Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Replace a random share of tokens, each by a random one of those in its row of `others` (V, n).

    Tokens (B, L) int64 -> same. `share` in 0..1 is the probability of every token, or (B, 1) of those of each image.
    """
    picks = torch.randint(others.shape[1], tokens.shape, device=tokens.device, generator=generator)
    replaced = torch.rand(tokens.shape, device=tokens.device, generator=generator) < share
    return torch.where(replaced, others[tokens, picks], tokens)


@dataclass(frozen=True)
class Quantized:
    """Result of quantising a batch of feature maps in training."""

    features: Tensor  # (B, C, h, w), f_hat_K or what is shown in its place, with the straight-through gradient of f
    tokens: TokenPyramid
    loss: Tensor  # scalar: mean over scales of beta |sg f_hat_k - f|^2 + |f_hat_k - sg f|^2


class ResidualQuantizer(nn.Module, Quantizer):
    """Codebook and phi convolutions.

    Normalised codes (ViT-VQGAN, section 3.2) are the rows of the codebook at length 1, and the features to quantise are
    expected at length 1 as well (`VQVAE.features` gives them so). The nearest unit code of any vector is that of the
    largest cosine, whatever the vector's length. With one scale and no phi that is ViT-VQGAN's quantiser. With more
    scales the residual of unit vectors is shorter than 1: a token says its direction alone, and phi_k, by which the
    code is added, has to learn how long such residuals are.
    """

    def __init__(
        self,
        schedule: ScaleSchedule,
        *,
        codebook_size: int,
        channels: int,
        phi_map: tuple[int, ...],
        beta: float,
        normalised: bool = False,
    ) -> None:
        super().__init__()
        self.schedule = schedule
        self.phi_map = phi_map
        self.beta = beta
        self.normalised = normalised
        self.codebook = nn.Parameter(torch.empty(codebook_size, channels))
        if normalised:
            nn.init.normal_(self.codebook)
        else:
            nn.init.uniform_(self.codebook, -1 / codebook_size, 1 / codebook_size)
        self.phi = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(max(phi_map) + 1))

    def unit(self, vectors: Tensor) -> Tensor:
        """Vectors (..., C) at length 1 if codes are normalised, else as they are."""
        return F.normalize(vectors, dim=-1) if self.normalised else vectors

    def refine(self, scale: int, upsampled: Tensor) -> Tensor:
        """phi_k(u) = u / 2 + conv(u) / 2, (B, C, h, w) -> same; u itself at a scale without phi."""
        if self.phi_map[scale] < 0:
            return upsampled
        with exact_float32():
            return upsampled * 0.5 + self.phi[self.phi_map[scale]](upsampled) * 0.5

    def lookup(self, tokens: Tensor) -> Tensor:
        """Codebook embeddings of a token map, (B, h_k, w_k) -> (B, C, h_k, w_k)."""
        return self.unit(F.embedding(tokens, self.codebook)).permute(0, 3, 1, 2)

    @property
    def vocabulary(self) -> int:
        return len(self.codebook)

    def codes(self) -> Tensor:
        return self.unit(self.codebook)

    def choose(self, features: Tensor) -> Tensor:
        """Nearest codes of a map, (B, C, h_k, w_k) -> (B, h_k, w_k) int64."""
        batch, channels, height, width = features.shape
        vectors = features.permute(0, 2, 3, 1).reshape(-1, channels)
        return nearest_codes(vectors, self.codes()).view(batch, height, width)

    def zeros(self, batch: int) -> Tensor:
        """The empty accumulation f_hat_0, (batch, C, h, w) float32."""
        return self.codebook.new_zeros(batch, self.codebook.shape[1], *self.schedule.final)

    def forward(self, features: Tensor, shown: Callable[[TokenPyramid], Tensor] | None = None) -> Quantized:
        """Quantise with gradients for training, (B, C, h, w) -> Quantized.

        `shown` gives, from the tokens, a map (B, C, h, w) that takes the place of f_hat_K in what is decoded. Tokens
        and loss do not depend on it. The gradient at that map reaches the features unchanged, as f_hat_K's does.
        """
        with torch.autocast(features.device.type, enabled=False):
            target = features.float()
            maps: list[Tensor] = []
            loss = target.new_zeros(())
            f_hat = target
            for tokens, f_hat in self.encoding(target):
                maps.append(tokens)
                loss = loss + F.mse_loss(f_hat, target.detach()) + self.beta * F.mse_loss(f_hat.detach(), target)
            pyramid = TokenPyramid.from_maps(maps, self.schedule)
            decoded = f_hat if shown is None else shown(pyramid)
            straight_through = target + (decoded - target).detach()
            return Quantized(straight_through, pyramid, loss / len(self.schedule))

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Fill the codebook with residual vectors of (B, C, h, w): each scale gives its share, slightly moved."""
        vectors = torch.cat(self.residual_vectors(features, limit=4096))
        picks = torch.randint(len(vectors), (len(self.codebook),), device=vectors.device)
        jitter = torch.randn_like(self.codebook) * vectors.std() * 0.01
        self.codebook.copy_(self.unit(vectors[picks] + jitter))

    @torch.no_grad()
    def restart(self, dead: Tensor, features: Tensor) -> None:
        """Move the codes in `dead` (V,) bool onto residual vectors of (B, C, h, w)."""
        vectors = torch.cat(self.residual_vectors(features, limit=4096))
        picks = torch.randint(len(vectors), (len(self.codebook),), device=vectors.device)
        self.codebook[dead] = self.unit(vectors[picks][dead])

    def residual_vectors(self, features: Tensor, *, limit: int) -> list[Tensor]:
        """Residual vectors that each scale quantises, up to `limit` random ones (n, C) per scale, from (B, C, h, w).

        Each scale is quantised with random ones of its own vectors as codes, so that the residuals do not depend on
        the present codebook.
        """
        vectors: list[Tensor] = []

        def choose(scale: int, negative_rest: Tensor) -> Tensor:
            small = downsample(-negative_rest, self.schedule[scale]).permute(0, 2, 3, 1)
            rows = small.reshape(-1, small.shape[-1])
            rows = rows[torch.randperm(len(rows), device=rows.device)[:limit]]
            vectors.append(rows)
            codes = self.unit(rows[: max(1, len(self.codebook) // len(self.schedule))])
            nearest = nearest_codes(small.reshape(-1, small.shape[-1]), codes)
            return F.embedding(nearest, codes).view_as(small).permute(0, 3, 1, 2)

        for _ in accumulate(-features, self.schedule, choose, self.refine):
            pass
        return vectors


class CodebookUsage:
    """How often each code is used at each scale, (K, V) int64."""

    def __init__(self, scales: int, codebook_size: int, device: torch.device | str = "cpu") -> None:
        self.counts = torch.zeros(scales, codebook_size, dtype=torch.int64, device=device)

    def add(self, tokens: TokenPyramid) -> None:
        """Count the tokens of a batch."""
        for row, token_map in zip(self.counts, tokens, strict=True):
            used = token_map.flatten()
            row.index_add_(0, used, torch.ones_like(used))  # bincount would wait for the device

    def reset(self) -> None:
        self.counts.zero_()

    def used(self) -> float:
        """Share of the codebook used at any scale, 0..1."""
        return float((self.counts.sum(dim=0) > 0).float().mean())

    def perplexity(self) -> Tensor:
        """exp of the entropy of each scale's code distribution, (K,) in 1..V; 1 where nothing was counted."""
        shares = self.counts.double() / self.counts.sum(dim=1, keepdim=True).clamp_min(1)
        return torch.special.entr(shares).sum(dim=1).exp().float()

    def collapsed(self, best: Tensor) -> list[int]:
        """Scales whose perplexity is below 2 or below a quarter of the best so far; `best` (K,) is updated.

        Scales with fewer than 100 counted codes are left out.
        """
        perplexity = self.perplexity().to(best)
        low = (perplexity < 2) | (perplexity < best / 4)
        best.copy_(torch.maximum(best, perplexity))
        return (low & (self.counts.sum(dim=1) >= 100).to(low.device)).nonzero().flatten().tolist()

    def summary(self) -> dict[str, Tensor]:
        """`used` (scalar), `used_per_scale` and `perplexity` (K,)."""
        per_scale = (self.counts > 0).float().mean(dim=1)
        return {"used": torch.tensor(self.used()), "used_per_scale": per_scale, "perplexity": self.perplexity()}
